"""Named tensors in files: names and shapes first, then the tensors one by one.

Reads safetensors, alone or in shards, and pickles (spec section 9). Pickles that hold more than
tensors and plain containers are refused.
"""

from __future__ import annotations

import functools
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldplay_env.media.files import check_regular
from worldplay_env.weights.entry import CheckpointError, Entry
from worldplay_env.weights.layouts import arranged, strip_prefixes, tensors_of

__all__ = [
    "CheckpointError",
    "Entry",
    "Source",
    "opened",
    "read_json",
    "refuse_pointer",
    "strip_prefixes",
    "weight_files",
]

Source = str | Path | Sequence[str | Path] | Mapping[str, Tensor]
"""Where named tensors are: a .safetensors, .pt or .pth file, a .safetensors.index.json, a folder with exactly one of
these or one set of shards, several files that complete each other, or a mapping."""

_SHARD_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def opened(source: Source, device: torch.device) -> Iterator[dict[str, Entry]]:
    """Open a source of any known layout (`layouts`): `{name as loaded here: entry}`, readable until the context ends.

    Args:
        source: Where the tensors are.
        device: Where they will be wanted; safetensors are read straight to it.

    Raises:
        CheckpointError: A file is missing or damaged, or two tensors have one name; the message names the file.
    """
    with ExitStack() as files:
        yield arranged(_entries(source, device, files))


def weight_files(path: str | Path) -> list[Path]:
    """Return the files of tensors that a file, an index of shards or a folder stands for.

    Raises:
        CheckpointError: Something is missing, is a pointer to a file that git-LFS did not fetch, or a folder has
            several that could be meant.
    """
    path = Path(path)
    if path.is_dir():
        return _weight_files_in(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if path.name.endswith(_SHARD_INDEX):
        return _shards(path)
    if path.suffix not in (".safetensors", *_PICKLES):
        raise CheckpointError(f"{path}: expected a .safetensors, .pt or .pth file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no regular file")
    refuse_pointer(path)
    return [path]


def _weight_files_in(folder: Path) -> list[Path]:
    for pattern in ("*" + _SHARD_INDEX, "*.safetensors", *("*" + suffix for suffix in _PICKLES)):
        found = sorted(folder.glob(pattern))
        if found and all(_SHARD.fullmatch(file.name) for file in found):
            return _whole_set(folder, found)
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise CheckpointError(f"{folder}: several files could be meant, name one: {names}")
        if found:
            return weight_files(found[0])
    raise CheckpointError(f"{folder}: no weights there; expected a .safetensors, .pt or .pth file")


def _whole_set(folder: Path, found: list[Path]) -> list[Path]:
    """Return the shards of a checkpoint without an index, if their numbered names are complete."""
    sets = {(match["stem"], int(match["count"])) for file in found if (match := _SHARD.fullmatch(file.name))}
    if len(sets) > 1:
        names = ", ".join(f"{stem} of {count}" for stem, count in sorted(sets))
        raise CheckpointError(f"{folder}: several sets of shards could be meant: {names}")
    [(stem, count)] = sets
    wanted = [folder / f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if missing := [file.name for file in wanted if file not in found]:
        raise CheckpointError(f"{folder}: of {count} shards these are not there: {', '.join(missing)}")
    return [file for shard in wanted for file in weight_files(shard)]


def refuse_pointer(path: Path) -> None:
    """Raise CheckpointError if a file is a git-LFS pointer in place of the content."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                f"{path}: a git-LFS pointer, not the file that it stands for. Fetch that with `git lfs pull` in the "
                "repository that the folder was cloned from, or download the file itself"
            )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: There is none.
    """
    try:
        check_regular(path)
        refuse_pointer(path)
        values = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
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
    return [file for shard in shards for file in weight_files(shard)]


def _entries(source: Source, device: torch.device, files: ExitStack) -> Iterator[tuple[str, Entry]]:
    if isinstance(source, Mapping):
        yield from _tensors(source, "the given mapping")
        return
    for part in [source] if isinstance(source, str | Path) else source:
        for path in weight_files(part):
            yield from _pickled(path) if path.suffix in _PICKLES else _safetensors(path, device, files)


def _tensors(tensors: Mapping[str, Any], place: str) -> Iterator[tuple[str, Entry]]:
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{place}: expected tensors by name, found {name!r}: {type(tensor).__name__}")
        yield name, Entry(place, tuple(tensor.shape), str(tensor.dtype), tensor.detach)


def _safetensors(path: Path, device: torch.device, files: ExitStack) -> Iterator[tuple[str, Entry]]:
    try:
        file = files.enter_context(safe_open(path, framework="pt", device=str(device)))
        names = file.keys()
        slices = {name: file.get_slice(name) for name in names}
        kinds = {name: (tuple(slice.get_shape()), slice.get_dtype()) for name, slice in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged, incomplete or no safetensors file: {error}") from error
    for name, (shape, dtype) in kinds.items():
        yield name, Entry(str(path), shape, dtype, functools.partial(file.get_tensor, name))


def _pickled(path: Path) -> Iterator[tuple[str, Entry]]:
    try:
        # Files of torch before 1.6 cannot be mapped.
        container = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged bytes can break an unpickler in any way
        raise CheckpointError(
            f"{path}: damaged, incomplete, or holding more than tensors, which could run code: {error}"
        ) from error
    yield from _tensors(tensors_of(container, str(path)), str(path))
