"""What comes from a device through staging memory is what was there, however it is cut into pieces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from worldplay_env.worlds.transfer import fetch, through


class Device:
    """A device whose copies happen only when they are waited for, in the order in which they were begun."""

    def __init__(self) -> None:
        self.staging: list[int] = []
        self._begun: list[Callable[[], object]] = []
        self.most_under_way = 0

    def stage(self, size: int) -> Tensor:
        self.staging.append(size)
        return torch.zeros(size, dtype=torch.uint8)

    def begin(self, staged: Tensor, part: Tensor) -> Device:
        self._begun.append(lambda: staged.copy_(part))
        self.most_under_way = max(self.most_under_way, len(self._begun))
        return self

    def synchronize(self) -> None:
        self._begun.pop(0)()


@pytest.mark.parametrize("piece", [1, 7, 64, 1000, 10**6])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64, torch.bool])
def test_pieces_of_any_size_make_up_the_whole(dtype: torch.dtype, piece: int) -> None:
    device = Device()
    source = torch.randint(0, 2, (3, 5, 7), generator=torch.Generator().manual_seed(0)).to(dtype)
    target = torch.zeros_like(source)
    through(device.stage, device.begin, source, target, piece)
    assert torch.equal(target, source)
    pieces = min(2, -(-source.nbytes // piece))
    assert device.staging == [min(piece, source.nbytes)] * pieces
    assert device.most_under_way == pieces


def test_on_the_cpu_an_array_is_the_tensor_itself_unless_it_is_to_be_ones_own() -> None:
    tensor = torch.arange(6).reshape(2, 3)
    assert np.shares_memory(fetch(tensor), tensor.numpy())
    assert not np.shares_memory(fetch(tensor, own=True), tensor.numpy())
    np.testing.assert_array_equal(fetch(tensor.T, own=True), tensor.numpy().T)
    assert fetch(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(16, 704, 1280, 3), (3, 5), (0, 4), ()])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_is_fetched_from_a_gpu_is_what_was_there(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randint(0, 256, shape, device="cuda").to(dtype)
    found = fetch(tensor)
    np.testing.assert_array_equal(found, tensor.cpu().numpy())
    assert not torch.from_numpy(found).is_pinned()
    if tensor.dim() > 1:
        turned = tensor.movedim(-1, 0)
        np.testing.assert_array_equal(fetch(turned), turned.cpu().numpy())
