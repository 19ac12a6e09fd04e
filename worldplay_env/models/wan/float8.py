"""Linear layers in 8-bit floating point: weights by row, activations by token, products in the activations' dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldplay_env.models.wan.block import Block

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
SMALLEST_SCALE = 1e-12
"""Of a row of zeros, whose scale must not be 0."""
MULTIPLE = 16
"""Channels that a matrix product in 8 bits takes at a time."""


def to_float8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows [..., dim] in 8 bits, and the float32 scales [..., 1] that give them back as a product."""
    rows = rows.float()
    scales = (rows.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=SMALLEST_SCALE)
    return (rows / scales).clamp(-LARGEST, LARGEST).to(FORMAT), scales


class Float8Linear(nn.Module):
    """A linear layer for inference whose weight is in 8 bits, with a scale a row; inputs get one a token.

    On a GPU the product runs in 8 bits (compute capability 8.9 or newer), elsewhere in float32 with equal operands.

    Args:
        linear: The layer to quantise. Both widths are multiples of 16.
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        if linear.in_features % MULTIPLE or linear.out_features % MULTIPLE:
            raise ValueError(
                f"an 8-bit layer has widths that are multiples of {MULTIPLE}, got {linear.in_features} and "
                f"{linear.out_features}"
            )
        weight, scales = to_float8(linear.weight.detach())
        self.register_buffer("weight", weight)  # [out, in]
        self.register_buffer("scales", scales.T.contiguous())  # [1, out]
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out], in the dtype of x."""
        rows, scales = to_float8(x.flatten(0, -2))
        if x.is_cuda:
            out = torch._scaled_mm(rows, self.weight.T, scales, self.scales, out_dtype=x.dtype, use_fast_accum=True)
        else:
            out = ((rows.float() @ self.weight.float().T) * scales * self.scales).to(x.dtype)
        if self.bias is not None:
            out = out + self.bias.to(x.dtype)
        return out.unflatten(0, x.shape[:-1])


def quantized_blocks(module: nn.Module) -> nn.Module:
    """Replace the linear layers of a transformer's blocks by 8-bit ones, in place; return it.

    The prompt's keys and values stay as they are: they are computed once a prompt. Other networks are not changed.
    """
    for block in module.modules():
        if isinstance(block, Block):
            once = {block.cross_attention.to_k, block.cross_attention.to_v}
            for parent in list(block.modules()):
                for name, layer in list(parent.named_children()):
                    if isinstance(layer, nn.Linear) and layer not in once:
                        setattr(parent, name, Float8Linear(layer))
    return module
