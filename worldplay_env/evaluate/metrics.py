"""Similarity of two pictures over a mask of pixels, and the visibility masks.

Masks are bool [F, H, W]; None counts every pixel. Pictures are uint8 [F, H, W, 3].
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOST_PSNR = 60.0
"""dB that equal pictures get, so that means stay finite and no frame outweighs the others; one grey level off
everywhere is 48 dB."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R BT.601)."""

_WINDOW, _SIGMA = 11, 1.5
_STABILITY = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)
_FAR = 1e4
_NEARER = 0.01
_INVERSE_ROUNDING = 1e-3


def psnr(frames: Tensor, truth: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return 10 log10(255^2 / mean squared error over the pixels that count and the three colours).

    Returns:
        float32 [F] in dB, `MOST_PSNR` at most; nan for a frame of which nothing counts.
    """
    error = (frames.float() - truth.float()).square().mean(3)  # [F, H, W]
    mean = _mean(error, counts)
    return (10 * torch.log10(255.0**2 / mean.clamp(min=1e-12))).clamp(max=MOST_PSNR)


def ssim(frames: Tensor, truth: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the mean structural similarity of the luminance (Wang et al. 2004) over the pixels that count.

    The window is a Gaussian of 11x11 and sigma 1.5; K1 = 0.01, K2 = 0.03, L = 255. Pixels that do not count, and what
    lies outside the frame, weigh nothing in any window, and the others' weights are scaled to a sum of 1.

    Returns:
        float32 [F], 1 at most; nan for a frame of which nothing counts.
    """
    x, y = luminance(frames), luminance(truth)
    weight = torch.ones_like(x) if counts is None else counts.to(x.dtype)
    total = _blur(weight).clamp(min=1e-12)

    def mean(values: Tensor) -> Tensor:
        return _blur(values * weight) / total

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x.square() + mean(y * y) - mean_y.square()
    covariance = mean(x * y) - mean_x * mean_y
    first, second = _STABILITY
    light = (2 * mean_x * mean_y + first) / (mean_x.square() + mean_y.square() + first)
    similarity = light * (2 * covariance + second) / (variances + second)
    return _mean(similarity, counts)


def luminance(frames: Tensor) -> Tensor:
    """Return the luminance 0..255 of pictures: float32 [F, H, W]."""
    return frames.float() @ torch.tensor(LUMA, device=frames.device)


def visible(depth: Tensor, relative: Tensor, other_depth: Tensor, intrinsics: np.ndarray) -> Tensor:
    """Return the mask of pixels whose surface point is visible in another picture too, such as the starting picture.

    Each pixel's point is projected into the other picture. It is visible there if it falls inside the picture and
    lies no more than 1 % behind the depth there (inverse depth, interpolated linearly, which is exact on planes). Sky
    is a point far away in its direction.

    Args:
        depth: float32 [F, H, W] along the optical axis at pixel centres, inf for sky.
        relative: float32 [F, 4, 4] from each camera's axes to the other's: the other's view matrix times c2w.
        other_depth: float32 [F, h, w] of the other pictures, or [h, w] of the one for all; of any resolution.
        intrinsics: float64 [3, 3], normalised, of all cameras.

    Returns:
        bool [F, H, W].
    """
    grid, ahead, distance = _project(depth, relative, intrinsics)
    inside = ahead & (grid >= -1).all(3) & (grid < 1).all(3)
    inverse = (1 / other_depth).expand(len(depth), *other_depth.shape[-2:])[:, None]
    surface = F.grid_sample(inverse, grid, padding_mode="border", align_corners=False)[:, 0]
    return inside & (1 / distance >= surface * (1 - _NEARER) - _INVERSE_ROUNDING)


def moved(picture: Tensor, depth: Tensor, relative: Tensor, intrinsics: np.ndarray) -> Tensor:
    """Warp one picture to other cameras: exact geometry, cubic interpolation.

    The result is right only where `visible` holds.

    Args:
        picture: uint8 [h, w, 3].
        depth: See `visible`; that of the pictures to return.
        relative: See there, to the camera that took the picture.
        intrinsics: See there.

    Returns:
        uint8 [F, H, W, 3].
    """
    grid, _, _ = _project(depth, relative, intrinsics)
    colours = picture.permute(2, 0, 1).float().expand(len(depth), 3, *picture.shape[:2])
    frames = F.grid_sample(colours, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def tone(frames: Tensor) -> tuple[float, float]:
    """Return the mean luminance of all frames, and their contrast: the mean of each frame's standard deviation."""
    grey = luminance(frames).flatten(1)
    return float(grey.mean()), float(grey.std(dim=1, correction=0).mean())


def _project(depth: Tensor, relative: Tensor, intrinsics: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Project the points that pixels show into another picture; the arguments are those of `visible`.

    Returns:
        Where they fall, float32 [F, H, W, 2], x and y from -1 to 1 inside the picture; whether they lie before that
        camera, bool [F, H, W]; and their depth in it, float32 [F, H, W], 1 for those behind it.
    """
    device = depth.device
    height, width = depth.shape[1:]
    fx, fy, cx, cy = (float(intrinsics[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x = ((torch.arange(width, device=device) + 0.5) / width - cx) / fx
    y = ((torch.arange(height, device=device) + 0.5) / height - cy) / fy
    rays = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(depth[0])])
    points = depth.clamp(max=_FAR)[:, None] * rays.float()  # [F, 3, H, W]
    rotated = torch.einsum("fij,fjhw->fihw", relative[:, :3, :3], points)
    px, py, pz = (rotated + relative[:, :3, 3, None, None]).unbind(1)
    ahead = pz > 1e-4
    distance = torch.where(ahead, pz, 1.0)
    u, v = fx * px / distance + cx, fy * py / distance + cy  # 0..1 inside the other picture
    return torch.stack([2 * u - 1, 2 * v - 1], dim=-1).float(), ahead, distance


def _mean(values: Tensor, counts: Tensor | None) -> Tensor:
    """Return the mean of [F, H, W] over the pixels that count: [F]."""
    if counts is None:
        return values.mean((1, 2))
    return torch.where(counts, values, 0.0).sum((1, 2)) / counts.sum((1, 2))


def _blur(values: Tensor) -> Tensor:
    """Return the Gaussian window's sum around each pixel of [F, H, W]; outside the frame there is nothing."""
    height, width = values.shape[1:]
    # Matrix products, not convolutions: on GPUs, those may round their inputs to ten bits.
    return _window(height, values) @ values @ _window(width, values)


def _window(size: int, like: Tensor) -> Tensor:
    """Return the symmetric band matrix [size, size] whose rows hold the window's weights."""
    offset = torch.arange(size, device=like.device)
    offset = offset[:, None] - offset
    weights = torch.exp(-offset.to(like.dtype).square() / (2 * _SIGMA**2))
    weights = torch.where(offset.abs() <= _WINDOW // 2, weights, 0.0)
    reach = torch.arange(_WINDOW, device=like.device, dtype=like.dtype) - _WINDOW // 2
    return weights / torch.exp(-reach.square() / (2 * _SIGMA**2)).sum()
