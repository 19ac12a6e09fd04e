"""Which past latent frames the next chunk sees: the latest, and the clip that sees most of what is to come.

Overlap is measured with sample points (spec section 8). They are fixed in the current camera's own axes, so
those inside its field of view are the same for every camera, and only they are kept; a historical camera is
brought into the same axes and tested against all of them at once. No angle of a point is ever computed: a
field of view lies between two vertical half-planes (azimuth), between two cones around the vertical
(elevation) and inside a sphere (distance), each of which has a signed distance.

A signed distance changes by no more than the point moves, so the same test also rules out a whole ball of
points whose centre is further outside than its radius. This gives exact upper bounds at little cost, and only
clips that can still win are counted point by point: the choice is always the one that testing every point of
every clip would make.

Everything is float64 numpy on the CPU: the choice does not depend on the device that the model runs on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

MEMORY = 16
"""Latent frames that a chunk sees, once there are as many."""
RECENT = 12
"""The latest of them; a clip fills the rest."""
CLIP = 4
"""Latent frames in a clip, which starts at a multiple of it, and in the chunk to come."""
COMPARED = (0, 2)
"""The frames of a clip that are compared with the views to come."""

RADIUS = 8.0
"""How far a historical camera sees, in units; sample points fill a ball of this radius."""
HALF_WIDTH = np.radians(60.0) / 2
"""Half of the field of view in azimuth, in radians."""
HALF_HEIGHT = np.radians(35.0) / 2
"""Half of the field of view in elevation, in radians."""

DEFAULT_COUNT = 768
"""Points of the default sample, all inside the field of view (of 50,000 in the ball, some 2,500 are)."""
_SPLITS = (3, 3)
"""Halvings from one level of cells to the next finer one: 8 cells, 64 cells, points."""
_BLOCK = 1 << 14
"""Pairs of a view and a cell that are tested at once."""
_ROUNDING = 1e-9
"""Added to the radii of cells, so that rounding never makes an upper bound too low."""


@dataclass(frozen=True)
class _Cells:
    """Sample points gathered into balls; as the finest level, the points themselves (radius 0, count 1).

    Attributes:
        centres: float64 [3, cells], in the axes of the current camera.
        radii: float64 [cells].
        counts: float64 [cells], how many points each holds (floats multiply faster).
    """

    centres: np.ndarray
    radii: np.ndarray
    counts: np.ndarray


def select(w2c: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
    """Return the past latent frames that the next chunk sees (spec section 8).

    Args:
        w2c: float [s + 4, 4, 4], world-to-camera matrices of the s latent frames so far (s a multiple of 4)
            and of the four to come; only motions between them matter.
        points: float [P, 3], a sample of the ball of radius 8 around the current camera, in its axes (x right,
            y down, z forward); by default a fixed one, the same for every rollout.

    Returns:
        int64 [min(s, 16)] sorted indices: all s of them if fewer than 16; else the latest 12 and the clip of 4 that
        overlaps most with the views to come, the earliest if several do.

    Raises:
        ValueError: The shape of an argument is another, or a number in it is not finite.
    """
    w2c = _finite(w2c, "w2c", (4, 4))
    start = len(w2c) - CLIP
    if w2c.ndim != 3 or start < 0 or start % CLIP:
        raise ValueError(
            f"w2c must hold the latent frames so far, a multiple of {CLIP}, and the {CLIP} to come: "
            f"[s + {CLIP}, 4, 4]; got shape {w2c.shape}"
        )
    levels = _default_levels() if points is None else _levels(_visible(points))
    if start < MEMORY:
        return np.arange(start)
    clips = w2c[: start - RECENT].reshape(-1, CLIP, 4, 4)[:, COMPARED, None]  # [clips, 2, 1, 4, 4]
    views = _relative_views(w2c[start:], clips).reshape(9, len(clips), -1)  # [9, clips, 8 pairs]
    clip = CLIP * _most_seen(views, levels)
    return np.concatenate([np.arange(clip, clip + CLIP), np.arange(start - RECENT, start)])


def latest(w2c: np.ndarray) -> np.ndarray:
    """Return the newest 16 past latent frames, all while there are fewer: `select` without looking at overlap."""
    start = len(w2c) - CLIP
    return np.arange(max(0, start - MEMORY), start)


def overlap(current: np.ndarray, history: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
    """Return how much of what the current camera sees historical ones see too (spec section 8); not symmetric.

    Args:
        current: float [..., 4, 4] world-to-camera matrices.
        history: float [..., 4, 4] world-to-camera matrices; the leading axes broadcast.
        points: As for `select`.

    Returns:
        float64 [...] shares 0..1 of the sample points inside the current field of view; 0 if there are none.

    Raises:
        ValueError: The shape of an argument is another, or a number in it is not finite.
    """
    visible = _default_levels()[-1] if points is None else _points_as_cells(_visible(points))
    views = _relative_views(_finite(current, "current", (4, 4)), _finite(history, "history", (4, 4)))
    return _seen(views, visible) / max(len(visible.radii), 1)


def _most_seen(views: np.ndarray, levels: tuple[_Cells, ...]) -> int:
    """Return the clip that sees the most points; views [9, clips, pairs], levels from coarse to fine.

    Clips are taken from the highest upper bound to the lowest, in batches that double, and leave their batch
    as soon as a finer bound puts them behind the best so far. A clip's rank is its number of points, then its
    earliness: no two are equal, so there are no ties to break.
    """
    clips = views.shape[1]
    if clips == 1:
        return 0

    def ranks(chosen: np.ndarray, level: _Cells) -> np.ndarray:
        most = _seen(views[:, chosen], level).sum(1).astype(np.int64)
        return most * clips + (clips - 1 - chosen)

    coarse, *finer = levels
    bounds = ranks(np.arange(clips), coarse)
    order = np.argsort(-bounds)
    best, done, size = -1, 0, 4
    while done < clips and bounds[order[done]] > best:
        batch = order[done : done + size]
        rank = bounds[batch]
        for level in finer:
            batch = batch[rank > best]
            rank = ranks(batch, level)
        best = max(best, int(rank.max(initial=-1)))
        done, size = done + size, min(2 * size, 64)
    return clips - 1 - best % clips


def _relative_views(current: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Return what `_inside` needs of historical cameras: float64 [9, ...], in the current camera's axes.

    Position x, y, z; sine and cosine of the azimuth of the forward axis, and of the least and the greatest
    elevation seen. Roll does not count: every field of view is upright in the current camera's axes.
    """
    rotation = current[..., :3, :3]
    centre = -np.swapaxes(history[..., :3, :3], -1, -2) @ history[..., :3, 3:]  # [..., 3, 1]
    position = (rotation @ centre)[..., 0] + current[..., :3, 3]
    x, y, z = np.moveaxis((rotation @ history[..., 2, :3, None])[..., 0], -1, 0)  # the forward axis
    level = np.hypot(x, z)
    upright = level == 0  # has azimuth 0, as atan2(0, 0) has
    sin_yaw = np.where(upright, 0.0, x / np.where(upright, 1.0, level))
    cos_yaw = np.where(upright, 1.0, z / np.where(upright, 1.0, level))
    sin_half, cos_half = np.sin(HALF_HEIGHT), np.cos(HALF_HEIGHT)
    # Past the vertical is fine: a point that the one cone then lets through wrongly, the other keeps out.
    bottom = (y * cos_half - level * sin_half, level * cos_half + y * sin_half)
    top = (y * cos_half + level * sin_half, level * cos_half - y * sin_half)
    return np.stack([*np.moveaxis(position, -1, 0), sin_yaw, cos_yaw, *bottom, *top])


def _seen(views: np.ndarray, cells: _Cells) -> np.ndarray:
    """Return how many points the views [9, ...] see at most, which for cells of radius 0 is how many they see: [...].

    The work goes through the processor's cache in blocks; at once, it would be three times slower.
    """
    flat = views.reshape(9, -1)
    block = max(1, _BLOCK // max(len(cells.radii), 1))
    seen = [_inside(flat[:, first : first + block], cells) @ cells.counts for first in range(0, flat.shape[1], block)]
    return np.concatenate([np.zeros(0), *seen]).reshape(views.shape[1:])


def _inside(views: np.ndarray, cells: _Cells) -> np.ndarray:
    """Return whether views [9, N] may see any point of each cell: bool [N, cells].

    For a point that is `ahead` of the camera and `beside` it, `level` away in the horizontal plane and y below, the
    signed distances are sin(half) ahead -+ cos(half) beside from the half-planes that bound the azimuth, and
    cos(e) y - sin(e) level from the cone of elevation e. A point on the vertical through the camera, where it has no
    azimuth, is not seen.
    """
    x, y, z, sin_yaw, cos_yaw, sin_bottom, cos_bottom, sin_top, cos_top = views[..., None]
    x, y, z = cells.centres[0] - x, cells.centres[1] - y, cells.centres[2] - z
    ahead, beside = x * sin_yaw + z * cos_yaw, x * cos_yaw - z * sin_yaw
    level_squared = x * x + z * z
    level = np.sqrt(level_squared)
    inside = level_squared + y * y < (RADIUS + cells.radii) ** 2
    inside &= np.sin(HALF_WIDTH) * ahead + cells.radii > np.cos(HALF_WIDTH) * np.abs(beside)
    inside &= cos_bottom * y + cells.radii > sin_bottom * level
    inside &= sin_top * level + cells.radii > cos_top * y
    return inside


def _visible(points: np.ndarray) -> np.ndarray:
    """Return, of points [P, 3] in the ball, those that the current camera sees, at any distance: [3, P']."""
    points = _finite(points, "points", (3,))
    if points.ndim != 2:
        raise ValueError(f"points must have shape [P, 3], got {points.shape}")
    x, y, z = points.T
    inside = np.sin(HALF_WIDTH) * z > np.cos(HALF_WIDTH) * np.abs(x)
    inside &= np.sin(HALF_HEIGHT) * np.hypot(x, z) > np.cos(HALF_HEIGHT) * np.abs(y)
    return points[inside].T


@cache
def _default_levels() -> tuple[_Cells, ...]:
    """Return the default sample, drawn uniformly by volume inside the current field of view.

    It is the additive recurrence R3 (Roberts 2018): multiples of the powers of 1 / g modulo 1, with g^4 = g + 1.
    """
    g = 1.2207440846057596
    u, v, w = (0.5 + np.outer(g ** -np.arange(1.0, 4), np.arange(DEFAULT_COUNT))) % 1
    azimuth, sine, distance = HALF_WIDTH * (2 * u - 1), np.sin(HALF_HEIGHT) * (2 * v - 1), RADIUS * np.cbrt(w)
    level = np.sqrt(1 - sine**2)
    return _levels(distance * np.stack([level * np.sin(azimuth), sine, level * np.cos(azimuth)]))


def _levels(points: np.ndarray) -> tuple[_Cells, ...]:
    """Return points [3, P] as cells, from coarse to fine; the points themselves are the last level."""
    levels, runs = [], [points] if points.size else []
    for splits in _SPLITS:
        for _ in range(splits):
            runs = [half for run in runs for half in _halves(run) if half.size]
        means = [run.mean(1, keepdims=True) for run in runs]
        radii = [np.linalg.norm(run - mean, axis=0).max() for run, mean in zip(runs, means, strict=True)]
        counts = [float(run.shape[1]) for run in runs]
        levels.append(_Cells(np.hstack([points[:, :0], *means]), np.array(radii) + _ROUNDING, np.array(counts)))
    return (*levels, _points_as_cells(points))


def _points_as_cells(points: np.ndarray) -> _Cells:
    return _Cells(points, np.zeros(points.shape[1]), np.ones(points.shape[1]))


def _halves(points: np.ndarray) -> list[np.ndarray]:
    """Return points [3, P] cut in two across their longest side."""
    longest = np.ptp(points, axis=1).argmax()
    return np.array_split(points[:, points[longest].argsort()], 2, axis=1)


def _finite(array: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float64 array whose last axes have that shape, or raise a ValueError that says what is wrong."""
    array = np.asarray(array, dtype=np.float64)
    if array.shape[-len(shape) :] != shape:
        raise ValueError(f"{name} must have shape [..., {', '.join(map(str, shape))}], got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {array[~np.isfinite(array)][0]}: all numbers must be finite")
    return array
