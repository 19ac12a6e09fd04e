"""The schedule of the distilled sampler: each step predicts the clean block and adds fresh noise to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldplay_env.models.abot.config import ScheduleConfig

LEVELS = 1000


def sigma_table(shift: float) -> Tensor:
    """Return the noise levels from which steps are taken, float32 [1000], falling from 1."""
    s = torch.linspace(1, 0, LEVELS + 1, dtype=torch.float32)[:-1]
    return shift * s / (1 + (shift - 1) * s)


@dataclass(frozen=True)
class Schedule:
    """Noise levels and timesteps of the steps of a block.

    Attributes:
        sigmas: One a step, each a float32.
        timesteps: 1000 times the noise levels, each a float32.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    @classmethod
    def of(cls, config: ScheduleConfig) -> Schedule:
        """Return the schedule of a configuration."""
        sigmas = sigma_table(config.shift)[[LEVELS - step for step in config.steps]]
        return cls(tuple(sigmas.tolist()), tuple((sigmas * 1000).tolist()))

    def clean(self, x: Tensor, velocity: Tensor, step: int) -> Tensor:
        """Return the clean latents that a velocity leads to from a step's noise level, in the velocity's dtype."""
        return (x.double() - self.sigmas[step] * velocity.double()).to(velocity.dtype)

    def renoised(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        """Return clean latents at the noise level of a step, of fresh noise, in the dtype of the clean ones."""
        sigma = self.sigmas[step]
        return ((1 - sigma) * clean.float() + sigma * noise.to(clean.dtype).float()).to(clean.dtype)
