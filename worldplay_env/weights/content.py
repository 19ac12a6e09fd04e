"""Identify weights by a digest of their content, independent of file names and folders."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldplay_env.models.config import WorldConfig

_SETTLED_SECONDS = 2.0
"""A file that was written less than this before it was read may be written again without a new time of change."""

_known: dict[tuple[str, int, int, int, int, int], str] = {}


def hub_blob(path: Path) -> str | None:
    """Return the hash that names a file in the hub's cache; None for other files."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and blob.parents[1].name.startswith("models--") else None


def file_sha256(path: Path, *, trust_name: bool = True) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    It is read once for as long as its size, inode and times stay what they were: 1 to 2 GB a second.

    Args:
        path: The file.
        trust_name: Take the word of the hub's cache for its files, which are named by it and checked when they are
            downloaded; no file of the cache is ever written again.
    """
    if trust_name and re.fullmatch(r"[0-9a-f]{64}", name := hub_blob(path) or ""):
        return name
    # Taken before reading: of a file that changes meanwhile, the digest belongs to no later state.
    state, now = path.stat(), time.time()
    key = (str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if key not in _known:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if now - max(state.st_mtime, state.st_ctime) < _SETTLED_SECONDS:
            return digest
        _known[key] = digest
    return _known[key]


def remembered(paths: Iterable[Path]) -> Callable[[], bool]:
    """Return a function that checks that files still have their present content."""
    known = {path: file_sha256(path) for path in paths}

    def unchanged() -> bool:
        return all(path.is_file() and file_sha256(path) == digest for path, digest in known.items())

    return unchanged


def files_hash(config: WorldConfig, parts: Mapping[str, Iterable[Path]]) -> str:
    """Return the digest of a world's configuration and files, in hexadecimal (64 characters).

    Args:
        config: Its sizes.
        parts: The files of each part; their order counts, their names do not.
    """
    listed = [(part, path) for part, paths in parts.items() for path in paths]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(file_sha256, [path for _, path in listed]))
    return _digest(config, [[part, digest] for (part, _), digest in zip(listed, digests, strict=True)])


@torch.no_grad()
def parameters_hash(config: WorldConfig, *networks: nn.Module) -> str:
    """Return the digest of a configuration and of networks' parameters, as they are at this moment.

    They count rounded to bfloat16, so that a world is the same in every dtype and on every device.
    """
    digest = hashlib.sha256()
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(json.dumps([name, list(tensor.shape)]).encode())
            digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().data)
    return _digest(config, ["parameters", digest.hexdigest()])


def _digest(config: WorldConfig, content: list[Any]) -> str:
    return hashlib.sha256(json.dumps([asdict(config), content]).encode()).hexdigest()
