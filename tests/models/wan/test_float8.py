"""Linear layers of 8 bits: near the layers that they stand for, with equal operands everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worldplay_env.models.wan.float8 import Float8Linear, to_float8


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rows_come_back_within_the_formats_precision_whatever_their_size() -> None:
    rows = _randn(4, 64) * torch.tensor([1e-6, 1.0, 1e5, 0.0])[:, None]
    found, scales = to_float8(rows)
    restored = found.float() * scales
    assert (restored - rows).abs().max(-1).values.le(rows.abs().max(-1).values / 16).all()
    assert (restored[3] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_an_8_bit_layer_is_near_the_layer_that_it_stands_for(bias: bool) -> None:
    linear = nn.Linear(64, 32, bias=bias)
    linear.weight.copy_(_randn(32, 64, seed=1) / 8)
    x = _randn(2, 3, 64).bfloat16()
    found, expected = Float8Linear(linear)(x), linear(x.float())
    assert found.dtype == torch.bfloat16
    assert found.shape == expected.shape
    assert (found.float() - expected).norm() < 0.06 * expected.norm()


def test_a_layer_whose_widths_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 16, got 64 and 30"):
        Float8Linear(nn.Linear(64, 30))
