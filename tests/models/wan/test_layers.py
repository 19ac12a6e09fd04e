"""The layers of Wan transformers: frequencies of the sinusoid, and parameters that are wider than their inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from worldplay_env.models.wan.layers import LayerNorm, Linear, RMSNorm, sinusoid


def test_the_sinusoid_is_cosines_then_sines_of_falling_frequencies() -> None:
    values = torch.tensor([0.0, 14.0, 727.2728])
    frequencies = 10000.0 ** (-np.arange(8) / 8)
    angles = values.double().numpy()[:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    assert np.allclose(sinusoid(values, 16).numpy(), expected, atol=2e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "make", [lambda: Linear(6, 6), lambda: LayerNorm(6), lambda: RMSNorm(6)], ids=["linear", "layer norm", "RMS norm"]
)
def test_a_layer_with_wider_parameters_keeps_the_dtype_of_its_input(make: Callable[[], nn.Module]) -> None:
    layer = make()
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    found = layer(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x), rtol=2e-2, atol=2e-2)
