"""Where a camera may be: clear of every solid, and within the scene's bounds."""

from __future__ import annotations

import numpy as np

MARGIN = 0.12
"""How close a camera may come to a solid, in units: more than one motion, so that none can be passed through."""


def is_free(solids: np.ndarray, bounds: np.ndarray, positions: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """Return whether a camera may be at each of N positions: bool [N].

    Args:
        solids: [N or 1, solids, 8] boxes, or ellipsoids by their enclosing boxes (`Scene.boxes`).
        bounds: [N or 1, 2, 3] the corners of the box that cameras are kept in.
        positions: [N, 3] in the scene's coordinates.
        margin: What is added to every solid on all sides.
    """
    offset = positions[:, None] - solids[..., :3]  # [N, solids, 3]
    cosine, sine = solids[..., 6], solids[..., 7]
    x = cosine * offset[..., 0] - sine * offset[..., 2]
    z = sine * offset[..., 0] + cosine * offset[..., 2]
    half = solids[..., 3:6] + margin
    inside = (np.abs(x) < half[..., 0]) & (np.abs(offset[..., 1]) < half[..., 1]) & (np.abs(z) < half[..., 2])
    within = ((positions > bounds[:, 0]) & (positions < bounds[:, 1])).all(1)
    return within & ~inside.any(1)
