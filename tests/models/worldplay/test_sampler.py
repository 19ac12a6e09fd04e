"""The four-step schedule and its Euler step."""

from __future__ import annotations

import torch

from worldplay_env.models.worldplay import sampler


def test_a_constant_velocity_is_followed_from_noise_to_data() -> None:
    noise, data = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    x = noise
    for step in range(len(sampler.TIMESTEPS)):
        x = sampler.euler_step(x, noise - data, step)
    assert torch.allclose(x, data, atol=1e-6)


def test_noise_levels_are_the_timesteps_over_a_thousand_and_end_at_zero() -> None:
    expected = torch.tensor([*sampler.TIMESTEPS, 0.0]) / 1000
    assert torch.equal(torch.tensor(sampler.SIGMAS), expected)


def test_low_precision_rounds_the_difference_and_the_update_before_it_is_added() -> None:
    x, flow = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    difference = torch.tensor(sampler.SIGMAS[1]) - torch.tensor(sampler.SIGMAS[0])
    rounded = (difference.bfloat16().float() * flow.float()).bfloat16()
    assert torch.equal(sampler.euler_step(x, flow, 0), (x.float() + rounded.float()).bfloat16())
