"""Chunks of frames in observation spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


def chunk_space(space: spaces.Space[Any]) -> spaces.Box | None:
    """Return the part of a space that holds a chunk's frames, (frames, H, W, 3) or (frames, 3, H, W), else None."""
    part = space.spaces.get("observation") if isinstance(space, spaces.Dict) else space
    if not isinstance(part, spaces.Box) or part.dtype != np.uint8 or len(part.shape) != 4:
        return None
    return part if 3 in (part.shape[1], part.shape[3]) else None


def shows_every_frame(images: int, *observation_spaces: spaces.Space[Any]) -> bool:
    """Return whether all spaces, of an env and of its wrappers, hold whole chunks of so many images."""
    chunks = [chunk_space(space) for space in observation_spaces]
    return all(chunk is not None and chunk.shape[0] == images for chunk in chunks)
