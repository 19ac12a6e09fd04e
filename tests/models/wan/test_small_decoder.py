"""The small decoder: any split of a stream, rows of a batch, saved states, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import worldplay_env
from worldplay_env.models.abot.config import ABOT_SMALL
from worldplay_env.models.codec import DecoderState
from worldplay_env.models.config import WAN_5B
from worldplay_env.models.wan.small_decoder import SmallCodec, SmallDecoderConfig
from worldplay_env.weights.checkpoint import CheckpointError, RandomWeights, load_small_codec, on_meta
from worldplay_env.worlds.follow import next_control

CONFIG = ABOT_SMALL.autoencoder
SIZE = (2, 3)


@pytest.fixture(scope="module")
def codec() -> SmallCodec:
    return load_small_codec(RandomWeights(), RandomWeights(), CONFIG, ABOT_SMALL.small_decoder)


def latents(frames: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, CONFIG.z_dim, frames, *SIZE, generator=torch.Generator().manual_seed(seed))


def stream(codec: SmallCodec, given: Tensor, sizes: list[int]) -> tuple[Tensor, DecoderState]:
    parts, state = [], None
    for part in given.split(sizes, dim=2):
        frames, state = codec.decode(part, state)
        parts.append(frames)
    assert state is not None
    return torch.cat(parts, dim=2), state


@torch.no_grad()
def test_any_split_gives_the_same_images(codec: SmallCodec) -> None:
    given = latents(7)
    whole, state = stream(codec, given, [7])
    assert whole.shape == (1, 3, 25, 32, 48)
    assert state.latent_frames == (7,)
    for sizes in ([1] * 7, [3, 3, 1], [2, 5]):
        frames, after = stream(codec, given, sizes)
        assert torch.allclose(frames, whole, atol=1e-5)
        for one, other in zip(after.histories, state.histories, strict=True):
            assert torch.allclose(one, other, atol=1e-5)


@torch.no_grad()
def test_rows_of_different_ages_are_decoded_as_alone(codec: SmallCodec) -> None:
    given = latents(6, batch=2)
    states = [codec.decode(given[row : row + 1, :, : 1 + row])[1] for row in range(2)]
    together, after = codec.decode(given[:, :, -3:], DecoderState.stack(states))
    for row, (state, left) in enumerate(zip(states, after.split(), strict=True)):
        alone, expected = codec.decode(given[row : row + 1, :, -3:], state)
        assert torch.allclose(together[row : row + 1], alone, atol=1e-5)
        assert left.latent_frames == expected.latent_frames == (4 + row,)


@torch.no_grad()
def test_a_state_comes_back_from_its_tensors(codec: SmallCodec) -> None:
    given = latents(4)
    _, state = codec.decode(given[:, :, :3])
    assert [tuple(history.shape) for history in state.histories] == codec.state_shapes(SIZE)
    read = DecoderState.from_tensors(state.to_tensors())
    assert torch.equal(codec.decode(given[:, :, 3:], read)[0], codec.decode(given[:, :, 3:], state)[0])


@torch.no_grad()
def test_what_does_not_fit_is_refused(codec: SmallCodec) -> None:
    _, state = codec.decode(latents(1))
    with pytest.raises(ValueError, match="does not fit the latents"):
        codec.decode(latents(1, batch=2), state)
    with pytest.raises(ValueError, match="latents are"):
        codec.decode(torch.zeros(1, 5, 1, *SIZE))
    with pytest.raises(ValueError, match="4 images of a latent frame and 16 pixels a side"):
        SmallCodec(replace(CONFIG, patch_size=1), SmallDecoderConfig())


@torch.no_grad()
def test_operations_are_those_that_run(codec: SmallCodec) -> None:
    with FlopCounterMode(display=False) as counter:
        codec.decode(latents(3))
    assert counter.get_total_flops() == codec.decode_operations(SIZE, 3, first=True)


def test_the_published_one_has_a_small_state() -> None:
    codec = on_meta(lambda: SmallCodec(WAN_5B.autoencoder, SmallDecoderConfig()))
    numbers = sum(torch.Size(shape).numel() for shape in codec.state_shapes((44, 80)))
    assert round(2 * numbers / 1e6) == 38  # MB in bfloat16, as AbotWorld says
    assert codec.largest_decoded((44, 80), 3) == 64 * 12 * 352 * 640


def test_a_world_of_worldplay_can_have_it_and_the_others_read_none_of_its_rollouts(tmp_path: Path) -> None:
    world = worldplay_env.load("tiny", device="cpu", weights="random", decoder="small")
    assert isinstance(world.codec, SmallCodec)
    rollout = world.start(worldplay_env.Start(None, "a place"), 0)
    [first], [second] = (world.step([rollout], [next_control(rollout, 9)]) for _ in range(2))
    assert (len(first.frames), len(second.frames)) == (13, 16)
    other = worldplay_env.load("tiny", device="cpu", weights="random")
    path = tmp_path / "walk.safetensors"
    rollout.save(path)
    with pytest.raises(ValueError, match="it is of tiny"):
        other.load_rollout(path)
    again = world.load_rollout(path)
    [went_on], [read] = (world.step([one], [next_control(one, 9)]) for one in (rollout, again))
    assert torch.equal(went_on.frames, read.frames)
    with pytest.raises(CheckpointError, match=r"needs the file taew2_2\.pth"):
        worldplay_env.load("tiny", device="cpu", decoder="small")
