"""The critic tells made pictures from true ones, and its gradients go where they are to go."""

from __future__ import annotations

import torch
from small_world import CONFIG

from worldplay_env.training import autoencoder, critic
from worldplay_env.training.autoencoder import AutoencoderOptions
from worldplay_env.training.critic import Critic
from worldplay_env.weights.checkpoint import initialise

CPU = torch.device("cpu")


def stripes(count: int, amplitude: float, seed: int) -> torch.Tensor:
    """Return videos [count, 3, 2, 32, 48] of stripes at random places."""
    shift = torch.rand(count, 1, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    return amplitude * torch.sin(torch.arange(48) * 0.8 + 6.3 * shift).expand(count, 3, 2, 32, 48)


def test_it_learns_to_tell_soft_pictures_from_sharp_ones() -> None:
    judge = initialise(Critic(), 0)
    optimiser = torch.optim.Adam(judge.parameters(), 2e-3)
    for step in range(40):
        _, loss = critic.losses(judge, stripes(4, 0.5, step), stripes(4, 1.0, step + 1000))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        sharp, soft = (judge(stripes(8, amplitude, 7)[:, :, 0]).mean() for amplitude in (1.0, 0.5))
    assert sharp > soft + 0.5


def test_makers_and_critic_get_gradients_of_their_own() -> None:
    judge = initialise(Critic(), 0)
    made = stripes(2, 0.5, 0).clone().requires_grad_()
    makers, own = critic.losses(judge, made, stripes(2, 1.0, 1))
    makers.backward(retain_graph=True)
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.parameters())
    made.grad = None
    own.backward()
    assert made.grad is None
    assert all(parameter.grad is not None for parameter in judge.parameters())


def test_the_autoencoders_stage_asks_it_if_told_so() -> None:
    video = torch.rand(2, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.zeros(2, CONFIG.autoencoder.z_dim, 3, *CONFIG.latent_size)
    given = video, noise, torch.full((2, 3, 8, 12), 3.0), torch.zeros(1, 2)
    plain = autoencoder.fresh(CONFIG.autoencoder, 0, CPU)
    judged = autoencoder.fresh(CONFIG.autoencoder, 0, CPU, critic=True)
    without = autoencoder.losses(plain, AutoencoderOptions(), *given)
    found = autoencoder.losses(judged, AutoencoderOptions(looks=0.1), *given)
    assert found.keys() - without.keys() == {"looks", "critic"}
    torch.testing.assert_close(found["loss"], without["loss"] + 0.1 * found["looks"] + found["critic"])
