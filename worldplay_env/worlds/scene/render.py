"""A batched ray caster for scenes of boxes and ellipsoids: colour and depth for any camera of spec section 2.

Rays carry their three components as separate tensors [frames, rays], and a solid's numbers broadcast over its rays,
so that `torch.compile` fuses the whole trace into a few kernels; without it the same functions run as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from worldplay_env.worlds.scene.build import SceneBatch
from worldplay_env.worlds.scene.lighting import LIGHT, SECOND_LIGHT
from worldplay_env.worlds.scene.shade import FAR, Rays, meet, shade, square_root
from worldplay_env.worlds.scene.shade_second import sky_second, solids_second

_PARALLEL = 1e-12
# On a CPU: what fits its cache, and less than the 32768 elements from which torch shares an operation among threads.
# Those hundreds of small operations would spend their time waiting for one another wherever a core is busy.
_RAYS_A_STRIP = 8000
_ELEMENTS_AT_ONCE = 32_000
_RAYS_AT_ONCE = 1 << 21  # on a GPU, not compiled: what fits its memory, times solids
_COMPILED_RAYS_AT_ONCE = 1 << 25


class Picture(NamedTuple):
    """What a camera sees.

    Attributes:
        frames: uint8 [F, H, W, 3].
        depth: float32 [F, H, W] along the optical axis; inf where only sky is seen.
    """

    frames: torch.Tensor
    depth: torch.Tensor


class Renderer:
    """Renders the scenes of a batch at one image size.

    Args:
        scenes: The scenes, on the device that is to render.
        size: Height and width in pixels.
        samples: Rays along a pixel's side; 2 averages four rays a pixel, which smooths edges.
        compile: Whether to fuse the trace with `torch.compile` (for a GPU, and some thousand frames or more).
        frames_at_once: Frames in one pass on a GPU; by default as many as fit its memory. A compiled pass always has
            as many: ask for multiples of it.
    """

    def __init__(
        self,
        scenes: SceneBatch,
        size: tuple[int, int],
        *,
        samples: int = 2,
        compile: bool = False,
        frames_at_once: int | None = None,
    ) -> None:
        self.scenes, self.size, self.samples = scenes, size, samples
        self.device = scenes.boxes.device
        rays = size[0] * size[1] * samples**2
        most = max(1, (_COMPILED_RAYS_AT_ONCE if compile else _RAYS_AT_ONCE) // rays)
        self._frames_at_once = min(most, frames_at_once or most)
        self._compiled = compile
        self._render: Callable[..., Picture] = torch.compile(_render, dynamic=False) if compile else _render

    def frames(self, which: torch.Tensor, c2w: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
        """Return uint8 [F, H, W, 3] pictures.

        Args:
            which: Int64 [F], the scene of each frame.
            c2w: [F, 4, 4] camera-to-world matrices in the scene's coordinates.
            intrinsics: [3, 3] or [F, 3, 3] normalised intrinsics.
        """
        return torch.cat([picture.frames for picture in self._pictures(which, c2w, intrinsics, self.samples)])

    def depth(self, which: torch.Tensor, c2w: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
        """Return float32 [F, H, W]: depth along the optical axis at pixel centres; inf where only sky is seen."""
        return torch.cat([picture.depth for picture in self._pictures(which, c2w, intrinsics, 1)])

    def _pictures(
        self, which: torch.Tensor, c2w: torch.Tensor, intrinsics: torch.Tensor, samples: int
    ) -> Iterator[Picture]:
        count = len(which)
        which = which.to(self.device)
        c2w = c2w.to(self.device, torch.float32)
        intrinsics = intrinsics.to(self.device, torch.float32).expand(count, 3, 3)
        if self.device.type == "cpu":
            for index in range(count):
                yield self._picture_by_strips(which[index], c2w[index], intrinsics[index], samples)
            return
        size = self._frames_at_once
        for first in range(0, count, size):
            end = first + size if self._compiled else min(first + size, count)
            part = torch.arange(first, end, device=self.device).clamp(max=count - 1)
            picture = self._render(self.scenes.take(which[part]), c2w[part], intrinsics[part], self.size, samples)
            kept = min(size, count - first)
            yield Picture(picture.frames[:kept], picture.depth[:kept])

    def _picture_by_strips(
        self, which: torch.Tensor, c2w: torch.Tensor, intrinsics: torch.Tensor, samples: int
    ) -> Picture:
        """Render one frame on a CPU: in strips of rays that stay in the cache, each with the solids it can meet."""
        scene = self.scenes.take(which[None])
        columns, rows = _ray_slopes(intrinsics[None], self.size, samples)
        angle = _pixel_angle(intrinsics[None], self.size, samples)
        height = max(1, _RAYS_A_STRIP // (columns.shape[1] * samples)) * samples  # of a strip, in rays
        parts = []
        for strip in rows.split(height, dim=1):
            low, high = torch.cat([columns[0, :1], strip[0, :1]]), torch.cat([columns[0, -1:], strip[0, -1:]])
            colour, depth = _trace(scene.visible(c2w, low, high), c2w[None], _rays(columns, strip), angle)
            parts.append(_picture(colour, depth, (strip.shape[1] // samples, self.size[1]), samples))
        return Picture(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))


def _render(
    scenes: SceneBatch, c2w: torch.Tensor, intrinsics: torch.Tensor, size: tuple[int, int], samples: int
) -> Picture:
    """Render one scene a frame, all rays at once."""
    rays = _rays(*_ray_slopes(intrinsics, size, samples))
    colour, depth = _trace(scenes, c2w, rays, _pixel_angle(intrinsics, size, samples))
    return _picture(colour, depth, size, samples)


def _picture(colour: torch.Tensor, depth: torch.Tensor, size: tuple[int, int], samples: int) -> Picture:
    """Average a pixel's samples: colour [F, 3, rays] in 0..1 and depth [F, rays] to frames and depth."""
    height, width = size
    apart = colour.unflatten(2, (height, samples, width, samples))  # [F, 3, H, samples, W, samples]
    each = [apart[:, :, :, i, :, j] for i in range(samples) for j in range(samples)]
    colour = sum(each[1:], start=each[0]) / samples**2  # [F, 3, H, W]
    frames = (colour.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    depth = depth.unflatten(1, (height, samples, width, samples))[:, :, 0, :, 0]
    return Picture(frames, torch.where(depth < FAR, depth, torch.inf))


def _ray_slopes(intrinsics: torch.Tensor, size: tuple[int, int], samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x of every column of rays and y of every row, in camera axes, z = 1: [F, W*samples], [F, H*samples]."""
    height, width = size[0] * samples, size[1] * samples
    device = intrinsics.device
    rows = (torch.arange(height, device=device) + 0.5) / height
    columns = (torch.arange(width, device=device) + 0.5) / width
    x = (columns - intrinsics[:, 0, 2, None]) / intrinsics[:, 0, 0, None]
    y = (rows - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]
    return x, y


def _rays(columns: torch.Tensor, rows: torch.Tensor) -> Rays:
    """Return the x, y, z of all rays of some columns [F, w] and rows [F, h], row by row: each [F, h*w]."""
    x = columns[:, None, :].expand(-1, rows.shape[1], -1).flatten(1)
    y = rows[:, :, None].expand(-1, -1, columns.shape[1]).flatten(1)
    return x, y, torch.ones_like(x)


def _pixel_angle(intrinsics: torch.Tensor, size: tuple[int, int], samples: int) -> torch.Tensor:
    """Return the width of one ray's footprint at distance 1: [F, 1]."""
    return 1.0 / (intrinsics[:, 0, 0, None] * size[1] * samples)


def _trace(
    scene: SceneBatch, c2w: torch.Tensor, directions: Rays, angle: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return colour [F, 3, R] and depth along the optical axis [F, R] of camera rays with z = 1."""
    x, y, z = directions
    rotation, origin = c2w[:, :3, :3], c2w[:, :3, 3]
    dx, dy, dz = (
        rotation[:, i, 0, None] * x + rotation[:, i, 1, None] * y + rotation[:, i, 2, None] * z for i in range(3)
    )
    d = (dx, dy, dz)
    box_depth, box = _nearest(_box_entry, scene.boxes, origin, d)
    ball_depth, ball = _nearest(_ball_entry, scene.balls, origin, d)
    is_ball = ball_depth < box_depth
    depth = torch.minimum(ball_depth, box_depth)  # [F, R]
    solid = torch.where(is_ball, ball + scene.boxes.shape[1], box)
    if scene.contacts is None or scene.lamps is None:
        hit = meet(scene, origin, d, depth, solid, is_ball, angle)
        return shade(scene.lights(LIGHT), hit, d, depth, angle), depth
    light = scene.lights(SECOND_LIGHT)
    if depth.device.type != "cpu" or len(depth) > 1:
        hit = meet(scene, origin, d, depth, solid, is_ball, angle)
        colour = solids_second(light, scene.contacts, scene.lamps, hit, depth)
        return torch.where(depth[:, None] < FAR, colour, sky_second(light, d, angle)), depth
    # On a CPU each ray takes part in the operations of what it meets, and in no others.
    met = depth[0] < FAR
    colour = torch.empty(1, 3, depth.shape[1])
    some, others = met.nonzero()[:, 0], (~met).nonzero()[:, 0]
    if len(some):
        dx, dy, dz, at = (part[:, some] for part in (*d, depth))
        hit = meet(scene, origin, (dx, dy, dz), at, solid[:, some], is_ball[:, some], angle)
        colour[:, :, some] = solids_second(light, scene.contacts, scene.lamps, hit, at)
    if len(others):
        dx, dy, dz = (part[:, others] for part in d)
        colour[:, :, others] = sky_second(light, (dx, dy, dz), angle)
    return colour, depth


def _nearest(
    entry: Callable[[torch.Tensor, Rays, Rays], torch.Tensor], solids: torch.Tensor, origin: torch.Tensor, d: Rays
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each ray first enters one of the solids [F, N, 8], and which: depth and index, each [F, R]."""
    count = solids.shape[1]
    # On a GPU all solids at once; on a CPU a few, for which see `_ELEMENTS_AT_ONCE`.
    at_once = max(1, _ELEMENTS_AT_ONCE // d[0].numel()) if solids.device.type == "cpu" else count
    depth = torch.full_like(d[0], torch.inf)
    index = torch.zeros_like(d[0], dtype=torch.int64)
    for first in range(0, count, at_once):
        group = solids[:, first : first + at_once]
        entries = entry(group, _local_origin(group, origin), d)  # [F, at_once, R]
        if at_once == count:
            return entries.min(dim=1)
        for number, other in enumerate(entries.unbind(1), first):  # on a CPU this is faster than min()
            index = torch.where(other < depth, number, index)
            depth = torch.minimum(other, depth)
    return depth, index


def _local_origin(solids: torch.Tensor, origin: torch.Tensor) -> Rays:
    """Return the camera's position in the axes of each solid [F, N, 8]: x, y, z, each [F, N, 1]."""
    x, y, z = ((origin[:, None, i] - solids[..., i])[..., None] for i in range(3))
    cosine, sine = solids[..., 6, None], solids[..., 7, None]
    return cosine * x - sine * z, y, sine * x + cosine * z


def _box_entry(boxes: torch.Tensor, local: Rays, d: Rays) -> torch.Tensor:
    """Return where each ray enters each box, in ray lengths: [F, N, R], `FAR` where it does not (slab test)."""
    half = boxes[..., 3:6, None]  # [F, N, 3, 1]
    cosine, sine = boxes[..., 6, None], boxes[..., 7, None]
    dx, dy, dz = (part[:, None, :] for part in d)
    along = (cosine * dx - sine * dz, dy, sine * dx + cosine * dz)
    # A ray along a wall never reaches it; divided by 0 it would be infinitely far from both of its sides: NaN.
    inverse = tuple(1 / torch.where(part.abs() < _PARALLEL, _PARALLEL, part) for part in along)
    centre = tuple(-local[i] * inverse[i] for i in range(3))
    reach = tuple(half[:, :, i] * inverse[i].abs() for i in range(3))
    near = torch.maximum(torch.maximum(centre[0] - reach[0], centre[1] - reach[1]), centre[2] - reach[2])
    far = torch.minimum(torch.minimum(centre[0] + reach[0], centre[1] + reach[1]), centre[2] + reach[2])
    return torch.where((near < far) & (near > 0), near, FAR)


def _ball_entry(balls: torch.Tensor, local: Rays, d: Rays) -> torch.Tensor:
    """Return where each ray enters each ellipsoid, in ray lengths: [F, M, R], `FAR` where it does not."""
    inverse = 1 / balls[..., 3:6, None]
    cosine, sine = balls[..., 6, None], balls[..., 7, None]
    dx, dy, dz = (part[:, None, :] for part in d)
    # In axes scaled to a unit ball.
    rays = (
        (cosine * dx - sine * dz) * inverse[:, :, 0],
        dy * inverse[:, :, 1],
        (sine * dx + cosine * dz) * inverse[:, :, 2],
    )
    start = tuple(local[i] * inverse[:, :, i] for i in range(3))
    a = rays[0] * rays[0] + rays[1] * rays[1] + rays[2] * rays[2]
    b = rays[0] * start[0] + rays[1] * start[1] + rays[2] * start[2]
    c = start[0] * start[0] + start[1] * start[1] + start[2] * start[2] - 1
    discriminant = b * b - a * c
    entry = (-b - square_root(discriminant.clamp(min=0))) / a
    return torch.where((discriminant > 0) & (entry > 0), entry, FAR)
