"""Blocks of ABot-World: batches of mixed ages, pages that rollouts share, the window and its time positions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from worldplay_env.models.abot.block import OpenBlock, References, denoise
from worldplay_env.models.abot.config import (
    ABOT_5B_TRANSFORMER,
    AbotTransformerConfig,
    ScheduleConfig,
    WindowConfig,
)
from worldplay_env.models.abot.cost import forward_operations
from worldplay_env.models.abot.sampler import Schedule
from worldplay_env.models.abot.transformer import AbotTransformer
from worldplay_env.models.abot.window import Page, Window, window_bytes
from worldplay_env.weights.checkpoint import RandomWeights, load_abot_transformer

SIZE = (4, 6)
WINDOW = WindowConfig(block=3, frames=9, position_limit=14, reference_slots=2, reference_size=64)
CONFIG = AbotTransformerConfig(
    num_attention_heads=2,
    attention_head_dim=24,
    in_channels=8,
    out_channels=8,
    text_dim=24,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    adapter_downscale=2,
)
SLOTS = (2, 4, 4)
_EMPTY = Page(torch.empty(0), torch.empty(0))


@pytest.fixture(scope="module")
def transformer() -> AbotTransformer:
    return load_abot_transformer(RandomWeights(), CONFIG)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _advance(
    transformer: AbotTransformer, windows: list[Window], seeds: list[int], config: WindowConfig = WINDOW
) -> tuple[list[Window], Tensor]:
    """Make one block of a batch whose noise and keys follow from seeds."""
    batch = len(windows)
    keys = torch.tensor([[seed % 2, 0, 0, 1, 0, seed % 3 == 0, 0, 0] for seed in seeds], dtype=torch.float32)
    references = References(torch.stack([_randn(2, 8, 4, 4, seed=7)] * batch), torch.tensor([True] * batch))
    opened = OpenBlock(
        transformer,
        config,
        windows,
        (config.block, *SIZE),
        transformer.act_control_adapter.of_keys(keys, transformer.grid(SIZE))[:, None],
        transformer.text_keys_values(_randn(1, 5, CONFIG.text_dim, seed=9).expand(batch, -1, -1)),
        reference_shape=SLOTS,
        references=None if windows[0].frames else references,
    )
    noise = torch.stack([_randn(8, config.block, *SIZE, seed=seed) for seed in seeds])
    latents = denoise(
        opened.velocity,
        Schedule.of(ScheduleConfig()),
        noise,
        [noise.flip(2)] * 3,
        torch.zeros(batch, 8, 1, *SIZE),
        torch.zeros(batch, config.block, dtype=torch.bool),
        transformer.dtype,
    )
    return opened.close(latents)[0], latents


def _aged(transformer: AbotTransformer, blocks: int, config: WindowConfig = WINDOW) -> Window:
    window = Window()
    for block in range(blocks):
        [window], _ = _advance(transformer, [window], [100 + block], config)
    return window


@torch.no_grad()
def test_rollouts_of_different_ages_go_together_as_each_goes_alone(transformer: AbotTransformer) -> None:
    windows = [_aged(transformer, blocks) for blocks in (1, 2, 6)]
    together, latents = _advance(transformer, windows, [1, 2, 3])
    for window, seed, row, batched in zip(windows, (1, 2, 3), latents, together, strict=True):
        [alone], expected = _advance(transformer, [window], [seed])
        assert (row - expected[0]).norm() < 1e-4 * expected.norm()
        for one, other in zip(alone.every_page, batched.every_page, strict=True):
            assert (one.keys - other.keys).norm() < 1e-4 * one.keys.norm()
            assert (one.values - other.values).norm() < 1e-4 * one.values.norm()


def test_rollouts_without_a_block_are_refused_beside_others(transformer: AbotTransformer) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match="apart"):
        _advance(transformer, [Window(), _aged(transformer, 1)], [1, 2])


@torch.no_grad()
def test_pages_are_shared_and_never_written_to(transformer: AbotTransformer) -> None:
    window = _aged(transformer, 2)
    before = [(page.keys.clone(), page.values.clone()) for page in window.every_page]
    [one], _ = _advance(transformer, [window], [1])
    [other], _ = _advance(transformer, [window], [2])
    assert one.pages[:6] == other.pages[:6] == window.pages  # the same objects
    assert one.references is other.references is window.references
    for page, (keys, values) in zip(window.every_page, before, strict=True):
        assert torch.equal(page.keys, keys)
        assert torch.equal(page.values, values)


@torch.no_grad()
def test_the_window_rolls_and_its_size_is_known_beforehand(transformer: AbotTransformer) -> None:
    windows = [_aged(transformer, blocks) for blocks in (1, 3, 5)]
    assert [len(window.pages) for window in windows] == [3, 9, 9]
    assert [window.frames for window in windows] == [3, 9, 15]
    reference_latents = 4
    expected = window_bytes(CONFIG, WINDOW, SIZE, reference_latents, transformer.dtype.itemsize)
    assert windows[1].nbytes == windows[2].nbytes == expected


def test_the_bytes_of_the_real_window() -> None:
    assert round(window_bytes(ABOT_5B_TRANSFORMER, WindowConfig(), (44, 80), 32, 2) / 1e9, 1) == 7.3


@torch.no_grad()
@pytest.mark.parametrize("blocks", [0, 1, 5])
def test_operations_are_counted_as_they_are_carried_out(transformer: AbotTransformer, blocks: int) -> None:
    window = _aged(transformer, blocks)
    opened = OpenBlock(
        transformer,
        WINDOW,
        [window],
        (3, *SIZE),
        torch.zeros(1, 1, 6, CONFIG.dim),
        transformer.text_keys_values(_randn(1, 5, CONFIG.text_dim)),
        reference_shape=SLOTS,
        references=None if blocks else References(_randn(1, 2, 8, 4, 4), torch.tensor([True])),
    )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others are not all counted
        opened.velocity(_randn(1, 8, 3, *SIZE), torch.full((1, 3), 625.0))
    seen = len(window.visible(3, WINDOW))
    expected = forward_operations(CONFIG, SIZE, 3, seen=seen, references=8, first=not blocks, text_tokens=5)
    assert counter.get_total_flops() == expected


def test_the_base_moves_when_positions_reach_the_limit_and_stays_between() -> None:
    moving, bounded, bases = WINDOW, dataclasses.replace(WINDOW, bounded=True), []
    windows = [Window(), Window()]
    for _ in range(8):
        windows = [
            window.advanced([_EMPTY] * 3, None, config)
            for window, config in zip(windows, (moving, bounded), strict=True)
        ]
        bases.append([window.base for window in windows])
    # Frames 0..2, 3..5, ...: positions of the fifth block would reach 15, beyond 14.
    assert [base for base, _ in bases] == [0, 0, 0, 0, 6, 6, 12, 12]
    assert [base for _, base in bases] == [0, 0, 0, 3, 6, 9, 12, 15]


@torch.no_grad()
@pytest.mark.parametrize("change", ["keys", "references", "prompt", "window"])
def test_every_condition_changes_the_velocity(transformer: AbotTransformer, change: str) -> None:
    def velocity(change: str) -> Tensor:
        window = _aged(transformer, 2)
        if change == "references":
            page = window.references
            assert page is not None
            window = dataclasses.replace(window, references=dataclasses.replace(page, values=page.values + 1))
        if change == "window":
            window = dataclasses.replace(window, pages=window.pages[::-1])
        keys = torch.zeros(1, 8) + (change == "keys")
        opened = OpenBlock(
            transformer,
            WINDOW,
            [window],
            (3, *SIZE),
            transformer.act_control_adapter.of_keys(keys, transformer.grid(SIZE))[:, None],
            transformer.text_keys_values(_randn(1, 5, CONFIG.text_dim, seed=3 if change == "prompt" else 9)),
            reference_shape=SLOTS,
        )
        return opened.velocity(_randn(1, 8, 3, *SIZE), torch.full((1, 3), 625.0))

    before, after = velocity(""), velocity(change)
    assert (before - after).norm() / before.norm() > 1e-3
