"""Recorded preparation of images and prompts: the kind `image_and_text`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from golden_cases.case import Case
from golden_cases.comparison import Row, compare, holds, skipped
from worldplay_env.media.image import fit_image
from worldplay_env.models.wan.text import clean_prompt

FALLS_SHORT = "by rule: a truncated side falls short of the target, and the recording is padded with black"
"""Spec section 4, the one place where the project differs from upstream on purpose."""


def image_and_text(case: Case) -> Iterator[Row]:
    """Pictures -> the model's input pixels; prompts -> cleaned prompts."""
    for item in case["items"]:
        name = f"{case.name}/{item['name']}"
        picture = case.tensor(f"{item['name']}/input").numpy()
        width, height = item["target_width_height"]
        recorded = case.tensor(f"{item['name']}/output").numpy()
        if falls_short(picture, (height, width)):
            yield skipped(name, FALLS_SHORT)
            recorded = _covering(picture, (height, width))
            name += " (never short)"
        yield compare(name, normalised_pixels(fit_image(picture, (height, width))), recorded, case.tolerance("image"))
    for raw, clean in case.values.get("prompt_clean", []):
        result = clean_prompt(raw)
        yield holds(f"{case.name}/prompt {raw!r}", result == clean, f"{result!r} instead of {clean!r}")


def normalised_pixels(picture: np.ndarray) -> np.ndarray:
    """Turn uint8 [height, width, 3] into the model's float [3, height, width] in [-1, 1]."""
    return np.moveaxis(picture / 127.5 - 1, -1, 0)


def _scaled(picture: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width, truncated, of a picture [h0, w0, 3] that is scaled to cover a height and width."""
    h0, w0, _ = picture.shape
    scale = max(size[1] / w0, size[0] / h0)
    return math.trunc(h0 * scale), math.trunc(w0 * scale)


def falls_short(picture: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether truncation leaves a side of the scaled picture shorter than the target's height or width."""
    height, width = _scaled(picture, size)
    return height < size[0] or width < size[1]


def _covering(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to sides that are never short of the target's, and crop the centre: float [3, height, width]."""
    height, width = (max(pair) for pair in zip(_scaled(picture, size), size, strict=True))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    return normalised_pixels(np.asarray(resized.crop((left, top, left + size[1], top + size[0]))))
