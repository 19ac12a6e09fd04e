"""What rays show: the paint, light and weather of the solids they meet, or the sky."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from worldplay_env.worlds.scene.build import SceneBatch
from worldplay_env.worlds.scene.furniture import GROUND

Rays = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
FAR = 1e6
"""Depth of a ray that meets nothing, and more, in ray lengths."""


# On a CPU torch shares sqrt, floor, sin, exp and round of however few elements among threads, which costs what
# `render._ELEMENTS_AT_ONCE` says. These three, exp2 and a conversion to whole numbers are those that it does not.
def square_root(x: torch.Tensor) -> torch.Tensor:
    """Return the square root of numbers of 0 or more."""
    return x * x.clamp(min=1e-30).rsqrt()


def floor(x: torch.Tensor) -> torch.Tensor:
    """Return the greatest whole numbers that are not above `x`."""
    return torch.div(x, 1.0, rounding_mode="floor")


def sine_of(x: torch.Tensor) -> torch.Tensor:
    """Return the sine of angles in radians."""
    return x * torch.sinc(x / math.pi)


class Hit(NamedTuple):
    """What rays meet; each tensor is [F, R].

    Attributes:
        row: The solid's 8 numbers and its surface's (`Surface.row`).
        point: Where, in the scene's coordinates.
        normal: Of the surface there, a unit vector out of the solid.
        length: Of the ray's direction, whose z is 1 in camera axes.
        footprint: Width of the ray's footprint on the surface.
        u: Where on the surface, in its own axes.
        v: The same, across u.
        mixed: How much of the surface's second colour the footprint holds.
    """

    row: tuple[torch.Tensor, ...]
    point: Rays
    normal: Rays
    length: torch.Tensor
    footprint: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    mixed: torch.Tensor


def meet(
    scene: SceneBatch,
    origin: torch.Tensor,
    d: Rays,
    depth: torch.Tensor,
    solid: torch.Tensor,
    is_ball: torch.Tensor,
    angle: torch.Tensor,
) -> Hit:
    """Return what the rays `d` from `origin` meet at `depth`, of the solids of those indices."""
    table = torch.cat([torch.cat([scene.boxes, scene.balls], 1), scene.surfaces], 2).transpose(1, 2)  # [F, C, N]
    hit = tuple(torch.gather(column, 1, solid) for column in table.unbind(1))  # each [F, R]
    length = square_root(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    px, py, pz = (origin[:, i, None] + depth * d[i] for i in range(3))
    point = (px, py, pz)

    # Into the solid's own axes, scaled so that its faces are at -1 and 1.
    cosine, sine = hit[6], hit[7]
    ox, oy, oz = (point[i] - hit[i] for i in range(3))
    local = (cosine * ox - sine * oz, oy, sine * ox + cosine * oz)
    scaled = tuple(local[i] / hit[3 + i] for i in range(3))
    ax, ay, az = (part.abs() for part in scaled)
    face_x, face_y = (ax >= ay) & (ax >= az), (ay > ax) & (ay >= az)
    face = (face_x, face_y, ~(face_x | face_y))
    across = [
        torch.where(is_ball, scaled[i] / hit[3 + i], torch.where(face[i], scaled[i].sign(), 0.0)) for i in range(3)
    ]
    norm = (across[0] * across[0] + across[1] * across[1] + across[2] * across[2]).rsqrt()
    nx, ny, nz = (part * norm for part in across)
    normal = (cosine * nx + sine * nz, ny, cosine * nz - sine * nx)  # back to the scene's axes

    facing = -(normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2]) / length
    footprint = depth * length * angle / facing.clamp(min=0.25)
    u = torch.where(face_x & ~is_ball, local[2], local[0])
    v = torch.where(face_y & ~is_ball, local[2], local[1])
    mixed = pattern(hit[8:], u, v, footprint)
    return Hit(hit, point, normal, length, footprint, u, v, mixed)


def shade(
    light: dict[str, torch.Tensor], hit: Hit, d: Rays, depth: torch.Tensor, angle: torch.Tensor
) -> torch.Tensor:
    """Return the colour [F, 3, R] in 0..1 of what the rays hit at `depth`: paint, light, snow, fog; or the sky."""
    normal, point, length, mixed = hit.normal, hit.point, hit.length, hit.mixed
    sun = (normal[0] * light["sun"][:, 0] + normal[1] * light["sun"][:, 1] + normal[2] * light["sun"][:, 2]).clamp(
        min=0
    )
    # Skylight: what faces up is brighter; and walls and solids are darker near the ground they stand on.
    above = ((GROUND - point[1]) / 0.4).clamp(0, 1)
    sky = (0.82 - 0.18 * normal[1]) * (0.72 + 0.28 * torch.where(normal[1] < -0.5, 1.0, above))
    glow = hit.row[8 + 17] * mixed
    snow = light["snow"][:, 0] * ((-normal[1] - 0.3) / 0.4).clamp(0, 1)
    fog = 1 - torch.exp2(-math.log2(math.e) * light["fog_density"][:, 0] * depth.clamp(max=100.0) * length)
    background = _sky(light, (d[0] / length, d[1] / length, d[2] / length), angle)
    is_sky = depth >= FAR
    channels = []
    for i in range(3):
        paint = torch.lerp(hit.row[8 + i], hit.row[11 + i], mixed)
        paint = torch.lerp(paint, torch.full_like(paint, 0.96), snow)
        lit = paint * (light["ambient"][:, i] * sky + light["sun_colour"][:, i] * sun)
        lit = torch.lerp(lit, paint, glow)
        lit = torch.lerp(lit, light["fog"][:, i].expand_as(lit), fog)
        channels.append(torch.where(is_sky, background[i], lit))
    return torch.stack(channels, dim=1)


def pattern(
    surface: tuple[torch.Tensor, ...], u: torch.Tensor, v: torch.Tensor, footprint: torch.Tensor
) -> torch.Tensor:
    """Return how much of a surface's second colour a ray sees [F, R], averaged over its footprint.

    `surface` lists the columns of `Surface.row`.
    """
    period_u, period_v, offset_u, offset_v, duty_u, duty_v, mix_u, mix_v, mix_uv, row_shift, shear = surface[6:17]
    v = v / period_v + offset_v
    u = u / period_u + offset_u + shear * v + row_shift * floor(v)
    first = _pulses(u, duty_u, footprint / period_u)
    second = _pulses(v, duty_v, footprint / period_v)
    return (mix_u * first + mix_v * second + mix_uv * first * second).clamp(0, 1)


def _pulses(x: torch.Tensor, duty: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Average over `width` a train of pulses of period 1 that is 1 where frac(x) < duty: exact, by its integral."""
    width = width.clamp(0.01, 8.0)

    def integral(x: torch.Tensor) -> torch.Tensor:
        whole = floor(x)
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
        sine_of(wave) for wave in (2.3 * x + cloud[:, 1], 1.9 * z + 1.1 * x + cloud[:, 2], 4.1 * z - x)
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
    height = square_root(up.clamp(0, 1))
    colours = []
    for i in range(3):
        colour = torch.lerp(light["horizon"][:, i].expand_as(up), light["zenith"][:, i].expand_as(up), height)
        colour = torch.lerp(colour, light["cloud_colour"][:, i].expand_as(up), bank)
        colour = colour + (halo + disc) * light["sun_colour"][:, i]
        colours.append(torch.lerp(colour, light["hill_colour"][:, i].expand_as(up), hill).clamp(0, 1))
    return colours
