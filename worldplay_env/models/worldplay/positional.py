"""Where a token is: its rotary position (RoPE), and its camera (PRoPE). Spec section 6.

PRoPE (Li et al., "Cameras as Relative Positional Encoding", 2025) multiplies groups of four channels by the 4x4
projection of the token's camera, so that attention sees the relative projection P_i P_j^-1 of two frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Positions(NamedTuple):
    """The positions of one call's M = batch x frames latent frames, used by every block and denoising step.

    Attributes:
        cos: float32 [M, tokens, head_dim / 2] cosines of RoPE's angles.
        sin: The sines, in the same layout.
        projection: float32 [M, 4, 4] PRoPE's P.
        inverse: float32 [M, 4, 4] its inverse.
        seen: bool [batch, 1, 1, keys], which tokens of the memory and of these frames are attended to. None: all.
    """

    cos: Tensor
    sin: Tensor
    projection: Tensor
    inverse: Tensor
    seen: Tensor | None = None


def projections(viewmats: Tensor, intrinsics: Tensor | None, *, rigid: bool = False) -> tuple[Tensor, Tensor]:
    """Return PRoPE's P = lift(K) @ w2c and its inverse, float32 [..., frames, 4, 4].

    Args:
        viewmats: [..., frames, 4, 4] world-to-camera matrices.
        intrinsics: [..., frames, 3, 3] normalised intrinsics; only the focal lengths count. None: P = w2c.
        rigid: Invert as the rigid motions that they are, by products alone, which a CUDA graph can record.
    """
    viewmats = viewmats.float()
    lift = torch.ones_like(viewmats[..., 0])  # the diagonal of lift(K)
    if intrinsics is not None:
        focal = torch.diagonal(intrinsics.float(), dim1=-2, dim2=-1)[..., :2]  # fx, fy
        lift = torch.cat([focal, torch.ones_like(focal)], dim=-1)
    projection = lift[..., None] * viewmats
    if rigid:
        rotation, offset, last = viewmats[..., :3, :3], viewmats[..., :3, 3:], viewmats[..., 3:, :]
        poses = torch.cat([torch.cat([rotation.mT, -rotation.mT @ offset], dim=-1), last], dim=-2)
        return projection, poses / lift[..., None, :]
    # inv_ex does not wait for the device to report a singular matrix; poses are checked when they come in.
    return projection, torch.linalg.inv_ex(projection)[0]


def apply_projection(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply each group of four channels by its frame's matrix, in float32.

    Compiled, it is a sum of four products, which the compiler fuses with what is around it; otherwise one matrix
    product.

    Args:
        x: [M, tokens, heads, head_dim].
        matrices: float32 [M, 4, 4].

    Returns:
        Matrices @ x for every 4-vector, in the shape and dtype of x.
    """
    if torch.compiler.is_compiling():
        groups = x.float().unflatten(-1, (-1, 4))  # [M, n, heads, groups, 4]
        columns = matrices[:, None, None, None].unbind(-1)  # four of [M, 1, 1, 1, 4]
        first, *rest = (groups[..., i, None] * columns[i] for i in range(4))
        return sum(rest, first).flatten(-2).type_as(x)
    vectors = x.float().reshape(len(x), -1, 4)
    return (vectors @ matrices.mT).view(x.shape).type_as(x)


def prope_queries(q: Tensor, positions: Positions) -> Tensor:
    """Map queries [M, tokens, heads, head_dim] by P^T."""
    return apply_projection(q, positions.projection.mT)


def prope_keys_values(kv: Tensor, positions: Positions) -> Tensor:
    """Map keys or values [M, tokens, heads, head_dim] by P^-1."""
    return apply_projection(kv, positions.inverse)


def prope_outputs(out: Tensor, positions: Positions) -> Tensor:
    """Map the attention's outputs [M, tokens, heads, head_dim] by P."""
    return apply_projection(out, positions.projection)
