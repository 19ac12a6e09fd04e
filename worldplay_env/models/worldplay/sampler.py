"""The four-step schedule of the distilled model, its Euler step and the denoising of a chunk (spec section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    return _follow(x, flow, _STEPS[step])


def _follow(x: Tensor, flow: Tensor, difference: float) -> Tensor:
    return x + torch.tensor(difference, dtype=flow.dtype).item() * flow


@dataclass(frozen=True, eq=False)
class DenoisingStep:
    """One step of `denoise`, whose forward is done.

    Attributes:
        index: 0..3.
        latents: [batch, C, frames, h, w] at the noise level of the step.
        flow: The velocity there.
        known: bool [batch, 1, frames, 1, 1], which latent frames are given.
        clean: [batch, C, 1 or frames, h, w] the given latent frames.
    """

    index: int
    latents: Tensor
    flow: Tensor
    known: Tensor
    clean: Tensor

    def prediction(self) -> Tensor:
        """Return the clean latents that the flow leads to, float32: after the last step, the result."""
        made = _follow(self.latents, self.flow, -SIGMAS[self.index])
        return torch.where(self.known, self.clean, made.float())


def denoise(
    velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, clean: Tensor, known: Tensor, dtype: torch.dtype
) -> Iterator[DenoisingStep]:
    """Follow the flow from noise to clean latents in the four steps of the schedule; yield each step.

    Latent frames that are known are fed clean and never updated. A step has gradients of its own: what it starts from
    is detached.

    Args:
        velocity: Returns the flow of latents [batch, C, frames, h, w] at timesteps, float32 [batch, frames].
        noise: float32 [batch, C, frames, h, w].
        clean: float32 [batch, C, 1 or frames, h, w], the known latent frames.
        known: bool [batch, frames], which they are.
        dtype: What the latents are denoised in.
    """
    mask = known[:, None, :, None, None]
    x = torch.where(mask, clean, noise).to(dtype)
    for step, timestep in enumerate(TIMESTEPS):
        flow = velocity(x, torch.where(known, KNOWN_TIMESTEP, timestep))
        yield DenoisingStep(step, x, flow, mask, clean)
        x = torch.where(mask, x, euler_step(x, flow, step)).detach()
