"""PPO's mathematics: advantages, the clipped loss, and the statistics of an update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RolloutBuffer:
    """T steps of N worlds; tensors [T, N, ...] on the device."""

    observations: Tensor
    goals: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    dones: Tensor
    advantages: Tensor

    def flatten(self) -> dict[str, Tensor]:
        """Return the fields as one batch, [T * N, ...], and the value targets as "returns"."""
        fields = {name: tensor.flatten(0, 1) for name, tensor in vars(self).items()}
        return fields | {"returns": fields["advantages"] + fields["values"]}


def generalized_advantages(
    rewards: Tensor, values: Tensor, dones: Tensor, next_value: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, equation 16), float [T, N].

    Args:
        rewards: [T, N], of step t.
        values: [T, N], of the state before step t.
        dones: bool [T, N], whether step t ended its episode.
        next_value: [N], of the state after the last step.
        gamma: Discount of a step.
        gae_lambda: Weight of longer returns against the value estimate.
    """
    advantages, advantage = torch.zeros_like(rewards), torch.zeros_like(next_value)
    for step in reversed(range(len(rewards))):
        not_done = (~dones[step]).to(rewards.dtype)
        delta = rewards[step] + gamma * next_value * not_done - values[step]
        advantage = delta + gamma * gae_lambda * not_done * advantage
        advantages[step], next_value = advantage, values[step]
    return advantages


def clipped_policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip_coef: float) -> Tensor:
    """Return PPO's policy loss (arXiv 1707.06347, equation 7, negated), the mean over a batch [B].

    Args:
        log_prob: Of the actions taken, under the policy in training.
        old_log_prob: The same, under the policy that acted.
        advantage: Of those actions.
        clip_coef: Epsilon.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_coef, 1 + clip_coef) * advantage).mean()


def policy_change(log_prob: Tensor, old_log_prob: Tensor, clip_coef: float) -> tuple[Tensor, Tensor]:
    """Return the approximate KL(old, new) and the clipped fraction of a batch [B].

    The divergence is the mean of (r - 1) - log r over the actions taken, r the ratio of their probabilities: an
    unbiased estimate that is never negative (Schulman 2020, "Approximating KL divergence").
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    return (ratio - 1 - log_ratio).mean(), ((ratio - 1).abs() > clip_coef).float().mean()


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Return the fraction of the returns' variance that the values explain: 1 at best, 0 for constant returns."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0
