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

Cameras are brought into each other's axes on the CPU. Sample points are tested on any device, for many rollouts at
once, in float64 and by operations that round alike everywhere: the choice depends neither on the device nor on the
other rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

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

_SIN_HALF_WIDTH, _COS_HALF_WIDTH = float(np.sin(HALF_WIDTH)), float(np.cos(HALF_WIDTH))

CPU = torch.device("cpu")
Array = Any
"""A numpy array for a CPU, which computes small ones sooner; a tensor for a GPU."""

DEFAULT_COUNT = 768
"""Points of the default sample, all inside the field of view (of 50,000 in the ball, some 2,500 are)."""
_SPLITS = (3, 3)
"""Halvings from one level of cells to the next finer one: 8 cells, 64 cells, points."""
_BLOCK_ON_CPU, _BLOCK_ON_GPU = 1 << 14, 1 << 23
"""Pairs of a view and a cell that are tested at once: what a processor's cache holds; 64 MiB a tensor."""
_ROUNDING = 1e-9
"""Added to the radii of cells, so that rounding never makes an upper bound too low."""


class Selection(Protocol):
    """A function that chooses the past latent frames that the next chunk of each rollout sees."""

    def __call__(self, w2c: Sequence[np.ndarray], *, device: torch.device) -> list[np.ndarray]:
        """Choose for rollouts whose view matrices are float64 [s + 4, 4, 4], s frames so far and four to come.

        Returns:
            int64 [min(s, 16)] sorted indices of each, in whole clips.
        """


@dataclass(frozen=True)
class _Cells:
    """Sample points gathered into balls; as the finest level, the points themselves (radius 0, count 1).

    Attributes:
        centres: float64 [3, cells], in the axes of the current camera.
        radii: float64 [cells].
        counts: float64 [cells], how many points each holds (floats multiply faster).
    """

    centres: Array
    radii: Array
    counts: Array


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
    return select_each([w2c], points)[0]


def select_each(
    w2c: Sequence[np.ndarray], points: np.ndarray | None = None, *, device: torch.device = CPU
) -> list[np.ndarray]:
    """Return what `select` returns for each of several rollouts, in one batch.

    Args:
        w2c: View matrices of each rollout, as for `select`.
        points: As for `select`; one sample for all.
        device: Where sample points are tested: a CUDA device; the CPU for all other kinds.

    Raises:
        ValueError: As for `select`.
    """
    all_views = [_checked(views) for views in w2c]
    levels = _default_levels(device) if points is None else _levels(_visible(points), device)
    starts = [len(views) - CLIP for views in all_views]
    choosing = [row for row, start in enumerate(starts) if start > MEMORY]
    clips = dict(zip(choosing, _most_seen([all_views[row] for row in choosing], levels, device), strict=True))
    chosen = []
    for row, start in enumerate(starts):
        first = CLIP * clips.get(row, 0)
        newest = max(0, start - RECENT)
        chosen.append(np.concatenate([np.arange(first, min(first + CLIP, newest)), np.arange(newest, start)]))
    return chosen


def latest_each(w2c: Sequence[np.ndarray], *, device: torch.device = CPU) -> list[np.ndarray]:
    """Return the newest 16 past latent frames, all while there are fewer: `select_each` without regard to overlap."""
    starts = [len(views) - CLIP for views in w2c]
    return [np.arange(max(0, start - MEMORY), start) for start in starts]


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
    return _seen(views.reshape(9, -1), visible).reshape(views.shape[1:]) / max(len(visible.radii), 1)


def _most_seen(all_w2c: Sequence[np.ndarray], levels: tuple[_Cells, ...], device: torch.device) -> list[int]:
    """Return the clip of each rollout that sees the most points; levels from coarse to fine.

    All rollouts' clips are in one list. Each round tests some of every search that goes on.
    """
    if not all_w2c:
        return []
    candidates = [w2c[: len(w2c) - CLIP - RECENT].reshape(-1, CLIP, 4, 4)[:, COMPARED, None] for w2c in all_w2c]
    counts = [len(clips) for clips in candidates]
    coming = np.repeat(np.stack([w2c[-CLIP:] for w2c in all_w2c]), counts, axis=0)[:, None]
    relative = _relative_views(coming, np.concatenate(candidates))  # [9, clips, 2, 4]
    views = _on(device, relative.reshape(9, sum(counts), -1))  # [9, clips, 8 pairs]

    def most(clips: np.ndarray | slice, level: _Cells) -> np.ndarray:
        chosen = views[:, clips]
        return _seen(chosen.reshape(9, -1), level).reshape(chosen.shape[1:]).sum(1).astype(np.int64)

    coarse, *finer = levels
    ends = np.cumsum(counts)
    bounds = np.split(most(slice(None), coarse), ends[:-1])
    searches = [_Search(first, bound) for first, bound in zip(ends - counts, bounds, strict=True)]
    while going := [search for search in searches if search.go_on()]:
        for level in finer:
            tested = most(np.concatenate([search.first + search.batch for search in going]), level)
            for search in going:
                own, tested = np.split(tested, [len(search.batch)])
                search.narrow(own)
        for search in going:
            search.conclude()
    return [search.best_clip for search in searches]


class _Search:
    """The search for the clip of one rollout that sees the most points.

    Clips are taken from the highest upper bound to the lowest, in batches that double, and leave their batch
    as soon as a finer bound puts them behind the best so far. A clip's rank is its number of points, then its
    earliness: no two are equal, so there are no ties to break.

    Args:
        first: Where the rollout's clips begin in the list of all.
        bounds: int64 [clips], how many points each clip sees at most.

    Attributes:
        batch: int64, the clips that are being tested.
    """

    def __init__(self, first: int, bounds: np.ndarray) -> None:
        self.first = first
        self.batch = np.arange(len(bounds))
        self._clips = len(bounds)
        self._bounds = self._ranks = self._ranks_of(bounds)
        self._order = np.argsort(-self._bounds)
        self._best, self._done, self._size = -1, 0, 4

    @property
    def best_clip(self) -> int:
        """The clip that sees the most of those that were tested."""
        return self._clips - 1 - self._best % self._clips

    def go_on(self) -> bool:
        """Take the next clips as `batch`, and return whether one of them could win."""
        self.batch = self._order[self._done : self._done + self._size]
        self._ranks = self._bounds[self.batch]
        self._done, self._size = self._done + self._size, min(2 * self._size, 64)
        self._drop()
        return len(self.batch) > 0

    def narrow(self, bounds: np.ndarray) -> None:
        """Drop the clips of the batch that cannot win, given how many points each sees at most."""
        self._ranks = self._ranks_of(bounds)
        self._drop()

    def conclude(self) -> None:
        """Take note of the best clip of the batch, whose bounds are exact by now."""
        self._best = max(self._best, int(self._ranks.max(initial=-1)))

    def _ranks_of(self, bounds: np.ndarray) -> np.ndarray:
        return bounds * self._clips + (self._clips - 1 - self.batch)

    def _drop(self) -> None:
        can_win = self._ranks > self._best
        self.batch, self._ranks = self.batch[can_win], self._ranks[can_win]


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


def _seen(views: Array, cells: _Cells) -> np.ndarray:
    """Return how many points views [9, N] see at most, which for cells of radius 0 is how many they see: float64 [N].

    The work goes through a processor's cache in blocks; at once, it would be three times slower.
    """
    block = _BLOCK_ON_CPU if isinstance(views, np.ndarray) else _BLOCK_ON_GPU
    block = max(1, block // max(len(cells.radii), 1))
    seen = [np.zeros(0)]
    for first in range(0, views.shape[1], block):
        inside = _inside(views[:, first : first + block], cells)
        if isinstance(inside, np.ndarray):
            seen.append(inside @ cells.counts)
        else:
            seen.append((inside.to(cells.counts.dtype) @ cells.counts).cpu().numpy())
    return np.concatenate(seen)


def _inside(views: Array, cells: _Cells) -> Array:
    """Return whether views [9, N] may see any point of each cell: bool [N, cells].

    For a point that is `ahead` of the camera and `beside` it, `level` away in the horizontal plane and y below, the
    signed distances are sin(half) ahead -+ cos(half) beside from the half-planes that bound the azimuth, and
    cos(e) y - sin(e) level from the cone of elevation e. A point on the vertical through the camera, where it has no
    azimuth, is not seen.
    """
    x, y, z, sin_yaw, cos_yaw, sin_bottom, cos_bottom, sin_top, cos_top = views[..., None]
    x, y, z = cells.centres[0] - x, cells.centres[1] - y, cells.centres[2] - z
    # Products and sums are operations of their own: fused into one, they would round otherwise on another device.
    ahead, beside = x * sin_yaw + z * cos_yaw, x * cos_yaw - z * sin_yaw
    level_squared = x * x + z * z
    level = level_squared**0.5
    inside = level_squared + y * y < (RADIUS + cells.radii) ** 2
    inside &= ahead * _SIN_HALF_WIDTH + cells.radii > abs(beside) * _COS_HALF_WIDTH
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
def _default_levels(device: torch.device = CPU) -> tuple[_Cells, ...]:
    """Return the default sample, drawn uniformly by volume inside the current field of view.

    It is the additive recurrence R3 (Roberts 2018): multiples of the powers of 1 / g modulo 1, with g^4 = g + 1.
    """
    g = 1.2207440846057596
    u, v, w = (0.5 + np.outer(g ** -np.arange(1.0, 4), np.arange(DEFAULT_COUNT))) % 1
    azimuth, sine, distance = HALF_WIDTH * (2 * u - 1), np.sin(HALF_HEIGHT) * (2 * v - 1), RADIUS * np.cbrt(w)
    level = np.sqrt(1 - sine**2)
    points = distance * np.stack([level * np.sin(azimuth), sine, level * np.cos(azimuth)])
    return _levels(points, device)


def _levels(points: np.ndarray, device: torch.device) -> tuple[_Cells, ...]:
    """Return points [3, P] as cells on a device, from coarse to fine; the points themselves are the last level."""
    levels, runs = [], [points] if points.size else []
    for splits in _SPLITS:
        for _ in range(splits):
            runs = [half for run in runs for half in _halves(run) if half.size]
        means = [run.mean(1, keepdims=True) for run in runs]
        radii = [np.linalg.norm(run - mean, axis=0).max() for run, mean in zip(runs, means, strict=True)]
        counts = [float(run.shape[1]) for run in runs]
        levels.append(_Cells(np.hstack([points[:, :0], *means]), np.array(radii) + _ROUNDING, np.array(counts)))
    levels.append(_points_as_cells(points))
    return tuple(
        _Cells(*(_on(device, part) for part in (level.centres, level.radii, level.counts))) for level in levels
    )


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


def _checked(w2c: np.ndarray) -> np.ndarray:
    """Return view matrices as float64 [s + 4, 4, 4], s a multiple of 4, or raise a ValueError."""
    w2c = _finite(w2c, "w2c", (4, 4))
    if w2c.ndim != 3 or len(w2c) < CLIP or len(w2c) % CLIP:
        raise ValueError(
            f"w2c must hold the latent frames so far, a multiple of {CLIP}, and the {CLIP} to come: "
            f"[s + {CLIP}, 4, 4]; got shape {w2c.shape}"
        )
    return w2c


def _on(device: torch.device, array: np.ndarray) -> Array:
    """Return an array as a device tests it (see `Array`)."""
    return torch.from_numpy(array).to(device) if device.type == "cuda" else array
