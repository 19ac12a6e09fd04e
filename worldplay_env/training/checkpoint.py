"""Checkpoints of a training run: small files, written whole or not at all, verified when they are read.

A run's folder holds the newest checkpoint as `step-000123/`:

    index.json                    progress, what the stage noted, and the SHA-256 of every file
    model-00.safetensors, ...     the parameters, which only resuming this run needs
    optimiser-00.safetensors, ... its momenta, likewise
    averages-00.safetensors, ...  their moving averages: all that a later stage and the export read

So a later stage can run where `index.json` and the averages are, without the other files. No file is larger than
16 MiB. A checkpoint is written under a temporary name and then renamed, so that a killed run leaves the one before
it; one of the same step is set aside as `replaced-000123/` meanwhile. Tensors are stored as they are, so that a run
goes on exactly where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldplay_env.weights.files import CheckpointError

SHARD_BYTES = 63 * 2**18
"""Most tensor bytes in a file: 15.75 MiB, which leaves room for its header."""

_CRITIC = "critic."
_TEMPORARY = ".step-"
_ABANDONED = 3600.0
"""Seconds after which a checkpoint that is not complete is taken for one that never will be."""

Group = Literal["model", "optimiser", "averages"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it was read.

    Attributes:
        path: Its folder.
        step: Optimiser steps made so far.
        seconds: Time spent on them.
        notes: What the stage wrote beside the tensors.
        model: Parameters, float32, by name; empty if only the averages were asked for.
        optimiser: What `Optimiser.state` returned, likewise.
        averages: The parameters' moving averages, float32, by name.
    """

    path: Path
    step: int
    seconds: float
    notes: dict[str, Any]
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    averages: dict[str, Tensor]


def save(
    folder: Path,
    step: int,
    seconds: float,
    model: Mapping[str, Tensor],
    averages: Mapping[str, Tensor],
    notes: Mapping[str, Any] | None = None,
    optimiser: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint of a run, remove the older ones, and return the new one's folder."""
    path = folder / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_TEMPORARY}*"):  # by a killed run
        if time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder))
    temporary.chmod(folder.stat().st_mode)
    hashes: dict[str, str] = {}
    for group, tensors in zip(GROUPS, (model, optimiser or {}, averages), strict=True):
        for number, shard in enumerate(_shards(tensors)):
            file = temporary / f"{group}-{number:02d}.safetensors"
            save_file(shard, file)
            hashes[file.name] = _sha256(file)
    index = {"step": step, "seconds": seconds, "notes": dict(notes or {}), "sha256": hashes}
    (temporary / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    if path.exists():
        aside = folder / f"replaced-{step:06d}"
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    temporary.rename(path)
    for older in _checkpoints(folder)[:-1]:
        shutil.rmtree(older)
    return path


def exists(folder: Path) -> bool:
    """Return whether a run has a checkpoint to go on from."""
    return bool(_checkpoints(folder))


def latest(folder: Path) -> Saved | None:
    """Read the newest checkpoint of a run, all of it; None if it has none.

    Raises:
        CheckpointError: A file is missing or its content is not what was written; the message names it.
    """
    paths = _checkpoints(folder)
    return _read(paths[-1], GROUPS) if paths else None


def averages(folder: Path) -> Saved:
    """Read what a later stage needs of a run's newest checkpoint: its averages and notes.

    Raises:
        CheckpointError: There is no checkpoint, or as in `latest`; files of the model are not looked at.
    """
    paths = _checkpoints(folder)
    if not paths:
        raise CheckpointError(f"{folder}: no checkpoint of a run there; train that stage first, or copy its folder")
    return _read(paths[-1], ("averages",))


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's tensors to a module's parameters.

    Raises:
        CheckpointError: They are not those of this module, or of other sizes; nothing was changed.
    """
    parameters = dict(module.named_parameters())
    wrong = {
        name
        for name in parameters.keys() | tensors.keys()
        if name not in parameters or name not in tensors or parameters[name].shape != tensors[name].shape
    }
    if wrong:
        raise CheckpointError(
            f"the checkpoint is not one of this {type(module).__name__}: {', '.join(sorted(wrong)[:4])} differ; "
            "use another folder, or the sizes that it was trained with"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def without_critic(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of networks without those of the critic that may have been trained with them."""
    return {name: value for name, value in tensors.items() if not name.startswith(_CRITIC)}


def fill_networks(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's tensors to a module's parameters; those of a critic, which judges anew, stay as they are.

    Raises:
        CheckpointError: As in `fill`.
    """
    own = {name: value for name, value in module.named_parameters() if name.startswith(_CRITIC)}
    fill(module, without_critic(tensors) | own)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(path: Path, groups: tuple[Group, ...]) -> Saved:
    index_file = path / "index.json"
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        step, seconds, notes, hashes = (index[key] for key in ("step", "seconds", "notes", "sha256"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index_file}: missing or damaged ({error}); {_remedy(path)}") from error
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    for name, expected in hashes.items():
        group = name.partition("-")[0]
        if group in groups:
            tensors[group] |= _read_shard(path / name, expected)
    return Saved(path, step, seconds, notes, **tensors)


def _read_shard(file: Path, expected: str) -> dict[str, Tensor]:
    if not file.exists():
        raise CheckpointError(f"{file}: missing; {_remedy(file.parent)}")
    if _sha256(file) != expected:
        raise CheckpointError(f"{file}: damaged (its SHA-256 is not the one in index.json); {_remedy(file.parent)}")
    try:
        return dict(load_file(file))
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged ({error}); {_remedy(file.parent)}") from error


def _remedy(path: Path) -> str:
    return f"restore it, or remove {path} to start this stage anew"


def _checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first: one that was set aside, then the others by their steps."""
    aside = sorted(path for path in folder.glob("replaced-*") if path.is_dir())
    own = (path for path in folder.glob("step-*") if path.is_dir())
    return aside + sorted(own, key=lambda path: int(path.name.removeprefix("step-")))


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors on the CPU, in groups of at most `SHARD_BYTES` (a larger tensor goes alone)."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if shard and size + value.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = value
        size += value.nbytes
    if shard:
        yield shard


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
