"""Where a token is: rotary positions in time and picture (RoPE), and its camera (PRoPE).

RoPE (Su et al., 2021) turns pairs of channels by angles that grow with a token's frame, row and column. PRoPE
(Li et al., "Cameras as Relative Positional Encoding", 2025) multiplies groups of four channels by the 4x4 projection
of the token's camera, so that attention sees the relative projection P_i P_j^-1 of two frames. Spec section 6.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

ROPE_BASE = 10000.0


@dataclass(frozen=True, eq=False)
class Positions:
    """The position tables of one call's frames: made once a chunk, used by every block and denoising step.

    Attributes:
        cos: float32 [frames * tokens, head_dim / 2] cosines of RoPE's angles.
        sin: The sines, in the same layout.
        projection: float32 [batch, frames, 4, 4] PRoPE's P.
        inverse: float32 [batch, frames, 4, 4] its inverse.
        seen: bool [batch, 1, 1, keys], which tokens of the memory and of these frames are attended to. None: all.
    """

    cos: Tensor
    sin: Tensor
    projection: Tensor
    inverse: Tensor
    seen: Tensor | None = None


def rope_split(head_dim: int) -> tuple[int, int, int]:
    """Return how many channels of a head tell time, row and column (44, 42, 42 of 128)."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


@functools.lru_cache(maxsize=32)
def rope_table(
    frames: range, rows: int, columns: int, head_dim: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of RoPE's angles, float32 [frames * rows * columns, head_dim / 2].

    A world needs few of them (five lengths of memory) and gets the same tensors again, not to be written to.
    """
    time_dim, row_dim, column_dim = rope_split(head_dim)
    grid = torch.meshgrid(
        torch.arange(frames.start, frames.stop, dtype=torch.float64),
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    angles = torch.cat(
        [
            position.flatten()[:, None] * ROPE_BASE ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            for position, dim in zip(grid, (time_dim, row_dim, column_dim), strict=True)
        ],
        dim=1,
    )  # [frames * rows * columns, head_dim / 2], float64: the angles reach hundreds of radians
    with torch.inference_mode(False):  # so that whoever comes next may train with them
        return angles.cos().float().to(device), angles.sin().float().to(device)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn interleaved channel pairs of x [..., tokens, heads, head_dim] by the table's angles, in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]  # [tokens, 1, head_dim / 2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


def projections(viewmats: Tensor, intrinsics: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return PRoPE's P = lift(K) @ w2c and its inverse, float32 [..., frames, 4, 4].

    Args:
        viewmats: [..., frames, 4, 4] world-to-camera matrices.
        intrinsics: [..., frames, 3, 3] normalised intrinsics; only the focal lengths count. None: P = w2c.
    """
    projection = viewmats.float()
    if intrinsics is not None:
        focal = torch.diagonal(intrinsics.float(), dim1=-2, dim2=-1)[..., :2]  # fx, fy
        lift = torch.cat([focal, torch.ones_like(focal)], dim=-1)  # the diagonal of lift(K)
        projection = lift[..., None] * projection
    # inv_ex does not wait for the device to report a singular matrix; poses are checked when they come in.
    return projection, torch.linalg.inv_ex(projection)[0]


def apply_projection(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply each group of four channels by its frame's matrix, in float32.

    Args:
        x: [batch, frames * tokens, heads, head_dim].
        matrices: float32 [batch, frames, 4, 4].

    Returns:
        Matrices @ x for every 4-vector, in the shape and dtype of x.
    """
    vectors = rearrange(x.float(), "b (f n) h (g c) -> b f (n h g) c", f=matrices.shape[1], c=4)
    return (vectors @ matrices.mT).view(x.shape).type_as(x)


def prope_queries(q: Tensor, positions: Positions) -> Tensor:
    """Map queries [batch, tokens, heads, head_dim] by P^T."""
    return apply_projection(q, positions.projection.mT)


def prope_keys_values(kv: Tensor, positions: Positions) -> Tensor:
    """Map keys or values [batch, tokens, heads, head_dim] by P^-1."""
    return apply_projection(kv, positions.inverse)


def prope_outputs(out: Tensor, positions: Positions) -> Tensor:
    """Map the attention's outputs [batch, tokens, heads, head_dim] by P."""
    return apply_projection(out, positions.projection)
