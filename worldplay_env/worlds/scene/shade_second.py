"""What rays show in a scene of the second edition: contact shadows, lamplight, toned bricks, hills behind hills.

All of it is a function of where a surface is, not of who looks, and costs a few operations a ray.
"""

from __future__ import annotations

import math

import torch

from worldplay_env.worlds.scene.furniture import GROUND
from worldplay_env.worlds.scene.lighting import LAMP_REACH, RIDGES
from worldplay_env.worlds.scene.shade import Hit, Rays, floor, sine_of, square_root

CORNER_REACH = 0.35
"""How far from a corner of walls, ground and ceiling it is dimmer, in units."""


def solids_second(
    light: dict[str, torch.Tensor], contacts: torch.Tensor, lamps: torch.Tensor, hit: Hit, depth: torch.Tensor
) -> torch.Tensor:
    """Return the colour [F, 3, R] in 0..1 of the solids that rays hit at `depth`."""
    normal = hit.normal
    sun = (normal[0] * light["sun"][:, 0] + normal[1] * light["sun"][:, 1] + normal[2] * light["sun"][:, 2]).clamp(
        min=0
    )
    open_sky = _corners(light["room"], hit) * _contact_light(contacts, hit)
    sky = (0.92 - 0.10 * normal[1]) * open_sky
    sun = sun * (0.4 + 0.6 * open_sky)
    shine = _lamplight(lamps, hit) * (0.5 + 0.5 * open_sky)
    glow = hit.row[8 + 17] * hit.mixed
    tone = 1 + _tone(hit)
    snow = light["snow"][:, 0] * ((-normal[1] - 0.3) / 0.4).clamp(0, 1)
    fog = 1 - torch.exp2(-math.log2(math.e) * light["fog_density"][:, 0] * depth.clamp(max=100.0) * hit.length)
    channels = []
    for i in range(3):
        paint = torch.lerp(hit.row[8 + i], hit.row[11 + i], hit.mixed)
        white = torch.lerp(paint * tone, torch.full_like(paint, 0.93), snow)
        lit = white * (
            light["ambient"][:, i] * sky + light["sun_colour"][:, i] * sun + light["lamp_colour"][:, i] * shine
        )
        over = (lit - 0.75).clamp(min=0)  # a shoulder instead of a cut: what is bright keeps its shape
        lit = lit - over + over / (1 + 4 * over)
        lit = torch.lerp(lit, paint, glow)
        channels.append(torch.lerp(lit, light["fog"][:, i].expand_as(lit), fog))
    return torch.stack(channels, dim=1)


def _corners(room: torch.Tensor, hit: Hit) -> torch.Tensor:
    """Return how open a point is, 0..1, for the walls, ground and ceiling that meet near it: [F, R]."""
    x, y, z = hit.point
    nx, ny, nz = (part.abs() for part in hit.normal)
    result = torch.ones_like(x)
    for beside, turned in (
        ((room[:, 0] - x.abs()).abs(), nx),
        ((room[:, 1] - z.abs()).abs(), nz),
        (torch.minimum(GROUND - y, y - room[:, 2]), ny),
    ):
        near = (1 - beside * (1 / CORNER_REACH)).clamp(0, 1)
        result = torch.addcmul(result, result, near * near * (1 - turned), value=-0.26)
    return result


def _contact_light(contacts: torch.Tensor, hit: Hit) -> torch.Tensor:
    """Return how open a point is, 0..1, for the things that stand near it: [F, R].

    `contacts` [F, N, CONTACT_WIDTH] are boxes whose sides dim what faces them.
    """
    x, y, z = hit.point
    result = torch.ones_like(x)
    columns = (row.unbind(1) for row in contacts[..., None].unbind(1))
    for cx, cy, cz, half_x, half_y, half_z, cosine, sine, scale_y, scale, _ in columns:
        ox, oy, oz = cx - x, cy - y, cz - z
        across = (torch.addcmul(cosine * ox, sine, oz, value=-1).abs() - half_x).clamp(min=0)
        along = (torch.addcmul(sine * ox, cosine, oz).abs() - half_z).clamp(min=0)
        over = ((scale_y * oy).abs() - half_y).clamp(min=0)
        near = (1 - _dot((across, along, over), (across, along, over))).clamp(min=0)
        towards = (_dot(hit.normal, (ox, oy, oz)) * scale).clamp(0, 1)
        result = torch.addcmul(result, result, near * near * towards, value=-0.55)
    return result


def _lamplight(lamps: torch.Tensor, hit: Hit) -> torch.Tensor:
    """Return how much light of the lamps [F, N, 4] falls on a point: [F, R]."""
    x, y, z = hit.point
    result = torch.zeros_like(x)
    for lx, ly, lz, strength in (row.unbind(1) for row in lamps[..., None].unbind(1)):
        ox, oy, oz = lx - x, ly - y, lz - z
        square = _dot((ox, oy, oz), (ox, oy, oz))
        facing = _dot(hit.normal, (ox, oy, oz)) * (square + 1e-3).rsqrt()
        near = (1 - square * (1 / LAMP_REACH**2)).clamp(min=0)
        result = result + strength * near * near * near * (0.45 + 0.75 * facing).clamp(min=0.1)
    return result


def _dot(first: Rays, second: Rays) -> torch.Tensor:
    return torch.addcmul(torch.addcmul(first[0] * second[0], first[1], second[1]), first[2], second[2])


def _tone(hit: Hit) -> torch.Tensor:
    """Return how much lighter or darker a brick, tile or plank is than its like, as a share: [F, R]."""
    surface = hit.row[8:]
    period_u, period_v, offset_u, offset_v, duty_u, duty_v = surface[6:12]
    row_shift, amount = surface[15], surface[18]
    # A cell ends in the middle of its joint; far away all cells are one.
    v = hit.v / period_v + offset_v
    row = floor(v - 0.5 * duty_v)
    column = floor(hit.u / period_u + offset_u + row_shift * row - 0.5 * duty_u)
    first = 0.7548777 * column + 0.5698403 * row
    first = first - floor(first)
    second = 37.0 * first * first + 11.0 * first
    wave = ((second - floor(second)) * 2 - 1).abs() * 2 - 1  # -1 to 1, without a jump
    fade = (1.5 - 2 * hit.footprint / torch.minimum(period_u, period_v)).clamp(0, 1)
    return amount * fade * wave


def sky_second(light: dict[str, torch.Tensor], directions: Rays, angle: torch.Tensor) -> torch.Tensor:
    """Return the sky's colour [F, 3, R] in those directions: gradient, sun, shaded clouds, ridges of hills."""
    x, y, z = directions
    inverse = (x * x + y * y + z * z).rsqrt()
    d = (x * inverse, y * inverse, z * inverse)
    up = -d[1]
    above = up.clamp(min=0)
    sun = (d[0] * light["sun"][:, 0] + d[1] * light["sun"][:, 1] + d[2] * light["sun"][:, 2]).clamp(min=0)
    disc = ((sun - 0.9925) / 0.003).clamp(0, 1) * light["glow"][:, 0]
    near = sun * sun
    near = near * near
    halo = (near * near * near * 0.22 + near * 0.08) * light["glow"][:, 0]
    cloud = light["clouds"]
    spread = 1 / (above + 0.28)
    x, z = d[0] * spread, d[2] * spread
    first = sine_of(1.7 * x + 0.6 * z + cloud[:, 1])
    second = sine_of(1.9 * z - 0.7 * x + cloud[:, 2] + 0.4 * first)
    third = sine_of(4.3 * x + 2.2 * z + 0.9 * second)
    bank = first * second + 0.35 * third
    body = ((bank + 0.75 * cloud[:, 0] - 0.62) * 1.6).clamp(0, 1) * (above * 8).clamp(0, 1)
    body = body * body * (3 - 2 * body)
    belly = (bank * 0.9 - 0.15 + 0.3 * third).clamp(0, 1)
    norm = (d[0] * d[0] + d[2] * d[2]).clamp(min=1e-6).rsqrt()
    c1, s1 = d[2] * norm, d[0] * norm
    c2, s2 = c1 * c1 - s1 * s1, 2 * c1 * s1
    c3, s3 = c2 * c1 - s2 * s1, s2 * c1 + c2 * s1
    c5, s5 = c3 * c2 - s3 * s2, s3 * c2 + c3 * s2
    c8, s8 = c5 * c3 - s5 * s3, s5 * c3 + c5 * s3
    waves = ((c1, s1, c3, s3, c8, s8), (c2, s2, c5, s5, c8, s8), (c1, s1, c5, s5, c3, s3))
    covered = []
    for ridge in range(RIDGES):
        ridges = light["ridges"][:, 7 * ridge : 7 * ridge + 7]
        outline = ridges[:, 0] + sum(ridges[:, i + 1] * wave for i, wave in enumerate(waves[ridge]))
        covered.append(((outline - up) / (2 * angle) + 0.5).clamp(0, 1))
    height = square_root(above.clamp(max=1))
    colours = []
    for i in range(3):
        colour = torch.lerp(light["horizon"][:, i].expand_as(up), light["zenith"][:, i].expand_as(up), height)
        colour = colour + halo * light["sun_colour"][:, i]
        white = torch.lerp(light["cloud_colour"][:, i].expand_as(up), light["cloud_shade"][:, i].expand_as(up), belly)
        colour = torch.lerp(colour, white, body * 0.85) + disc * (1 - body) * light["sun_colour"][:, i]
        for ridge, share in enumerate(covered):
            colour = torch.lerp(colour, light["ridge_colours"][:, 3 * ridge + i].expand_as(up), share)
        colours.append(colour.clamp(0, 1))
    return torch.stack(colours, dim=1)
