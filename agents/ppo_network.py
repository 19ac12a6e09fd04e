"""PPO's network: one encoder for the current picture and the goal, heads for policy and value."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_GRID_SIDE = 6
"""The encoder halves pictures until their shorter side has at most this many cells."""


class ActorCritic(nn.Module):
    """Map the current picture and the goal picture to action logits and a state value.

    One convolutional encoder turns both pictures into small grids of features. The cosine similarities of all pairs
    of cells show where the goal's content lies in the current picture; the heads get them and the features.

    Args:
        channels: Of a picture or latent frame.
        size: Its rows and columns.
        actions: Number of actions of the policy.
        width: Channels of the features.
    """

    def __init__(self, channels: int, size: tuple[int, int], actions: int, width: int = 32) -> None:
        super().__init__()
        rows, columns = size
        layers: list[nn.Module] = []
        while min(rows, columns) > MAX_GRID_SIDE:
            layers += [_orthogonal(nn.Conv2d(channels, width, 3, stride=2, padding=1)), nn.ReLU()]
            channels, rows, columns = width, -(-rows // 2), -(-columns // 2)
        self.features = nn.Sequential(*layers, _orthogonal(nn.Conv2d(channels, width, 3, padding=1)))
        cells = rows * columns
        self.trunk = nn.Sequential(_orthogonal(nn.Linear(cells * (cells + 2 * width), 256)), nn.ReLU())
        self.actor = _orthogonal(nn.Linear(256, actions), gain=0.01)
        self.critic = _orthogonal(nn.Linear(256, 1), gain=1.0)

    def forward(self, observation: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, actions] and values [N] of pictures or latent frames [N, channels, rows, columns]."""
        grids = self.features(torch.cat([_to_float(observation), _to_float(goal)])).flatten(2)  # [2N, width, cells]
        current, wanted = grids.chunk(2)
        current_unit, wanted_unit = nn.functional.normalize(grids, dim=1).chunk(2)
        similarity = torch.einsum("ncp, ncq -> npq", current_unit, wanted_unit)  # cosines, [N, cells, cells]
        hidden = self.trunk(torch.cat([similarity.flatten(1), current.flatten(1), wanted.flatten(1)], dim=1))
        return self.actor(hidden), self.critic(hidden).squeeze(1)


def _orthogonal(layer: nn.Conv2d | nn.Linear, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _to_float(pictures: Tensor) -> Tensor:
    """Scale uint8 pictures to [-1, 1]; latents stay as they are."""
    return pictures.float() / 127.5 - 1 if pictures.dtype == torch.uint8 else pictures


def network_inputs(observation: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the newest picture or latent frame and the goal's, [N, channels, rows, columns] each.

    Args:
        observation: The last picture [N, 3, H, W], a chunk of frames [N, F, 3, H, W] or of latents [N, C, F, h, w].
        goal: A picture [N, 3, H, W] or a latent frame [N, C, 1, h, w].
    """
    if goal.ndim == 5:
        return observation[:, :, -1], goal[:, :, 0]
    return observation[:, -1] if observation.ndim == 5 else observation, goal
