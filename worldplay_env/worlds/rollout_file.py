"""Rollouts as safetensors files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass
from worldplay_env.media.files import check_regular, replacing

_WHOLE = re.compile(r"[0-9]{1,40}")


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
