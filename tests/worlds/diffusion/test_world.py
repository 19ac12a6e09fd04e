"""The diffusion world: batches, streams, forks and files do not change its chunks."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import PATH, begin, roll, small_world
from torch import Tensor

from worldplay_env.worlds.base import Chunk, Control, Start
from worldplay_env.worlds.diffusion import prompts
from worldplay_env.worlds.diffusion.world import DiffusionWorld
from worldplay_env.worlds.registry import load


@pytest.fixture(scope="module")
def world() -> DiffusionWorld:
    return small_world()


def _frames(chunks: list[Chunk]) -> Tensor:
    assert all(chunk.frames is not None for chunk in chunks)
    return torch.cat([chunk.frames for chunk in chunks])  # type: ignore[misc]


def _same(one: list[Chunk], other: list[Chunk]) -> bool:
    latents = all(torch.equal(a.latents, b.latents) for a, b in zip(one, other, strict=True))  # type: ignore[arg-type]
    return latents and torch.equal(_frames(one), _frames(other))


def _relative(one: Tensor | None, other: Tensor | None) -> float:
    assert one is not None
    assert other is not None
    return float((one - other).norm() / other.norm())


def test_chunks_have_13_then_16_frames_and_memory_by_the_rule(world: DiffusionWorld) -> None:
    chunks = roll(world, begin(world, 0), 6)
    assert [chunk.frames.shape for chunk in chunks if chunk.frames is not None] == [(13, 32, 48, 3)] + [
        (16, 32, 48, 3)
    ] * 5
    assert [len(chunk.memory) for chunk in chunks] == [0, 4, 8, 12, 16, 16]
    assert chunks[4].frames is not None
    assert chunks[4].frames.dtype == torch.uint8
    assert {"select", "prefill", "denoise_0", "denoise_3", "decode", "total"} <= set(chunks[5].timings)


def test_equal_seeds_dream_equal_worlds_whatever_ran_before(world: DiffusionWorld) -> None:
    one = roll(world, begin(world, 3), 3)
    other_seed = roll(world, begin(world, 4), 3)
    torch.rand(7)
    again = roll(world, begin(world, 3), 3)
    assert _same(one, again)
    assert not _same(one, other_seed)


def test_global_random_state_is_neither_read_nor_touched(world: DiffusionWorld) -> None:
    torch.manual_seed(11)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    roll(world, begin(world, 0), 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_noise_is_standard_normal_and_a_function_of_seed_and_chunk(world: DiffusionWorld) -> None:
    rollout = begin(world, 5)
    first = rollout.noise()
    assert torch.equal(first, begin(world, 5, image=False).noise())
    roll(world, rollout, 1)
    draws = torch.stack([begin(world, seed).noise() for seed in range(64)])
    assert not torch.equal(rollout.noise(), first)
    assert abs(float(draws.mean())) < 0.02
    assert abs(float(draws.std()) - 1) < 0.02


def test_an_image_is_latent_frame_0_and_text_alone_generates_it(world: DiffusionWorld) -> None:
    pictured, imagined = begin(world, 0), begin(world, 0, image=False)
    with_image, without = roll(world, pictured, 1)[0], roll(world, imagined, 1)[0]
    assert with_image.latents is not None
    assert without.latents is not None
    assert torch.equal(with_image.latents[:, :1], pictured.start_latent)
    assert (without.latents[:, 0].abs() > 0).all()
    assert (imagined.picture == 128).all()
    assert not imagined.start_latent.any()


@pytest.mark.parametrize(("mixed_ages", "passes"), [(False, 4), (True, 2)])
def test_rollouts_of_mixed_age_step_together_as_they_step_alone(
    monkeypatch: pytest.MonkeyPatch, mixed_ages: bool, passes: int
) -> None:
    world = small_world(mixed_ages=mixed_ages)
    ages = [0, 1, 5, 0, 2, 6, 4]
    rollouts = [begin(world, seed, image=seed % 3 > 0, prompt=seed % 2) for seed in range(len(ages))]
    for rollout, age in zip(rollouts, ages, strict=True):
        roll(world, rollout, age)
    alone = [world.step([rollout.fork()], [PATH[rollout.chunks]])[0] for rollout in rollouts]
    calls, forward = Counter[str](), world.transformer.forward

    def counted(*args: Tensor) -> Tensor:
        calls["forward"] += 1
        return forward(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(world.transformer, "forward", counted)
    together = world.step(rollouts, [PATH[age] for age in ages])
    assert calls["forward"] == 4 * passes
    for one, other in zip(together, alone, strict=True):
        assert _relative(one.latents, other.latents) < 1e-4
        assert one.frames is not None
        assert other.frames is not None
        assert (one.frames.int() - other.frames.int()).abs().max() <= 1
        assert np.array_equal(one.memory, other.memory)
    assert [rollout.chunks for rollout in rollouts] == [age + 1 for age in ages]


def test_a_fork_goes_on_bit_for_bit_and_shares_every_tensor(world: DiffusionWorld) -> None:
    parent = begin(world, 7)
    roll(world, parent, 5)
    child = parent.fork()
    assert child.decoder_state is parent.decoder_state
    assert all(a is b for a, b in zip(child.history, parent.history, strict=True))
    ahead = roll(world, child, 2)
    assert parent.chunks == 5
    assert _same(ahead, roll(world, parent, 2))


def test_a_fork_with_another_seed_has_the_past_but_another_future(world: DiffusionWorld) -> None:
    parent = begin(world, 7)
    roll(world, parent, 2)
    twin, other = parent.fork(seed=7), parent.fork(seed=8)
    here = roll(world, parent, 1)
    assert _same(here, roll(world, twin, 1))
    assert not _same(here, roll(world, other, 1))


@pytest.mark.parametrize("chunks", [0, 1, 5])
def test_a_saved_rollout_goes_on_bit_for_bit_in_a_freshly_loaded_world(
    world: DiffusionWorld, tmp_path: Path, chunks: int
) -> None:
    rollout = begin(world, 9, image=chunks != 1)
    roll(world, rollout, chunks)
    rollout.save(tmp_path / "rollout.safetensors")
    fresh = small_world()
    loaded = fresh.load_rollout(tmp_path / "rollout.safetensors")
    assert (loaded.seed, loaded.prompt, loaded.chunks) == (rollout.seed, rollout.prompt, chunks)
    assert np.array_equal(loaded.pose, rollout.pose)
    assert np.array_equal(loaded.picture, rollout.picture)
    assert _same(roll(fresh, loaded, 2), roll(world, rollout, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["rollout.safetensors"]


def test_a_file_that_is_no_rollout_of_this_world_is_refused(world: DiffusionWorld, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match="no rollout saved in this world"):
        world.load_rollout(tmp_path / "noise")
    begin(world, 0).save(tmp_path / "rollout")
    other = small_world(weights="trained")
    with pytest.raises(ValueError, match=r"of small \(random weights.*not of small \(trained"):
        other.load_rollout(tmp_path / "rollout")


@pytest.mark.parametrize("image", [True, False])
def test_a_stream_yields_the_frames_of_a_step_as_they_are_decoded(world: DiffusionWorld, image: bool) -> None:
    streamed, stepped = begin(world, 1, image=image), begin(world, 1, image=image)
    for control in PATH[:2]:
        parts = list(world.stream(streamed, control))
        expected = world.step([stepped], [control])[0].frames
        assert [len(part) for part in parts] == ([1, 4, 4, 4] if streamed.chunks == 1 else [4, 4, 4, 4])
        assert expected is not None
        assert (torch.cat(parts).int() - expected.int()).abs().max() <= 1
    assert streamed.chunks == 2


def test_an_abandoned_stream_commits_nothing(world: DiffusionWorld) -> None:
    rollout = begin(world, 1)
    frames = world.stream(rollout, PATH[0])
    next(frames)
    frames.close()
    assert rollout.chunks == 0
    assert rollout.decoder_state is None


@pytest.mark.parametrize("latents_per_decode", [1, 2, 3])
def test_the_length_of_a_decoder_pass_does_not_change_frames(world: DiffusionWorld, latents_per_decode: int) -> None:
    other = small_world(latents_per_decode=latents_per_decode)
    frames, expected = _frames(roll(other, begin(other, 2), 2)), _frames(roll(world, begin(world, 2), 2))
    assert (frames.int() - expected.int()).abs().max() <= 1


def test_frames_are_the_same_after_chunks_that_were_not_decoded(world: DiffusionWorld) -> None:
    always, sometimes = begin(world, 2), begin(world, 2)
    expected = roll(world, always, 4)
    chunks = [world.step([sometimes], [PATH[n]], decode=n in (1, 3))[0] for n in range(4)]
    assert [chunk.frames is None for chunk in chunks] == [True, False, True, False]
    assert _same([chunks[1], chunks[3]], [expected[1], expected[3]])


def test_a_new_prompt_changes_what_comes_and_nothing_before(world: DiffusionWorld) -> None:
    rollout, changed = begin(world, 3), begin(world, 3)
    before = roll(world, rollout, 1), roll(world, changed, 1)
    assert _same(*before)
    changed.encoded_prompt = begin(world, 0, prompt=1).encoded_prompt
    assert not _same(roll(world, rollout, 1), roll(world, changed, 1))


@pytest.mark.parametrize(("room", "made"), [(1 << 28, 20), (0, 40)])
def test_prompts_are_read_once_while_there_is_room_for_them(
    monkeypatch: pytest.MonkeyPatch, room: int, made: int
) -> None:
    world, calls = small_world(), Counter[str]()
    read = world.transformer.text_keys_values

    def counted(embedding: Tensor) -> object:
        calls["read"] += 1
        return read(embedding)

    monkeypatch.setattr(prompts, "KNOWN_PROMPTS_BYTES", room)
    monkeypatch.setattr(world.transformer, "text_keys_values", counted)
    rollouts = [begin(world, 0, prompt=prompt) for prompt in range(20)]
    for _ in range(2):
        for rollout in rollouts:
            world.step([rollout], [PATH[rollout.chunks]], decode=False)
    assert calls["read"] == made


def test_a_start_that_is_not_at_the_origin_dreams_the_same(world: DiffusionWorld) -> None:
    away = np.array(PATH[3].poses[2])
    moved = [Control(away @ control.poses, control.labels, control.intrinsics) for control in PATH[:3]]
    rollout, plain = begin(world, 3, pose=away), begin(world, 3)
    for here, there in zip(roll(world, plain, 3), roll(world, rollout, 3, moved), strict=True):
        assert _relative(there.latents, here.latents) < 1e-4


def test_the_callers_context_changes_nothing() -> None:
    world, plain = small_world(), small_world()
    rollout = begin(world, 3)
    with torch.inference_mode():
        first = world.step([rollout], [PATH[0]])[0]
    with torch.autocast("cpu", torch.bfloat16):
        second = world.step([rollout], [PATH[1]])[0]
    third = world.step([rollout], [PATH[2]])[0]
    assert _same([first, second, third], roll(plain, begin(plain, 3), 3))
    assert third.latents is not None
    assert not third.latents.is_inference()


def test_threads_that_share_a_world_step_their_rollouts_as_they_would_alone(world: DiffusionWorld) -> None:
    expected = [roll(world, begin(world, seed), 3) for seed in range(4)]
    rollouts = [begin(world, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        chunks = list(pool.map(lambda rollout: roll(world, rollout, 3), rollouts))
    assert all(_same(one, other) for one, other in zip(chunks, expected, strict=True))


def test_a_rollout_does_not_follow_arrays_that_its_caller_goes_on_to_change(world: DiffusionWorld) -> None:
    poses, labels = np.array(PATH[0].poses), np.array(PATH[0].labels)
    rollout = begin(world, 0)
    chunk = world.step([rollout], [Control(poses, labels)])[0]
    pose, kept = rollout.pose, rollout.history[0].latents.clone()
    poses[:], labels[:] = 7, 0
    assert chunk.latents is not None
    chunk.latents.zero_()
    assert np.array_equal(rollout.pose, pose)
    assert np.array_equal(rollout.history[0].control.labels, PATH[0].labels)
    assert torch.equal(rollout.history[0].latents, kept)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_low_precision_dreams_nearly_the_same(dtype: torch.dtype, tolerance: float) -> None:
    exact, low = small_world(), small_world(dtype)
    poses = PATH[:3]
    rollout, other = begin(exact, 0), begin(low, 0)
    for control in poses:  # teacher-forced: errors of one chunk alone
        [expected], [chunk] = exact.step([rollout], [control]), low.step([other], [control])
        assert chunk.latents is not None
        assert chunk.latents.dtype == torch.float32
        assert _relative(chunk.latents, expected.latents) < tolerance
        other.history[-1] = rollout.history[-1]


def test_a_rollout_saved_in_one_precision_goes_on_in_another(tmp_path: Path) -> None:
    low, exact = small_world(torch.bfloat16), small_world()
    rollout = begin(low, 0)
    roll(low, rollout, 2)
    rollout.save(tmp_path / "rollout.safetensors")
    loaded = exact.load_rollout(tmp_path / "rollout.safetensors")
    assert _relative(roll(exact, loaded, 1)[0].latents, roll(low, rollout, 1)[0].latents) < 0.05


def test_what_was_released_is_made_anew(world: DiffusionWorld) -> None:
    rollout, plain = begin(world, 6), begin(world, 6)
    expected = roll(world, plain, 3)
    chunks = roll(world, rollout, 1)
    world.release()
    assert _same(chunks + roll(world, rollout, 2), expected)


def test_an_unknown_option_is_told() -> None:
    with pytest.raises(ValueError, match=r"'speed'.*knows latents_per_decode and sample_image"):
        load("tiny", speed=2)


def test_random_weights_have_no_revision() -> None:
    with pytest.raises(ValueError, match="no revisions, got revision='main'"):
        load("tiny", weights="random", revision="main")


@pytest.mark.parametrize("name", ["small", "testcard", "scene"])
def test_the_newest_frame_alone_is_the_last_of_all(name: str) -> None:
    world = small_world() if name == "small" else load(name, device="cpu", image_size=(32, 48))
    rollout = begin(world, 0) if isinstance(world, DiffusionWorld) else world.start(Start(prompt="a room"), 0)
    for chunk in range(2):
        control = Control.of_labels(rollout.pose, [1] * 4, first=chunk == 0)  # turns, which no wall stops
        [whole] = world.step([rollout.fork()], [control])
        [newest] = world.step([rollout], [control], decode="newest")
        assert torch.equal(newest.frames, whole.frames[-1:])
        assert not torch.equal(newest.frames, whole.frames[-2:-1])
