"""What the figures look like: strips of truth and dream, and quality against time."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

STRIP_FRAMES = 9

_GROUND, _INK = (255, 255, 255), (40, 40, 46)
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
    # Here: its import takes a second. A figure without pyplot needs no display and shares no state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4 * len(panels)), dpi=100, layout="constrained")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    for axes, (title, lines) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for name, line in lines.items():
            values = np.array([math.nan if value is None else value for value in line])
            axes.plot(np.arange(len(line)) / fps, values, color=colours[name], label=name)
        axes.axvline(mark[0] / fps, color="black", linewidth=0.8)
        place = (mark[0] / fps, 0.02)
        word = axes.annotate(
            mark[1], place, (3, 0), axes.get_xaxis_transform(), "offset points", annotation_clip=True
        )
        word.set_in_layout(False)  # it may be outside a short film
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set(xlabel="seconds", xlim=(0, max(len(line) for line in lines.values()) / fps))
        axes.grid(alpha=0.3)
    labelled = [axes.get_legend_handles_labels() for axes in figure.axes]
    shown = {name: drawn for legend in labelled for drawn, name in zip(*legend, strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", fontsize="small", ncols=len(shown))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")
