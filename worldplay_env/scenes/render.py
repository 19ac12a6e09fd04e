"""A batched ray caster for scenes of boxes and ellipsoids: colour and depth for any camera of spec section 2.

Rays carry their three components as separate tensors [frames, rays], and a solid's numbers broadcast over its rays,
so that `torch.compile` fuses the whole trace into a few kernels; without it the same functions run as they stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from worldplay_env.scenes.build import LIGHT, SceneBatch
from worldplay_env.scenes.furniture import GROUND

Rays = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_FAR = 1e6
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
    return Picture(frames, torch.where(depth < _FAR, depth, torch.inf))


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
    colour = _shade(scene, origin, d, depth, solid, is_ball, angle)
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


# On a CPU torch shares sqrt, floor, sin, exp and round of however few elements among threads, which costs what
# `_ELEMENTS_AT_ONCE` says. These three, exp2 and a conversion to whole numbers are those that it does not.
def _sqrt(x: torch.Tensor) -> torch.Tensor:
    return x * x.clamp(min=1e-30).rsqrt()


def _floor(x: torch.Tensor) -> torch.Tensor:
    return torch.div(x, 1.0, rounding_mode="floor")


def _sin(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sinc(x / math.pi)


def _local_origin(solids: torch.Tensor, origin: torch.Tensor) -> Rays:
    """Return the camera's position in the axes of each solid [F, N, 8]: x, y, z, each [F, N, 1]."""
    x, y, z = ((origin[:, None, i] - solids[..., i])[..., None] for i in range(3))
    cosine, sine = solids[..., 6, None], solids[..., 7, None]
    return cosine * x - sine * z, y, sine * x + cosine * z


def _box_entry(boxes: torch.Tensor, local: Rays, d: Rays) -> torch.Tensor:
    """Return where each ray enters each box, in ray lengths: [F, N, R], `_FAR` where it does not (slab test)."""
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
    return torch.where((near < far) & (near > 0), near, _FAR)


def _ball_entry(balls: torch.Tensor, local: Rays, d: Rays) -> torch.Tensor:
    """Return where each ray enters each ellipsoid, in ray lengths: [F, M, R], `_FAR` where it does not."""
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
    entry = (-b - _sqrt(discriminant.clamp(min=0))) / a
    return torch.where((discriminant > 0) & (entry > 0), entry, _FAR)


def _shade(
    scene: SceneBatch,
    origin: torch.Tensor,
    d: Rays,
    depth: torch.Tensor,
    solid: torch.Tensor,
    is_ball: torch.Tensor,
    angle: torch.Tensor,
) -> torch.Tensor:
    """Return the colour [F, 3, R] in 0..1 of what the rays hit at `depth`: paint, light, snow, fog; or the sky."""
    table = torch.cat([torch.cat([scene.boxes, scene.balls], 1), scene.surfaces], 2).transpose(1, 2)  # [F, C, N]
    hit = tuple(torch.gather(column, 1, solid) for column in table.unbind(1))  # each [F, R]
    light = {name: scene.light[:, where, None] for name, where in LIGHT.items()}  # each [F, width, 1]
    length = _sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    point = tuple(origin[:, i, None] + depth * d[i] for i in range(3))

    # Into the solid's own axes, scaled so that its faces are at -1 and 1.
    cosine, sine = hit[6], hit[7]
    ox, oy, oz = (point[i] - hit[i] for i in range(3))
    local = (cosine * ox - sine * oz, oy, sine * ox + cosine * oz)
    scaled = tuple(local[i] / hit[3 + i] for i in range(3))
    ax, ay, az = (part.abs() for part in scaled)
    face_x, face_y = (ax >= ay) & (ax >= az), (ay > ax) & (ay >= az)
    face = (face_x, face_y, ~(face_x | face_y))
    normal = [
        torch.where(is_ball, scaled[i] / hit[3 + i], torch.where(face[i], scaled[i].sign(), 0.0)) for i in range(3)
    ]
    norm = (normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]).rsqrt()
    nx, ny, nz = (part * norm for part in normal)
    normal = [cosine * nx + sine * nz, ny, cosine * nz - sine * nx]  # back to the scene's axes

    facing = -(normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2]) / length
    footprint = depth * length * angle / facing.clamp(min=0.25)
    u = torch.where(face_x & ~is_ball, local[2], local[0])
    v = torch.where(face_y & ~is_ball, local[2], local[1])
    mixed = _pattern(hit[8:], u, v, footprint)

    sun = (normal[0] * light["sun"][:, 0] + normal[1] * light["sun"][:, 1] + normal[2] * light["sun"][:, 2]).clamp(
        min=0
    )
    # Skylight: what faces up is brighter; and walls and solids are darker near the ground they stand on.
    above = ((GROUND - point[1]) / 0.4).clamp(0, 1)
    sky = (0.82 - 0.18 * normal[1]) * (0.72 + 0.28 * torch.where(normal[1] < -0.5, 1.0, above))
    glow = hit[8 + 17] * mixed
    snow = light["snow"][:, 0] * ((-normal[1] - 0.3) / 0.4).clamp(0, 1)
    fog = 1 - torch.exp2(-math.log2(math.e) * light["fog_density"][:, 0] * depth.clamp(max=100.0) * length)
    background = _sky(light, (d[0] / length, d[1] / length, d[2] / length), angle)
    is_sky = depth >= _FAR
    channels = []
    for i in range(3):
        paint = torch.lerp(hit[8 + i], hit[11 + i], mixed)
        paint = torch.lerp(paint, torch.full_like(paint, 0.96), snow)
        lit = paint * (light["ambient"][:, i] * sky + light["sun_colour"][:, i] * sun)
        lit = torch.lerp(lit, paint, glow)
        lit = torch.lerp(lit, light["fog"][:, i].expand_as(lit), fog)
        channels.append(torch.where(is_sky, background[i], lit))
    return torch.stack(channels, dim=1)


def _pattern(
    surface: tuple[torch.Tensor, ...], u: torch.Tensor, v: torch.Tensor, footprint: torch.Tensor
) -> torch.Tensor:
    """Return how much of a surface's second colour a ray sees [F, R], averaged over its footprint.

    `surface` lists the columns of `Surface.row`.
    """
    period_u, period_v, offset_u, offset_v, duty_u, duty_v, mix_u, mix_v, mix_uv, row_shift, shear = surface[6:17]
    v = v / period_v + offset_v
    u = u / period_u + offset_u + shear * v + row_shift * _floor(v)
    first = _pulses(u, duty_u, footprint / period_u)
    second = _pulses(v, duty_v, footprint / period_v)
    return (mix_u * first + mix_v * second + mix_uv * first * second).clamp(0, 1)


def _pulses(x: torch.Tensor, duty: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Average over `width` a train of pulses of period 1 that is 1 where frac(x) < duty: exact, by its integral."""
    width = width.clamp(0.01, 8.0)

    def integral(x: torch.Tensor) -> torch.Tensor:
        whole = _floor(x)
        return whole * duty + torch.minimum(x - whole, duty)

    return (integral(x + width / 2) - integral(x - width / 2)) / width


def _sky(light: dict[str, torch.Tensor], d: Rays, angle: torch.Tensor) -> list[torch.Tensor]:
    """Return the sky's colour, three of [F, R], for unit directions: gradient, sun, clouds, hills on the horizon."""
    up = -d[1]
    sun = d[0] * light["sun"][:, 0] + d[1] * light["sun"][:, 1] + d[2] * light["sun"][:, 2]
    disc = ((sun - 0.985) / 0.006).clamp(0, 1) * light["glow"][:, 0]
    halo = sun.clamp(min=0) ** 12 * 0.35 * light["glow"][:, 0]
    cloud = light["clouds"]
    x, z = d[0] / (up.clamp(min=0) + 0.35), d[2] / (up.clamp(min=0) + 0.35)
    first, second, third = (
        _sin(wave) for wave in (2.3 * x + cloud[:, 1], 1.9 * z + 1.1 * x + cloud[:, 2], 4.1 * z - x)
    )
    bank = first + second + 0.5 * third
    bank = (bank * 0.8 - 0.1).clamp(0, 1) * cloud[:, 0]
    # The hills' outline: a few harmonics of the direction's azimuth, by angle addition.
    norm = (d[0] * d[0] + d[2] * d[2]).clamp(min=1e-6).rsqrt()
    c1, s1 = d[2] * norm, d[0] * norm
    c2, s2 = c1 * c1 - s1 * s1, 2 * c1 * s1
    c4, s4 = c2 * c2 - s2 * s2, 2 * c2 * s2
    c5, s5 = c4 * c1 - s4 * s1, s4 * c1 + c4 * s1
    hills = light["hills"]
    outline = hills[:, 0] + sum(hills[:, i + 1] * wave for i, wave in enumerate((c1, s1, c2, s2, c5, s5)))
    hill = ((outline - up) / (2 * angle) + 0.5).clamp(0, 1)
    height = _sqrt(up.clamp(0, 1))
    colours = []
    for i in range(3):
        colour = torch.lerp(light["horizon"][:, i].expand_as(up), light["zenith"][:, i].expand_as(up), height)
        colour = torch.lerp(colour, light["cloud_colour"][:, i].expand_as(up), bank)
        colour = colour + (halo + disc) * light["sun_colour"][:, i]
        colours.append(torch.lerp(colour, light["hill_colour"][:, i].expand_as(up), hill).clamp(0, 1))
    return colours
