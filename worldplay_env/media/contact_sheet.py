"""Pictures side by side under captions, and single pictures as files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldplay_env.media.files import replacing
from worldplay_env.media.video import as_frames

TILE_WIDTH = 320
"""Pixels of a frame on a contact sheet."""


class ContactSheet:
    """Gathers evenly spaced frames of a film whose length is not known beforehand, for one picture of it all.

    It keeps a thumbnail of every n-th frame; each time there are too many it forgets every other one and doubles n,
    so that a film of any length costs a bounded memory.

    Args:
        fps: Frames per second, for the time stamps.
        tiles: Frames on the sheet, at most; at least 2.
        tile_width: Width in pixels that frames are scaled to.
    """

    def __init__(self, fps: float = 16, tiles: int = 16, tile_width: int = TILE_WIDTH) -> None:
        self._fps = fps
        self._tiles = tiles
        self._tile_width = tile_width
        self._step = 1
        self._seen = 0
        self._kept: dict[int, Image.Image] = {}
        """Thumbnails by the frame's place in the film."""
        self._newest: np.ndarray | None = None

    def add(self, frames: np.ndarray) -> None:
        """Take uint8 [height, width, 3] or [N, height, width, 3] as the frames that follow."""
        for frame in as_frames(frames):
            if self._seen % self._step == 0:
                self._kept[self._seen] = _thumbnail(frame, self._tile_width)
                if len(self._kept) > 4 * self._tiles:
                    self._step *= 2
                    self._kept = {place: kept for place, kept in self._kept.items() if place % self._step == 0}
            self._seen += 1
            self._newest = frame
        if self._newest is not None:
            self._newest = self._newest.copy()  # not a view of the caller's buffer

    def image(self) -> Image.Image:
        """Return the sheet: first to last frame, row by row, each with its time in the film below it.

        Raises:
            ValueError: No frame was added.
        """
        if self._newest is None:
            raise ValueError("a contact sheet needs at least one frame")
        last = self._seen - 1
        kept = {**self._kept, last: _thumbnail(self._newest, self._tile_width)}
        places = np.array(sorted(kept))
        wanted = np.linspace(0, last, min(self._tiles, len(kept)))
        chosen = np.unique([places[np.abs(places - place).argmin()] for place in wanted])
        return _grid([kept[place] for place in chosen], [f"{place / self._fps:.2f} s" for place in chosen], None)

    def save(self, path: str | Path) -> None:
        """Write the sheet as a PNG; an older file of that name stays until the new one is complete."""
        save_picture(self.image(), path)


def tile(
    frames: Sequence[np.ndarray], captions: Sequence[str], columns: int | None = None, width: int = TILE_WIDTH
) -> Image.Image:
    """Lay frames out in a grid, row by row, with a caption below each.

    Args:
        frames: uint8 [height, width, 3], at least one, all of one size.
        captions: One for each.
        columns: Frames in a row; by default about as many as rows.
        width: Width in pixels that each frame is scaled to.
    """
    return _grid([_thumbnail(frame, width) for frame in frames], captions, columns)


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a PNG; an older file of that name stays until the new one is complete."""
    with replacing(path) as partial:
        picture.save(partial, format="PNG")


def _thumbnail(frame: np.ndarray, width: int) -> Image.Image:
    height = max(1, round(frame.shape[0] * width / frame.shape[1]))
    return Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)


def _grid(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int | None) -> Image.Image:
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    gap, caption_height = 6, max(16, width // 14)
    font = ImageFont.load_default(size=0.8 * caption_height)
    cell_width, cell_height = width + gap, height + caption_height + gap
    sheet = Image.new("RGB", (columns * cell_width + gap, rows * cell_height + gap), (24, 24, 27))
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = gap + index % columns * cell_width, gap + index // columns * cell_height
        sheet.paste(picture, (x, y))
        draw.text((x + 2, y + height + caption_height / 2), caption, (228, 228, 231), font, anchor="lm")
    return sheet
