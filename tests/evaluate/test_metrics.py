"""The measures of the evaluation agree with known values and plain loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pictures import pictures, smooth_pictures
from torch import Tensor

from worldplay_env.evaluate.metrics import MOST_PSNR, psnr, ssim, tone


def test_psnr_is_that_of_the_squared_error_of_what_counts() -> None:
    truth = pictures(0).clamp(max=200)
    off = truth + 10
    off[:, :, :8] = 255 - off[:, :, :8]
    counts = torch.zeros(2, 13, 17, dtype=torch.bool)
    counts[:, :, 8:] = True
    assert psnr(off, truth, counts).tolist() == pytest.approx([20 * np.log10(25.5)] * 2)
    error = (off.numpy().astype(float) - truth.numpy()) ** 2
    assert psnr(off, truth).tolist() == pytest.approx(10 * np.log10(255**2 / error.mean((1, 2, 3))), abs=1e-4)
    assert psnr(truth, truth).tolist() == [MOST_PSNR] * 2
    assert psnr(truth, truth, torch.zeros_like(counts)).isnan().all()


def reference_ssim(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> float:
    """Wang et al. 2004, pixel by pixel, in float64, on two pictures [H, W, 3]."""
    x, y = (picture.astype(float) @ [0.299, 0.587, 0.114] for picture in (first, second))
    height, width = counts.shape
    found = []
    for row, column in np.argwhere(counts):
        weights, xs, ys = [], [], []
        for r in range(max(0, row - 5), min(height, row + 6)):
            for c in range(max(0, column - 5), min(width, column + 6)):
                if counts[r, c]:
                    weights.append(np.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * 1.5**2)))
                    xs.append(x[r, c])
                    ys.append(y[r, c])
        w = np.array(weights) / sum(weights)
        mean_x, mean_y = w @ xs, w @ ys
        var_x, var_y = w @ (np.array(xs) - mean_x) ** 2, w @ (np.array(ys) - mean_y) ** 2
        covariance = w @ ((np.array(xs) - mean_x) * (np.array(ys) - mean_y))
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        found.append(light * (2 * covariance + c2) / (var_x + var_y + c2))
    return float(np.mean(found))


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("make", [pictures, smooth_pictures])
def test_ssim_is_that_of_a_plain_loop_over_windows(make: Callable[[int], Tensor], share: float) -> None:
    first = make(1)
    second = (0.7 * first.float() + 0.3 * make(2).float() + 10).byte()
    counts = torch.rand(first.shape[:3], generator=torch.Generator().manual_seed(3)) < share
    expected = [reference_ssim(*(part.numpy() for part in row)) for row in zip(first, second, counts, strict=True)]
    assert all(0.2 < value < 0.98 for value in expected)
    assert ssim(first, second, counts).tolist() == pytest.approx(expected, abs=1e-4)


def test_pixels_that_do_not_count_change_nothing() -> None:
    first, second = smooth_pictures(1), smooth_pictures(2)
    counts = torch.zeros(2, 13, 17, dtype=torch.bool)
    counts[:, 3:9, 4:11] = True
    spoilt = torch.where(counts[..., None], second, pictures(5))
    for measure in (psnr, ssim):
        assert torch.equal(measure(first, second, counts), measure(first, spoilt, counts))
        assert not torch.equal(measure(first, second), measure(first, spoilt))


def test_tone_is_the_mean_and_the_spread_within_frames() -> None:
    flat = torch.full((1, 4, 4, 3), 100, dtype=torch.uint8)
    halves = flat.clone()
    halves[:, :2], halves[:, 2:] = 40, 80
    assert tone(torch.cat([flat, halves])) == pytest.approx((80.0, 10.0), abs=1e-3)
