"""How far chunks are from the truth: by the distance where it is certain, by the energy score where it is not.

The energy score (Gneiting & Raftery, 2007) of a distribution is E|a - y| - E|a - b| / 2, for samples a, b and the
truth y. It is least, on average, for the distribution that the truth was drawn from; without its second term it is
least for that distribution's median, which is grey where much is possible. Here a and b are two makings of one chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldplay_env.models.codec import Codec
from worldplay_env.worlds.base import LAYOUT

_FRAMES_PER_LATENT = LAYOUT.images
_ROUND = 1e-4
"""Added to squares below a root, whose slope at 0 would be infinite."""
_FAINT = 1e-3
"""Added to a contrast's square: the logarithm tells contrasts below four of 255 levels hardly apart."""


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


def pictures(autoencoder: Codec, latents: Tensor, context: Tensor) -> Tensor:
    """Decode chunks behind other latent frames: [b, 3, F, H, W] in about [-1, 1], F = 16, or 13 of a first chunk.

    Args:
        autoencoder: Frozen.
        latents: [b, C, 4, h, w].
        context: [b, C, 0.., h, w] the latent frames before the chunks.
    """
    skipped = max(0, _FRAMES_PER_LATENT * context.shape[2] - 3)
    frames, _ = autoencoder.decode(torch.cat([context, latents], dim=2), clamp=False)
    return frames[:, :, skipped:].float()


def pixel_score(first: Tensor, second: Tensor, truth: Tensor, asked: Tensor, invented: Tensor) -> Tensor:
    """Return the score of two makings of b chunks as pictures, whose parts are what a latent pixel covers of each.

    Args:
        first: [b, 3, F, H, W].
        second: Likewise.
        truth: Likewise.
        asked: See `latent_score`.
        invented: See there.
    """

    def distance(one: Tensor, other: Tensor) -> Tensor:
        squares = (one - other).square().mean(1)  # [b, F, H, W]
        return (F.avg_pool2d(squares, squares.shape[-1] // asked.shape[-1]) + _ROUND).sqrt()  # [b, F, h, w]

    asked, invented = _in_time(asked, truth), _in_time(invented, truth)
    return _score(distance(first, truth), distance(second, truth), distance(first, second), asked, invented)


def contrast_score(first: Tensor, second: Tensor, truth: Tensor, certain: Tensor) -> Tensor:
    """Return the energy score of the pictures' contrasts alone, whose parts are colours and scales of each picture.

    It asks for as much contrast as the scene has, wherever in a picture it is. So it has something to say of what a
    model invented long ago, too, which else fades with each time that it is remembered. A picture counts as far as
    it is not certain.

    Args:
        first: [b, 3, F, H, W].
        second: Likewise.
        truth: Likewise.
        certain: bool [b, 4, h, w], the latent pixels that are compared with the truth by distance.
    """
    one, other, true = (contrasts(video) for video in (first, second, truth))
    each = ((one - true).abs() + (other - true).abs() - (one - other).abs()).mean((1, 3)) / 2  # [b, F]
    return (each * _in_time(~certain, truth).float().mean((2, 3))).mean()


def contrasts(video: Tensor) -> Tensor:
    """Return the logarithms of pictures' contrasts, by colour and by scale: [b, 3, F, S].

    The contrast at a scale is the deviation of the means over squares from those over squares twice as large: 1, 2,
    4, ... pixels wide, while a picture can be divided into them, and last of the largest squares from the whole
    picture. Squared they add up to the picture's variance.

    Args:
        video: [b, 3, F, H, W].
    """
    parts = []
    while not video.shape[-1] % 2 and not video.shape[-2] % 2:
        coarser = F.avg_pool3d(video, (1, 2, 2))
        parts.append(video.square().mean((-2, -1)) - coarser.square().mean((-2, -1)))
        video = coarser
    parts.append(video.var((-2, -1), correction=0))
    return (torch.stack(parts, dim=-1).clamp(min=0) + _FAINT).log() / 2


def _in_time(latent_pixels: Tensor, video: Tensor) -> Tensor:
    """Return what is said of latent pixels [b, 4, h, w] for each picture of a video [b, 3, F, H, W]: [b, F, h, w]."""
    frames = video.shape[2]  # 13 of a first chunk: its first latent frame is one picture
    return latent_pixels.repeat_interleave(_FRAMES_PER_LATENT, 1)[:, -frames:]


def _score(first: Tensor, second: Tensor, apart: Tensor, asked: Tensor, invented: Tensor) -> Tensor:
    """Return the mean score over all parts, those that do not count as 0, of distances [b, ...]."""
    each = (first + second) / 2 - torch.where(invented, apart / 2, 0.0)
    return torch.where(asked, each, 0.0).mean()
