"""The four-step schedule of the distilled model, and its Euler step (spec section 7)."""

from __future__ import annotations

import torch
from torch import Tensor

TIMESTEPS = (1000.0, 960.0, 888.8889, 727.2728)
"""The timesteps of the four forwards; the end is 0."""
KNOWN_TIMESTEP = 14.0
"""The timestep at which clean latents are fed: the start's latent frame, and memory."""

_SIGMAS = torch.tensor([*TIMESTEPS, 0.0], dtype=torch.float32) / 1000
SIGMAS: tuple[float, ...] = tuple(_SIGMAS.tolist())
"""Noise levels of the four steps and the end: sigma = t / 1000, each a float32."""
_STEPS: tuple[float, ...] = tuple((_SIGMAS[1:] - _SIGMAS[:-1]).tolist())


def euler_step(x: Tensor, flow: Tensor, step: int) -> Tensor:
    """Follow the flow from one noise level to the next: x + (sigma_next - sigma) * flow.

    In a low-precision dtype the difference is rounded to it, as is its product with the flow before it is added.

    Args:
        x: Latents at the noise level of `step`.
        flow: The velocity d x / d sigma there, same shape.
        step: 0..3.
    """
    difference = torch.tensor(_STEPS[step], dtype=flow.dtype).item()
    return x + difference * flow
