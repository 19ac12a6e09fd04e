"""What a run writes down beside its pictures: files that are whole or not there, and the versions it ran with."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import worldplay_env

if TYPE_CHECKING:
    import torch

    from worldplay_env.world import World


_WHOLE = re.compile(r"[0-9]{1,40}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the path of a file to write beside `path`; it takes that name when the block ends, not if it fails.

    The folder is made if there is none. Of several writers of one path the last to end has its whole file there.
    """
    path = Path(path)
    partial = new_file(path)
    mode = stat.S_IMODE(partial.stat().st_mode)
    try:
        yield partial
        partial.chmod(mode)  # some libraries put a file of their own in its place, readable by its owner alone
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def new_file(path: str | Path) -> Path:
    """Make an empty file beside `path`, under a name like `STEM.0123abcd.partial.SUFFIX` that was free; return it.

    The folder is made if there is none.

    Raises:
        OSError: The file cannot be made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return partial


def check_regular(path: str | Path) -> None:
    """Raise ValueError if what is at `path` is no regular file: to open a pipe would wait for ever."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: no regular file")


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write an object of plain values, paths and numpy arrays as JSON; an older file stays until it is complete."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2, default=_plain) + "\n", encoding="utf-8")


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions of what a run's numbers depend on, and the name of the device."""
    import torch

    return {
        "worldplay_env": worldplay_env.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device_name(device),
    }


def write_rollout(path: str | Path, facts: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a rollout of a world without a model, whole or not at all, for `read_rollout`; facts include "world"."""
    from safetensors.numpy import save_file

    with replacing(path) as partial:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, partial, metadata={name: str(fact) for name, fact in facts.items()})


def read_rollout(
    path: str | Path, world: str, image_size: tuple[int, int]
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read a saved rollout of a world without a model: its metadata, and its arrays, of which `picture` is one.

    What all such rollouts hold is checked: a prompt, `seed` and `chunks` of 0 or more, and finite arrays.

    Raises:
        ValueError: The file is none, holds a rollout of another world or size, or one that cannot be.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a safetensors file: {error}") from error
    if metadata.get("world") != world:
        raise ValueError(f"{str(path)!r} holds no rollout of {world!r}, but of {metadata.get('world')!r}")
    numbers = [metadata.get(name, "") for name in ("seed", "chunks")]
    picture = arrays.get("picture")
    if "prompt" not in metadata or picture is None or not all(map(_WHOLE.fullmatch, numbers)):
        raise ValueError(f"{str(path)!r} lacks a prompt, a picture, a seed or a number of chunks")
    if picture.shape[:2] != image_size:
        raise ValueError(f"{str(path)!r} was saved at {picture.shape[:2]} pixels, this world has {image_size}")
    if picture.shape != (*image_size, 3) or picture.dtype != np.uint8:
        raise ValueError(f"{str(path)!r} holds no picture, but {picture.dtype} {picture.shape}")
    if broken := [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]:
        raise ValueError(f"{str(path)!r} holds numbers that are not finite: {', '.join(broken)}")
    return metadata, arrays


def check_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> None:
    """Raise ValueError unless a file's arrays have exactly the names and dtypes given."""
    found = {name: array.dtype.name for name, array in arrays.items()}
    if found != dict(dtypes):
        raise ValueError(f"{str(path)!r} holds {found}, not {dict(dtypes)}")


def world_facts(world: World) -> dict[str, Any]:
    """Return which world made a run, and where it ran."""
    return {
        "name": world.name,
        "weights": world.weights,
        "image_size": world.image_size,
        "device": str(world.device),
    }


def device_name(device: torch.device) -> str:
    """Return what a device calls itself, such as "NVIDIA H100 80GB HBM3" or "AMD EPYC 9354, 2 threads"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """Return what the CPU calls itself, where the system tells; else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), platform.processor() or platform.machine())


def load_average() -> float | None:
    """Return how many processes have wanted a core, on average over the last minute; None where none tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no plain value: {value!r}")
