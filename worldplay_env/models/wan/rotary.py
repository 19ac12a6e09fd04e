"""Rotary positions in time and picture (RoPE, Su et al., 2021) of Wan 2.2 transformers.

Pairs of channels are turned by angles that grow with a token's frame, row and column.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROPE_BASE = 10000.0


def rope_split(head_dim: int) -> tuple[int, int, int]:
    """Return how many channels of a head tell time, row and column (44, 42, 42 of 128)."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rope_table(
    frames: range, rows: int, columns: int, head_dim: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of RoPE's angles, float32 [frames, rows * columns, head_dim / 2]."""
    cosines: list[Tensor] = []
    sines: list[Tensor] = []
    for axis, (positions, dim) in enumerate(
        zip((frames, range(rows), range(columns)), rope_split(head_dim), strict=True)
    ):
        place = torch.arange(positions.start, positions.stop, positions.step, dtype=torch.float64)
        # In float64: the angles reach hundreds of radians. An axis has few of them, a picture has many tokens.
        angles = place[:, None] * ROPE_BASE ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        shape = [1, 1, 1, -1]
        shape[axis] = len(positions)
        for tables, values in ((cosines, angles.cos()), (sines, angles.sin())):
            tables.append(values.float().to(device).view(shape).expand(len(frames), rows, columns, -1))
    return torch.cat(cosines, dim=-1).flatten(1, 2), torch.cat(sines, dim=-1).flatten(1, 2)


class RopeTables:
    """The tables of one model, each made once; not to be written to.

    A world needs few of them: the positions of five lengths of memory and of the chunks behind them.

    Args:
        head_dim: Channels of a head.
    """

    def __init__(self, head_dim: int) -> None:
        self._head_dim = head_dim
        self._tables: dict[tuple[range, int, int, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, frames: range, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what `rope_table` does."""
        key = frames, rows, columns, device
        if key not in self._tables:
            with torch.inference_mode(False):  # so that later calls may train with them
                self._tables[key] = rope_table(frames, rows, columns, self._head_dim, device)
        return self._tables[key]

    def clear(self) -> None:
        """Drop the tables; they are made anew when they are asked for."""
        self._tables.clear()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn interleaved channel pairs of x [..., tokens, heads, head_dim] by angles [..., tokens, head_dim / 2].

    In float32; the result has the dtype of x.
    """
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., None, :], sin[..., None, :]  # [..., tokens, 1, head_dim / 2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)
