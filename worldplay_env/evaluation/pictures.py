"""What the figures look like: strips of truth and dream, and quality against time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

STRIP_FRAMES = 9

_GROUND, _INK, _GRID = (255, 255, 255), (40, 40, 46), (222, 222, 228)
_COLOURS = ((32, 96, 200), (214, 106, 20), (120, 120, 128), (30, 140, 80))
_GAP = 4


def strip(truth: Tensor, dream: Tensor, fps: float) -> Image.Image:
    """Return frames of two films, uint8 [F, H, W, 3], evenly spaced over their time: truth above, dream below."""
    places = np.linspace(0, len(truth) - 1, min(STRIP_FRAMES, len(truth))).round().astype(int)
    height, width = truth.shape[1:3]
    line = max(14, height // 7)
    sheet = Image.new("RGB", (len(places) * (width + _GAP) + _GAP, 2 * (height + _GAP) + line + _GAP), _GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=0.75 * line)
    for column, place in enumerate(places):
        x = _GAP + column * (width + _GAP)
        for row, film in enumerate((truth, dream)):
            sheet.paste(Image.fromarray(film[place].cpu().numpy()), (x, _GAP + row * (height + _GAP)))
        draw.text((x + 2, sheet.height - line / 2), f"{place / fps:.2f} s", _INK, font, anchor="lm")
    return sheet


def curves(
    panels: Mapping[str, Mapping[str, Sequence[float | None]]], fps: float, mark: tuple[int, str]
) -> Image.Image:
    """Return line charts of values a frame against seconds, one below the other.

    Args:
        panels: By title, lines by name; None leaves a gap. Lines of one name have one colour.
        fps: Frames a second.
        mark: A frame to draw a vertical line at, and what to write there.
    """
    width, height, left, right, top, bottom = 960, 340, 70, 20, 34, 44
    chart = Image.new("RGB", (width, height * len(panels)), _GROUND)
    for number, (title, lines) in enumerate(panels.items()):
        box = (left, number * height + top, width - right, (number + 1) * height - bottom)
        _panel(ImageDraw.Draw(chart), box, title, lines, fps, mark)
    return chart


def _panel(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    title: str,
    lines: Mapping[str, Sequence[float | None]],
    fps: float,
    mark: tuple[int, str],
) -> None:
    left, top, right, bottom = box
    font = ImageFont.load_default(size=14)
    values = [value for line in lines.values() for value in line if value is not None]
    low, high, step = _scale(min(values, default=0.0), max(values, default=1.0))
    seconds = max(1.0, max(len(line) for line in lines.values()) / fps)

    def at(frame: float, value: float) -> tuple[float, float]:
        x = left + frame / fps / seconds * (right - left)
        return x, bottom - (value - low) / (high - low) * (bottom - top)

    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        y = at(0, value)[1]
        draw.line((left, y, right, y), _GRID)
        draw.text((left - 8, y), f"{value:g}" if step >= 1 else f"{value:.2f}", _INK, font, anchor="rm")
    every = math.ceil(seconds / 16)
    for second in range(0, math.floor(seconds) + 1, every):
        x = at(second * fps, low)[0]
        draw.line((x, bottom, x, bottom + 4), _INK)
        draw.text((x, bottom + 6), str(second), _INK, font, anchor="ma")
    draw.text(((left + right) / 2, bottom + 24), "seconds", _INK, font, anchor="ma")
    x = at(mark[0], low)[0]
    draw.line((x, top, x, bottom), _INK)
    draw.text((x + 4, bottom - 4), mark[1], _INK, font, anchor="ld")
    draw.line((left, top, left, bottom, right, bottom), _INK)
    draw.text((left, top - 8), title, _INK, font, anchor="ld")
    legend = float(right)
    for colour, (name, line) in reversed(list(zip(_COLOURS, lines.items(), strict=False))):
        draw.text((legend, top - 8), name, colour, font, anchor="rd")
        legend -= draw.textlength(name, font) + 18
        for run in _runs(line):
            points = [at(frame, value) for frame, value in run]
            draw.line(points if len(points) > 1 else points * 2, colour, width=2)


def _runs(line: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Split a line at its gaps: runs of (frame, value)."""
    runs: list[list[tuple[int, float]]] = [[]]
    for frame, value in enumerate(line):
        if value is not None:
            runs[-1].append((frame, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Return round limits of an axis that holds low..high, and the step between its marks: 1, 2 or 5 times 10^n."""
    span = max(high - low, 1e-3)
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.floor(low / step) * step
    last = math.ceil(high / step) * step
    return first, last if last > first else first + step, step
