"""A dream repeats no work, and nothing grows but its history."""

from __future__ import annotations

import gc
from collections import Counter

import numpy as np
import pytest
import torch
from small_world import CONFIG, PATH, begin, roll, small_world, wander
from torch import Tensor, nn

from worldplay_env.models.worldplay import memory
from worldplay_env.worlds.base import Start
from worldplay_env.worlds.diffusion.rollout import PastChunk
from worldplay_env.worlds.diffusion.world import DiffusionWorld


@pytest.fixture(scope="module")
def world() -> DiffusionWorld:
    return small_world()


def test_work_that_does_not_depend_on_the_step_is_done_once() -> None:
    world = small_world()
    counts: Counter[str] = Counter()
    shapes: dict[str, set[torch.Size]] = {"modulation": set()}

    def counted(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            counts[name] += 1
            if name == "modulation":
                shapes[name].add(output.shape)

        module.register_forward_hook(hook)

    transformer, last = world.transformer, world.transformer.blocks[-1]
    counted("text", transformer.text_embedder)
    counted("modulation", transformer.modulation_projection)
    counted("head", transformer.output_projection)
    counted("last feed-forward", last.feed_forward)  # type: ignore[arg-type]
    counted("last text keys", last.cross_attention.to_k)  # type: ignore[union-attr, arg-type]
    counted("last queries", last.self_attention.to_q)  # type: ignore[union-attr, arg-type]
    counted("last keys", last.self_attention.to_k)  # type: ignore[union-attr, arg-type]
    rollouts = [begin(world, seed) for seed in range(2)]
    rollouts[1].encoded_prompt = rollouts[0].encoded_prompt
    for n in range(6):
        world.step(rollouts, [PATH[n], PATH[n]])
    assert counts == {
        "text": 1,  # once a prompt
        "last text keys": 1,
        "modulation": 4 * 6 + 5,  # once a forward and once a prefill; chunk 0 has no memory
        "head": 4 * 6,
        "last feed-forward": 4 * 6,  # a prefill stops at its last keys and values
        "last queries": 4 * 6,
        "last keys": 4 * 6 + 5,
    }
    dim = CONFIG.transformer.dim
    assert shapes["modulation"] == {torch.Size([2, frames, 6 * dim]) for frames in (4, 8, 12, 16)}  # never a token


def test_the_decoder_and_prefill_read_no_more_at_a_great_age(monkeypatch: pytest.MonkeyPatch) -> None:
    world = small_world()
    young, old = begin(world, 0), begin(world, 0)
    path = wander(200, seed=1)
    roll(world, young, 5, path)
    roll(world, old, 1, path)
    clean = old.history[0].latents
    old.history = [PastChunk.of(clean, control) for control in path[:199]]
    sizes: list[list[int]] = []

    def record(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        sizes[-1].append(output.numel())

    for module in [*world.transformer.modules(), *world.codec.decoder.modules()]:
        if isinstance(module, nn.Linear | nn.Conv3d):
            module.register_forward_hook(record)
    old.decoded = 199
    for rollout in (young, old):
        sizes.append([])
        world.step([rollout], [path[rollout.chunks]])
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) > 100


def test_a_rollout_grows_by_its_history_alone(world: DiffusionWorld) -> None:
    rollout = begin(world, 0)

    def held() -> int:
        gc.collect()
        state = rollout.decoder_state
        tensors = [past.latents for past in rollout.history] + [rollout.start_latent]
        tensors += list(state.histories) if state is not None else []
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    roll(world, rollout, 5)
    before = held()
    roll(world, rollout, 3)
    chunk = 4 * int(np.prod(world.latent_shape))
    assert held() - before == 3 * chunk


def test_memory_is_whole_chunks_of_the_history(world: DiffusionWorld) -> None:
    rollout = begin(world, 0)
    chunk = roll(world, rollout, 8)[-1]
    clips = chunk.memory.reshape(-1, memory.CLIP)
    assert (clips[:, 0] % memory.CLIP == 0).all()
    assert (np.diff(clips, axis=1) == 1).all()


def test_a_picture_that_was_started_from_lately_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = small_world()
    encoded: list[int] = []
    encode = world.codec.encode
    monkeypatch.setattr(world.codec, "encode", lambda video: encoded.append(1) or encode(video))
    monkeypatch.setattr("worldplay_env.worlds.diffusion.pictures.PICTURES_KEPT", 1)
    embedding = torch.zeros(5, CONFIG.transformer.text_dim)
    one, other = (Start(np.full((32, 48, 3), level, dtype=np.uint8)) for level in (90, 200))
    first, again = (world.start(one, seed, prompt_embedding=embedding) for seed in (0, 1))
    assert len(encoded) == 1
    first.start_latent.zero_()  # a rollout's own
    torch.testing.assert_close(world.start(one, 2, prompt_embedding=embedding).start_latent, again.start_latent)
    assert len(encoded) == 1
    world.start(other, 0, prompt_embedding=embedding)
    world.start(one, 0, prompt_embedding=embedding)
    assert len(encoded) == 3
