"""PPO's mathematics: advantages, the clipped loss, and the statistics of an update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripts import load_script

ppo_losses = load_script("agents/ppo_losses.py")


def test_advantages_are_the_discounted_sums_of_surprises_up_to_the_episodes_end() -> None:
    random = np.random.default_rng(0)
    steps, worlds, gamma, gae_lambda = 7, 3, 0.9, 0.8
    rewards, values = random.normal(size=(2, steps, worlds))
    last, ended = random.normal(size=worlds), random.random((steps, worlds)) < 0.3
    assert ended.any()

    expected = np.zeros((steps, worlds))
    for t in range(steps):
        for n in range(worlds):
            weight = 1.0
            for k in range(t, steps):
                after = 0.0 if ended[k, n] else (last[n] if k + 1 == steps else values[k + 1, n])
                expected[t, n] += weight * (rewards[k, n] + gamma * after - values[k, n])
                if ended[k, n]:
                    break
                weight *= gamma * gae_lambda

    given = [torch.from_numpy(part) for part in (rewards, values, ended, last)]
    np.testing.assert_allclose(
        ppo_losses.generalized_advantages(*given, gamma, gae_lambda), expected, rtol=0, atol=1e-12
    )


def test_with_full_traces_an_advantage_is_the_return_less_the_value() -> None:
    rewards, values = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.5], [0.25], [8.0]])
    ended = torch.tensor([[False], [True], [False]])
    advantages = ppo_losses.generalized_advantages(rewards, values, ended, torch.tensor([10.0]), 0.5, 1.0)
    assert advantages[:, 0].tolist() == [1 + 0.5 * 2 - 0.5, 2 - 0.25, 4 + 0.5 * 10 - 8]


def test_the_clipped_loss_is_what_is_worked_out_by_hand() -> None:
    # An action's probability went from 0.5 to 0.9, 0.2, 0.9, 0.2 and 0.55: ratios 1.8, 0.4, 1.8, 0.4 and 1.1.
    new, old = torch.tensor([0.9, 0.2, 0.9, 0.2, 0.55]).log(), torch.full((5,), 0.5).log()
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    # Gains stop at 1.2, losses count in full; what moved the wrong way is pulled back however far it went.
    by_hand = -(1.2 + 0.4 - 1.8 - 0.8 + 2.2) / 5
    assert ppo_losses.clipped_policy_loss(new, old, advantage, 0.2).item() == pytest.approx(by_hand, abs=1e-6)


def test_nothing_is_gained_by_moving_past_the_clip() -> None:
    new = torch.tensor([0.9, 0.2], requires_grad=True)
    ppo_losses.clipped_policy_loss(new.log(), torch.full((2,), 0.5).log(), torch.tensor([1.0, -1.0]), 0.2).backward()
    assert new.grad is not None
    assert new.grad.tolist() == [0.0, 0.0]


def test_how_far_the_policy_moved_is_its_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 5, generator=generator).log_softmax(1)
    taken = torch.multinomial(old.exp(), 100_000, replacement=True, generator=generator)
    kl, clipped = ppo_losses.policy_change(new[taken], old[taken], clip_coef=0.2)
    assert kl == pytest.approx(float((old.exp() * (old - new)).sum()), rel=0.05)
    moved = ((new - old).exp() - 1).abs() > 0.2
    assert clipped == pytest.approx(float((old.exp() * moved).sum()), abs=0.01)
    assert [float(one) for one in ppo_losses.policy_change(old, old, clip_coef=0.2)] == [0, 0]


@pytest.mark.parametrize(("values", "explained"), [([1, 2, 3], 1), ([5, 6, 7], 1), ([2, 2, 2], 0), ([3, 2, 1], -3)])
def test_explained_variance(values: list[float], explained: float) -> None:
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert ppo_losses.explained_variance(torch.tensor(values, dtype=torch.float32), returns) == pytest.approx(
        explained
    )
    assert ppo_losses.explained_variance(torch.tensor([0.0, 1.0]), torch.ones(2)) == 0
