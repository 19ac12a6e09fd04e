"""A critic of single pictures, which tells made ones from true ones by their patches (Isola et al., 2017).

Distances to the truth, and scores of them, leave open what it is about a picture that shows it is a made one: edges a
little soft, textures a little flat. A network that learns to tell says it. It is asked for in the last minutes alone,
with a small weight, since it knows nothing of what the picture should show. Nothing of it is exported.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

_WIDTHS = (48, 96, 192)
_DRIFT = 1e-3
"""Weight of the squared verdicts, which keeps them from growing without end."""


class Critic(nn.Module):
    """Three convolutions of stride 2, whose verdicts are of patches of 22 x 22 pixels: above 0 for true ones."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *_WIDTHS)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.verdict = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures [N, 3, H, W] in about [-1, 1] to verdicts float32 [N, H / 8, W / 8]."""
        x = pictures
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.verdict(x)[:, 0].float()


def losses(critic: Critic, made: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Return what makers are to lower, whose gradient passes by the critic's parameters, and what the critic is.

    Args:
        critic: In training.
        made: [B, 3, F, H, W] videos in about [-1, 1].
        true: Others, likewise.
    """
    made, true = (video.transpose(1, 2).flatten(0, 1).float() for video in (made, true))
    frozen = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    makers = -functional_call(critic, frozen, (made,)).mean()
    verdicts = critic(torch.cat([true.detach(), made.detach()]))
    on_true, on_made = verdicts.split([len(true), len(made)])
    hinge = F.relu(1 - on_true).mean() + F.relu(1 + on_made).mean()
    return makers, hinge + _DRIFT * verdicts.square().mean()
