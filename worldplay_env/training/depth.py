"""Depth as an auxiliary training target: moving a picture by the camera takes its depth.

Linear heads read it from latents and from hidden tokens, as the logarithm of inverse depth in a grid of 2 x 2 cells a
latent pixel. The export leaves them out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

CELLS = 2
"""Depth values along a side of a latent pixel."""
FARTHEST = 32.0
"""Depth in units; farther surfaces and the sky count as this far."""
NEAREST = 0.1
_BEND = 0.2
"""Error of the logarithm up to which the loss is quadratic."""


def cells(values: Tensor, rows: int = 1, columns: int = 1) -> Tensor:
    """Gather what blocks of latent pixels cover: [..., CELLS h, CELLS w] to [..., h / rows, w / columns, cells].

    Args:
        values: One a cell.
        rows: Latent pixels in a block, down.
        columns: And across.
    """
    return rearrange(values, "... (y py) (x px) -> ... y x (py px)", py=CELLS * rows, px=CELLS * columns)


def target(depth: Tensor) -> Tensor:
    """Return the logarithm of inverse depth along the optical axis, in units; inf for sky: float32."""
    return -depth.float().clamp(NEAREST, FARTHEST).log()


def loss(read: Tensor, truth: Tensor) -> Tensor:
    """Return the smooth absolute error of logarithms of inverse depth, a mean over all cells."""
    return F.smooth_l1_loss(read.float(), truth, beta=_BEND)


def error(read: Tensor, truth: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the root mean square error of logarithms of inverse depth where the truth is a surface, not sky.

    Of those cells, the ones that count: bool in the shape of the truth; None: all.
    """
    surface = truth > 1e-3 - math.log(FARTHEST)
    if counts is not None:
        surface = surface & counts
    squares = torch.where(surface, (read.float() - truth).square(), 0.0)
    return (squares.sum() / surface.sum().clamp(min=1)).sqrt()
