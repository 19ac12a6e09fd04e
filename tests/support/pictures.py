"""Pictures of noise for tests of what compares them."""

from __future__ import annotations

import torch
from torch import Tensor


def pictures(seed: int, *, count: int = 2, size: tuple[int, int] = (13, 17)) -> Tensor:
    """Return pictures of noise, uint8 [count, height, width, 3]."""
    return torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth_pictures(seed: int) -> Tensor:
    """Return two pictures whose neighbouring pixels are alike, so that structure is there to be similar."""
    coarse = pictures(seed, size=(4, 5)).permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(coarse, size=(13, 17), mode="bilinear").byte().permute(0, 2, 3, 1)
