"""Checkpoints of a training run: small files, written whole or not at all, verified when they are read.

A run's folder holds one folder a checkpoint, `step-000123/`, with `index.json` (progress, and the SHA-256 of every
file) and shards of at most 15 MiB in safetensors. It is written under a temporary name and then renamed, so that a
killed run leaves the checkpoint before it. Parameters and their moving average are stored in float16, and the
optimiser's state is not: it is as large again twice over, and a hundred warm-up steps rebuild it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldplay_env.weights.files import CheckpointError

SHARD_BYTES = 15 * 2**20


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it was read.

    Attributes:
        step: Optimiser steps made so far.
        seconds: Time spent on them.
        tensors: Float32, by the names that they were saved under.
        notes: What the stage wrote beside them.
    """

    step: int
    seconds: float
    tensors: dict[str, Tensor]
    notes: dict[str, object]


def save(
    folder: Path, step: int, seconds: float, tensors: Mapping[str, Tensor], notes: Mapping[str, object] | None = None
) -> Path:
    """Write a checkpoint of a run, remove the older ones, and return the new one's folder."""
    path = folder / f"step-{step:06d}"
    temporary = folder / f".{path.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    hashes = {}
    for number, shard in enumerate(_shards(tensors)):
        file = temporary / f"tensors-{number:02d}.safetensors"
        save_file(shard, file)
        hashes[file.name] = _sha256(file)
    index = {"step": step, "seconds": seconds, "notes": dict(notes or {}), "sha256": hashes}
    (temporary / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
    for older in _checkpoints(folder)[:-1]:
        shutil.rmtree(older)
    return path


def latest(folder: Path) -> Saved | None:
    """Read the newest checkpoint of a run; None if it has none.

    Raises:
        CheckpointError: A file is missing or its content is not what was written; the message names it.
    """
    paths = _checkpoints(folder)
    return read(paths[-1]) if paths else None


def read(path: Path) -> Saved:
    """Read one checkpoint, a folder that `save` returned; raises what `latest` raises."""
    index_file = path / "index.json"
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        step, seconds, notes, hashes = (index[key] for key in ("step", "seconds", "notes", "sha256"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index_file}: missing or damaged ({error}); {_remedy(path)}") from error
    tensors: dict[str, Tensor] = {}
    for name, expected in hashes.items():
        file = path / name
        if not file.exists():
            raise CheckpointError(f"{file}: missing; {_remedy(path)}")
        if _sha256(file) != expected:
            raise CheckpointError(f"{file}: damaged (its SHA-256 is not the one in index.json); {_remedy(path)}")
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file}: damaged ({error}); {_remedy(path)}") from error
    return Saved(step, seconds, {name: tensor.float() for name, tensor in tensors.items()}, notes)


def _remedy(path: Path) -> str:
    return f"restore it, or remove {path} to start this stage anew"


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors in float16 on the CPU, in groups of at most `SHARD_BYTES` (a larger tensor goes alone)."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        half = tensor.detach().to("cpu", torch.float16).contiguous()
        if shard and size + half.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = half
        size += half.nbytes
    yield shard


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
