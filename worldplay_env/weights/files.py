"""Named tensors in files: what is there and of which shape is known before anything is read; then one by one.

Reads safetensors, alone or in shards with an index, and the pickles of distilled checkpoints (spec section 9). No
pickle is ever read that holds more than tensors and plain containers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Source = str | Path | Sequence[str | Path] | Mapping[str, Tensor]
"""Where named tensors are: a .safetensors or .pt file, a .safetensors.index.json, a folder with exactly one of these,
several files that complete each other, or a mapping."""

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_SHARD_INDEX = ".safetensors.index.json"


class CheckpointError(ValueError):
    """Weights that cannot be used: a damaged or missing file, or tensors that are not those of the module."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a source, not read yet.

    Attributes:
        place: The file that it is in, for messages.
        shape: Its shape.
        get: Reads it.
    """

    place: str
    shape: tuple[int, ...]
    get: Callable[[], Tensor]

    def read(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the tensor in memory of its own, on that device and of that dtype.

        Raises:
            CheckpointError: It does not hold floating point numbers, or cannot be read.
        """
        try:
            tensor = self.get()
        except (SafetensorError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{self.place}: a tensor could not be read: {error}") from error
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(f"{self.place}: tensors must be floating point numbers, found {tensor.dtype}")
        # A tensor on the CPU is a view of the file or of the caller's memory, which may change under us.
        return tensor.to(device, dtype, copy=tensor.device.type == "cpu")


@contextmanager
def opened(source: Source, device: torch.device) -> Iterator[dict[str, Entry]]:
    """Open a source: `{name without the wrappers' prefixes: entry}`, readable until the context ends.

    Args:
        source: Where the tensors are.
        device: Where they will be wanted; safetensors are read straight to it.

    Raises:
        CheckpointError: A file is missing or damaged, or two tensors have one name; the message names the file.
    """
    entries: dict[str, Entry] = {}
    with ExitStack() as files:
        for raw_name, entry in _entries(source, device, files):
            name = strip_prefixes(raw_name)
            if name in entries:
                raise CheckpointError(f"tensor {name!r} is there twice: {entries[name].place}, {entry.place}")
            entries[name] = entry
        yield entries


def strip_prefixes(name: str) -> str:
    """Remove training wrappers' prefixes from a tensor's name: everywhere in it, if it starts with one (spec 9)."""
    for prefix in ("model.", "_fsdp_wrapped_module."):
        if name.startswith(prefix):
            name = name.replace(prefix, "")
    return name


def weight_files(path: str | Path) -> list[Path]:
    """Return the files of tensors that a file, an index of shards or a folder stands for.

    Raises:
        CheckpointError: Something is missing, or a folder has several that could be meant.
    """
    path = Path(path)
    if path.is_dir():
        for pattern in ("*" + _SHARD_INDEX, "*.safetensors", "*.pt"):
            if found := sorted(path.glob(pattern)):
                if len(found) > 1:
                    names = ", ".join(file.name for file in found)
                    raise CheckpointError(f"{path}: several files could be meant, name one: {names}")
                return weight_files(found[0])
        raise CheckpointError(f"{path}: no weights there; expected a .safetensors or .pt file")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if path.name.endswith(_SHARD_INDEX):
        return _shards(path)
    if path.suffix not in (".safetensors", ".pt"):
        raise CheckpointError(f"{path}: expected a .safetensors or .pt file")
    return [path]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: There is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _shards(index: Path) -> list[Path]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in placed.values()
    ):
        raise CheckpointError(f"{index}: expected a `weight_map` from tensors to files beside it")
    shards = [index.parent / name for name in sorted(set(placed.values()))]
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise CheckpointError(f"{index}: it lists files that are not there: {', '.join(missing)}")
    return shards


def _entries(source: Source, device: torch.device, files: ExitStack) -> Iterator[tuple[str, Entry]]:
    if isinstance(source, Mapping):
        yield from _tensors(source, "the given mapping")
        return
    for part in [source] if isinstance(source, str | Path) else source:
        for path in weight_files(part):
            yield from _pickled(path) if path.suffix == ".pt" else _safetensors(path, device, files)


def _tensors(tensors: Mapping[str, Any], place: str) -> Iterator[tuple[str, Entry]]:
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{place}: expected tensors by name, found {name!r}: {type(tensor).__name__}")
        yield name, Entry(place, tuple(tensor.shape), tensor.detach)


def _safetensors(path: Path, device: torch.device, files: ExitStack) -> Iterator[tuple[str, Entry]]:
    try:
        file = files.enter_context(safe_open(path, framework="pt", device=str(device)))
        names = file.keys()
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged, incomplete or no safetensors file: {error}") from error
    for name, shape in shapes.items():
        yield name, Entry(str(path), shape, functools.partial(file.get_tensor, name))


def _pickled(path: Path) -> Iterator[tuple[str, Entry]]:
    try:
        container = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged bytes can break an unpickler in any way
        raise CheckpointError(
            f"{path}: damaged, incomplete, or holding more than tensors, which could run code: {error}"
        ) from error
    keys = ("generator", "generator_ema")
    found = list(container) if isinstance(container, dict) else type(container).__name__
    state = next((container[key] for key in keys if key in found), None)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected tensors under one of the keys {keys}, found {str(found)[:200]}")
    yield from _tensors(state, str(path))
