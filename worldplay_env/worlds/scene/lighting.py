"""The light of a scene as the renderer reads it: sun, sky and weather, and in the second edition lamps and hills."""

from __future__ import annotations

import numpy as np

from worldplay_env.worlds.scene.furniture import pick
from worldplay_env.worlds.scene.palette import COLOURS, Daylight, Weather

_LIGHT_WIDTHS = {
    "sun": 3, "sun_colour": 3, "ambient": 3, "fog": 3, "fog_density": 1, "zenith": 3, "horizon": 3, "hill_colour": 3,
    "hills": 7, "glow": 1, "clouds": 3, "cloud_colour": 3, "snow": 1,
}  # fmt: skip


def _slices(widths: dict[str, int]) -> dict[str, slice]:
    ends = np.cumsum(list(widths.values())).tolist()
    return {name: slice(end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}


LIGHT = _slices(_LIGHT_WIDTHS)
"""Where each of a scene's light values lies in its `light` row."""


def light_row(rng: np.random.Generator, day: Daylight, weather: Weather) -> np.ndarray:
    """Return the scene's `light` row."""
    azimuth = rng.uniform(-np.pi, np.pi)
    flat = np.cos(day.elevation)
    lost = (1 - weather.sun) * 0.5
    overcast = np.full(3, 0.8 * max(day.horizon))
    ambient = np.array(day.ambient) + lost * np.array(day.sun)
    horizon = (1 - weather.grey) * np.array(day.horizon) + weather.grey * overcast
    zenith = (1 - weather.grey) * np.array(day.zenith) + weather.grey * overcast * 0.85
    hill = np.array(COLOURS[pick(rng, "green", "teal", "purple", "sky blue", "brown", "white")])
    values = {
        "sun": (flat * np.sin(azimuth), -np.sin(day.elevation), flat * np.cos(azimuth)),
        "sun_colour": np.array(day.sun) * weather.sun,
        "ambient": ambient,
        "fog": horizon,
        "fog_density": (weather.fog,),
        "zenith": zenith,
        "horizon": horizon,
        "hill_colour": hill * ambient * (1 - weather.snow)
        + weather.snow * np.array((0.9, 0.93, 0.98)) * ambient * 1.3,
        "hills": (rng.uniform(0.06, 0.16), *rng.uniform(-0.05, 0.05, 4), *rng.uniform(-0.04, 0.04, 2)),
        "glow": (1 - weather.grey,),
        "clouds": (weather.clouds, *rng.uniform(-np.pi, np.pi, 2)),
        "cloud_colour": np.minimum(1.0, ambient * 1.2 + 0.2 * np.array(day.sun)),
        "snow": (weather.snow,),
    }
    return np.concatenate([np.asarray(values[name], np.float32) for name in _LIGHT_WIDTHS])


RIDGES = 3
LAMP_REACH = 2.4
"""A lamp lights nothing farther away than this, in units."""
_SECOND_WIDTHS = {
    **{name: width for name, width in _LIGHT_WIDTHS.items() if name not in ("hills", "hill_colour")},
    "ridges": 7 * RIDGES, "ridge_colours": 3 * RIDGES, "cloud_shade": 3, "room": 3,
    "lamp_colour": 3,
}  # fmt: skip
SECOND_LIGHT = _slices(_SECOND_WIDTHS)
"""The same of a scene of the second edition."""

SECOND_DAYLIGHT = {
    "at noon": Daylight("", (0.50, 0.47, 0.40), (0.58, 0.60, 0.64), (0.30, 0.53, 0.80), (0.78, 0.87, 0.92), 0.95),
    "in the morning": Daylight(
        "", (0.58, 0.46, 0.30), (0.53, 0.54, 0.60), (0.42, 0.60, 0.82), (0.97, 0.88, 0.74), 0.5, 0.15
    ),
    "at dusk": Daylight("", (0.58, 0.32, 0.18), (0.47, 0.43, 0.55), (0.30, 0.29, 0.52), (0.95, 0.62, 0.42), 0.3, 0.7),
    "at night": Daylight(
        "", (0.17, 0.21, 0.32), (0.36, 0.40, 0.58), (0.06, 0.08, 0.20), (0.17, 0.22, 0.40), 0.8, 1.0
    ),
    "in daylight": Daylight("", (0.34, 0.33, 0.30), (0.66, 0.66, 0.67), (0.4, 0.6, 0.9), (0.8, 0.9, 1.0), 0.9, 0.2),
    "in warm lamplight": Daylight(
        "", (0.26, 0.20, 0.12), (0.60, 0.53, 0.46), (0.05, 0.05, 0.1), (0.1, 0.1, 0.2), 1.1, 0.7
    ),
    "in cool light": Daylight("", (0.25, 0.29, 0.35), (0.57, 0.62, 0.68), (0.4, 0.6, 0.9), (0.8, 0.9, 1.0), 0.7, 0.3),
}
"""The second edition's light for the phrase of each `Daylight`: softer, and darker where lamps shine."""
LAMP_COLOUR = (1.12, 0.80, 0.47)
"""Of a lamp of strength 1, on what is beside it."""


def second_light_row(
    rng: np.random.Generator,
    azimuth: float,
    day: Daylight,
    weather: Weather,
    room: tuple[float, float, float],
) -> np.ndarray:
    """Return the `light` row of a scene of the second edition.

    Args:
        rng: Draws hills and clouds.
        azimuth: Of the sun, in radians.
        day: One of `SECOND_DAYLIGHT`.
        weather: The weather.
        room: Half extents along x and z inside the walls, and y of the ceiling (-1e3 without one).
    """
    flat = np.cos(day.elevation)
    sun, ambient = np.array(day.sun), np.array(day.ambient)
    grey = 0.8 * weather.grey
    overcast = np.full(3, 0.85 * np.mean(day.horizon)) * (0.98, 1.0, 1.03)
    horizon = (1 - grey) * np.array(day.horizon) + grey * overcast
    zenith = (1 - grey) * np.array(day.zenith) + grey * overcast * 0.82
    ambient = ambient + 0.5 * (1 - weather.sun) * sun
    leaf = np.array((0.34, 0.47, 0.33)) if rng.random() < 0.75 else np.array((0.45, 0.42, 0.36))
    leaf = (1 - 0.85 * weather.snow) * leaf + 0.85 * weather.snow * np.array((0.84, 0.88, 0.94))
    lit = leaf * (ambient + 0.35 * sun)
    # The farther a ridge, the higher it stands and the more of the horizon's haze lies before it.
    ridges, colours = [], []
    for level, haze in ((0.15, 0.78), (0.085, 0.55), (0.035, 0.30)):
        swing = level * rng.uniform(-0.5, 0.5, 6) * (0.8, 0.8, 0.8, 0.8, 0.55, 0.55)
        ridges += [level * rng.uniform(0.8, 1.2), *swing]
        colours += [*((1 - haze) * lit + haze * horizon * (0.94, 0.96, 1.0))]
    bright = np.minimum(0.97, 0.6 * horizon + 0.3 * ambient + 0.3 * sun)
    values = {
        "sun": (flat * np.sin(azimuth), -np.sin(day.elevation), flat * np.cos(azimuth)),
        "sun_colour": sun * weather.sun,
        "ambient": ambient,
        "fog": horizon,
        "fog_density": (weather.fog,),
        "zenith": zenith,
        "horizon": horizon,
        "glow": (1 - weather.grey,),
        "clouds": (min(1.0, 0.45 + weather.clouds), *rng.uniform(-np.pi, np.pi, 2)),
        "cloud_colour": bright,
        "snow": (weather.snow,),
        "ridges": ridges,
        "ridge_colours": colours,
        "cloud_shade": 0.6 * bright + 0.4 * zenith,
        "room": room,
        "lamp_colour": LAMP_COLOUR,
    }
    return np.concatenate([np.asarray(values[name], np.float32) for name in _SECOND_WIDTHS])
