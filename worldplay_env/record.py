"""What a run writes down beside its pictures: files that are whole or not there, and the versions it ran with."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import worldplay_env

if TYPE_CHECKING:
    import torch

    from worldplay_env.world import World


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the path of a file to write beside `path`; it takes that name when the block ends, not if it fails.

    The folder is made if there is none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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

    Raises:
        ValueError: The file is none, or holds a rollout of another world or size.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a safetensors file: {error}") from error
    if metadata.get("world") != world:
        raise ValueError(f"{str(path)!r} holds no rollout of {world!r}, but of {metadata.get('world')!r}")
    if arrays["picture"].shape[:2] != image_size:
        raise ValueError(
            f"{str(path)!r} was saved at {arrays['picture'].shape[:2]} pixels, this world has {image_size}"
        )
    return metadata, arrays


def world_facts(world: World) -> dict[str, Any]:
    """Return which world made a run, and where it ran."""
    return {
        "name": world.name,
        "weights": world.weights,
        "image_size": world.image_size,
        "device": str(world.device),
    }


def device_name(device: torch.device) -> str:
    """Return what a device calls itself, such as "NVIDIA H100 80GB HBM3" or "x86_64, 2 threads"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no plain value: {value!r}")
