"""How far chunks are from the truth: by the distance where it is certain, by the energy score where it is not.

The energy score (Gneiting & Raftery, 2007) of a distribution is E|a - y| - E|a - b| / 2, for samples a, b and the
truth y. It is least, on average, for the distribution that the truth was drawn from; without its second term it is
least for that distribution's median, which is grey where much is possible. Here a and b are two makings of one chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldplay_env.model.autoencoder import Autoencoder
from worldplay_env.world import CHUNK_FRAMES, CHUNK_LATENTS

_FRAMES_PER_LATENT = CHUNK_FRAMES // CHUNK_LATENTS
_ROUND = 1e-4
"""Added to squares below a root, whose slope at 0 would be infinite."""


def latent_score(pair: Tensor, truth: Tensor, asked: Tensor, invented: Tensor) -> Tensor:
    """Return the score of two makings of b chunks as latents, whose parts are latent pixels.

    Args:
        pair: [b, 2, C, 4, h, w].
        truth: [b, C, 4, h, w].
        asked: bool [b, 4, h, w], the parts that count.
        invented: bool [b, 4, h, w], the parts that are scored as samples, not as estimates.
    """

    def distance(one: Tensor, other: Tensor) -> Tensor:
        return ((one - other).square().mean(1) + _ROUND).sqrt()

    first, second = pair.unbind(1)
    return _score(distance(first, truth), distance(second, truth), distance(first, second), asked, invented)


def pixel_score(
    autoencoder: Autoencoder, pair: Tensor, truth: Tensor, asked: Tensor, invented: Tensor, context: Tensor
) -> Tensor:
    """Return the score of the same chunks' pictures, all decoded behind the same latent frames.

    Its parts are the squares of each picture that a latent pixel covers.

    Args:
        autoencoder: Frozen.
        pair: See `latent_score`, as the next three.
        truth: See there.
        asked: See there.
        invented: See there.
        context: [b, C, 0.., h, w] the latent frames before the chunks.
    """
    skipped = max(0, _FRAMES_PER_LATENT * context.shape[2] - 3)

    def pictures(latents: Tensor) -> Tensor:
        frames, _ = autoencoder.decode(torch.cat([context, latents], dim=2), clamp=False)
        return frames[:, :, skipped:].float()  # [b, 3, F, H, W]

    def distance(one: Tensor, other: Tensor) -> Tensor:
        squares = (one - other).square().mean(1)  # [b, F, H, W]
        return (F.avg_pool2d(squares, squares.shape[-1] // truth.shape[-1]) + _ROUND).sqrt()  # [b, F, h, w]

    with torch.no_grad():
        true = pictures(truth)
    first, second = (pictures(made) for made in pair.unbind(1))
    frames = true.shape[2]  # 16, or 13 of a first chunk, whose first latent frame is one picture
    asked, invented = (part.repeat_interleave(_FRAMES_PER_LATENT, 1)[:, -frames:] for part in (asked, invented))
    return _score(distance(first, true), distance(second, true), distance(first, second), asked, invented)


def _score(first: Tensor, second: Tensor, apart: Tensor, asked: Tensor, invented: Tensor) -> Tensor:
    """Return the mean score over all parts, those that do not count as 0, of distances [b, ...]."""
    each = (first + second) / 2 - torch.where(invented, apart / 2, 0.0)
    return torch.where(asked, each, 0.0).mean()
