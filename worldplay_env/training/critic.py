"""A patch critic: it tells generated pictures from true ones (Isola et al., 2017).

Distances to the true video say little about soft edges and flat textures; a trained critic detects them. It is used
in the last minutes alone and with a small weight, because it does not know the picture's content. It is not exported.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

_WIDTHS = (48, 96, 192)
_DRIFT = 1e-3
"""Weight of the squared verdicts, to keep them bounded."""


class Critic(nn.Module):
    """Three convolutions of stride 2; the verdicts on patches of 22 x 22 pixels are above 0 for true pictures."""

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
    """Return the generator's loss, without gradients for the critic's parameters, and the critic's loss.

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
