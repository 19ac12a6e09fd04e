"""Functions from a network to the network that takes its place: how a world's networks are made faster or smaller.

A world is built with any number of them (`transforms=` of `worldplay_env.load`). Each is given the transformer, then
the autoencoder, with their parameters in place, and returns the module to use: the same one, changed, or another.
Those here leave other networks than their own as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from worldplay_env.models.wan.attention import attend
from worldplay_env.models.wan.autoencoder import Autoencoder, EncodingCodec
from worldplay_env.models.wan.block import BlockNetwork
from worldplay_env.models.wan.compiled import Compiled, compiled_execution
from worldplay_env.models.wan.float8 import quantized_blocks
from worldplay_env.models.wan.small_decoder import SmallCodec

Transform = Callable[[nn.Module], nn.Module]
AnyCodec = TypeVar("AnyCodec", bound=EncodingCodec)

ATTENTIONS = ("cudnn",)
"""Attention kernels that can be asked for, beside torch's own choice."""
QUANTIZATIONS = ("fp8",)


@dataclass(frozen=True)
class CompileNetworks:
    """Compiles the parts of a transformer's blocks, and the decoder.

    Attributes:
        backend: A backend of `torch.compile`.
    """

    backend: str | Callable[..., Any] = "inductor"

    def __call__(self, module: nn.Module) -> nn.Module:
        """Let a network run compiled; what it computes is equal up to rounding."""
        if isinstance(module, Autoencoder | SmallCodec):
            channels_last(module)
            decoder = Compiled(type(module.decoder).forward, _decoder_shape, backend=self.backend)
            module.decoder.__dict__["forward"] = functools.partial(decoder, module.decoder)
        elif isinstance(module, BlockNetwork):
            module.execution = compiled_execution(module.execution, backend=self.backend)
        return module


def _decoder_shape(decoder: nn.Module, x: Tensor, histories: tuple[Tensor, ...] | None) -> tuple[Any, ...]:
    return (*x.shape, histories is None)


def channels_last(codec: AnyCodec) -> AnyCodec:
    """Lay the kernels in memory as the activations lie, and return the codec."""
    for layer in codec.modules():
        if isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return codec


def cudnn_attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attend by cuDNN's kernel; by torch's choice where some keys are not seen (see `attention.Attend`)."""
    if seen is not None:
        return attend(q, k, v, seen)
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0]


def cudnn_attention(module: nn.Module) -> nn.Module:
    """Let a transformer attend by cuDNN's kernel, which a GPU and a dtype of 16 bits are needed for."""
    if isinstance(module, BlockNetwork):
        parameter = next(module.parameters())
        if parameter.device.type != "cuda" or parameter.dtype not in (torch.bfloat16, torch.float16):
            raise ValueError(
                f'attention="cudnn" needs a GPU and bfloat16 or float16, got {parameter.device} and {parameter.dtype}'
            )
        module.execution = dataclasses.replace(module.execution, attend=cudnn_attend)
    return module


def transforms_of(
    *, compile: bool = False, quantize: str | None = None, attention: str | None = None
) -> list[Transform]:
    """Return the transforms that options by name stand for, in the order in which they are applied.

    Args:
        compile: Compile the blocks and the decoder.
        quantize: "fp8" for linear layers of 8 bits in the blocks.
        attention: "cudnn" for cuDNN's kernel. None: torch's choice.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    if quantize not in (None, *QUANTIZATIONS):
        raise ValueError(f"unknown quantize {quantize!r}: known are {', '.join(QUANTIZATIONS)}, or None")
    if attention not in (None, *ATTENTIONS):
        raise ValueError(f"unknown attention {attention!r}: known are {', '.join(ATTENTIONS)}, or None")
    chosen: list[Transform] = []
    if quantize:
        chosen.append(quantized_blocks)
    if attention:
        chosen.append(cudnn_attention)
    if compile:
        chosen.append(CompileNetworks())
    return chosen
