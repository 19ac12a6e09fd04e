"""The test picture keeps every promise of a world, and moves as the camera does."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldplay_env.worlds.base import Control, Rollout, Start, WorldError
from worldplay_env.worlds.registry import load
from worldplay_env.worlds.testcard import Testcard, TestcardRollout, frame_number

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def world() -> Testcard:
    return Testcard(image_size=(48, 64))


def control(rollout: Rollout, *labels: int) -> Control:
    """Return the next chunk's cameras for one action, or for one a latent frame."""
    return Control.of_labels(rollout.pose, labels * (4 if len(labels) == 1 else 1), first=rollout.chunks == 0)


def play(world: Testcard, rollout: TestcardRollout, *labels: int) -> np.ndarray:
    """Make a chunk for each action and return the video."""
    video = [np.empty((0, *world.image_size, 3), dtype=np.uint8)]
    for label in labels:
        [chunk] = world.step([rollout], [control(rollout, label)])
        assert chunk.frames is not None
        video.append(chunk.frames.numpy())
    return np.concatenate(video)


def test_it_is_a_world_by_name() -> None:
    world = load("testcard", image_size=(32, 40), seconds_per_chunk=0.0)
    assert (world.name, world.weights, world.fps, world.image_size) == ("testcard", "none", 16, (32, 40))
    assert isinstance(world.start(Start(), 0), Rollout)


def test_chunks_have_13_then_16_numbered_frames_of_the_world_s_size(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE), 0)
    lengths, numbers = [], []
    for _ in range(4):
        [chunk] = world.step([rollout], [control(rollout, 9)])
        assert chunk.frames is not None
        assert chunk.latents is not None
        assert chunk.frames.dtype == torch.uint8
        assert chunk.frames.shape[1:] == (48, 64, 3)
        assert chunk.latents.dtype == torch.float32
        assert tuple(chunk.latents.shape) == world.latent_shape
        lengths.append(len(chunk.frames))
        numbers += [frame_number(frame) for frame in chunk.frames.numpy()]
    assert lengths == [13, 16, 16, 16]
    assert numbers == list(range(61))


def test_memory_is_the_newest_16_latent_frames(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE), 0)
    made = [world.step([rollout], [control(rollout, 0)])[0].memory.tolist() for _ in range(6)]
    assert made == [list(range(max(0, 4 * chunk - 16), 4 * chunk)) for chunk in range(6)]


@pytest.mark.parametrize("label", range(1, 81))
def test_every_action_moves_the_picture_and_standing_still_does_not(world: Testcard, label: int) -> None:
    noise = torch.zeros(1, *world.latent_shape)

    def inside(action: int) -> np.ndarray:
        rollout = world.start(Start(PICTURE), 0)
        [chunk] = world.step([rollout], [control(rollout, action)], noise=noise)
        assert chunk.frames is not None
        return chunk.frames.numpy()[:, 3:-3].astype(int)  # without the two strips

    moved, still = inside(label), inside(0)
    np.testing.assert_array_equal(still, np.broadcast_to(still[0], still.shape))
    differences = np.abs(moved - moved[0]).reshape(len(moved), -1).mean(axis=1)
    assert (differences[4::4] > 1).all()  # within a latent frame a step can be less than a pixel


def test_the_first_frame_is_the_start_picture_between_the_strips(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE), 0)
    first = play(world, rollout, 0)[0]
    np.testing.assert_array_equal(first[3:-3], rollout.picture[3:-3])


def test_yaw_to_the_right_slides_the_picture_to_the_left(world: Testcard) -> None:
    white = np.zeros((48, 64, 3), dtype=np.uint8)
    white[:, 30:34] = 255
    frames = play(world, world.start(Start(white), 0), 1)[:, 10:-10].astype(float).sum(axis=(1, 3))
    centres = (frames * np.arange(64)).sum(axis=1) / frames.sum(axis=1)
    assert (np.diff(centres) <= 0.5).all()  # grain moves the centre by a little
    assert centres[-1] < centres[0] - 3


def test_a_whole_turn_leads_back(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE), 0)
    frames = []
    for _ in range(31):
        [chunk] = world.step([rollout], [control(rollout, 1)], noise=torch.zeros(1, *world.latent_shape))
        assert chunk.frames is not None
        frames += list(chunk.frames.numpy())
    turn = 120 * 4  # 3 degrees a latent frame, four frames each
    different = np.abs(frames[turn][3:-3].astype(int) - frames[0][3:-3]).max(axis=2) > 0
    assert different.mean() < 0.05  # columns on the border between two pixels
    steps = [np.abs(a[3:-3].astype(int) - b[3:-3]).mean() for a, b in pairwise(frames)]
    assert max(steps) < 3 * np.median(steps)  # no jump anywhere, the far side included


def test_a_text_only_start_is_grey_and_shows_the_card(world: Testcard) -> None:
    rollout = world.start(Start(None, "a street"), 0)
    assert (rollout.picture == 128).all()
    assert len(np.unique(play(world, rollout, 0)[0].reshape(-1, 3), axis=0)) > 8


def test_seeds_differ_and_equal_ones_do_not(world: Testcard) -> None:
    videos = [play(world, world.start(Start(PICTURE), seed), 9, 1) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(videos[0], videos[1])
    assert (videos[0] != videos[2]).any()


def test_noise_can_be_given(world: Testcard) -> None:
    noise = torch.randn(1, *world.latent_shape, generator=torch.Generator().manual_seed(0))
    chunks = []
    for seed in (0, 1):
        rollout = world.start(Start(PICTURE), seed)
        chunks += world.step([rollout], [control(rollout, 9)], noise=noise)
    assert torch.equal(chunks[0].frames, chunks[1].frames)


def test_a_fork_goes_on_as_its_parent_or_with_another_seed(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE, "a street"), 0)
    play(world, rollout, 9)
    same, other = rollout.fork(), rollout.fork(seed=1)
    video = play(world, rollout, 1, 2)
    np.testing.assert_array_equal(play(world, same, 1, 2), video)
    assert (play(world, other, 1, 2) != video).any()
    same.set_prompt("a field")
    assert (rollout.prompt, same.prompt) == ("a street", "a field")


def test_a_file_that_is_no_rollout_of_it_is_refused(world: Testcard, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        world.load_rollout(tmp_path / "text")
    Testcard(image_size=(32, 32)).start(Start(), 0).save(tmp_path / "smaller")
    with pytest.raises(ValueError, match=r"\(32, 32\) pixels, this world has \(48, 64\)"):
        world.load_rollout(tmp_path / "smaller")


def test_a_stream_commits_with_its_last_frames_and_not_before(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE), 0)
    stream = world.stream(rollout, control(rollout, 9))
    for _ in range(3):
        next(stream)
    assert rollout.chunks == 0
    next(stream)
    assert rollout.chunks == 1


def test_a_stream_whose_rollout_was_stepped_meanwhile_fails(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE), 0)
    stream = world.stream(rollout, control(rollout, 9))
    next(stream)
    play(world, rollout, 1)
    pose = rollout.pose
    with pytest.raises(WorldError, match="stepped while its chunk was streamed"):
        list(stream)
    assert rollout.chunks == 1
    np.testing.assert_array_equal(rollout.pose, pose)


def test_noise_that_is_not_finite_is_an_error_and_changes_nothing(world: Testcard) -> None:
    rollouts = [world.start(Start(PICTURE), seed) for seed in (0, 1)]
    noise = torch.zeros(2, *world.latent_shape)
    noise[1, 0, 2, 0, 0] = torch.nan
    with pytest.raises(WorldError, match="chunk 0 is not finite"):
        world.step(rollouts, [control(rollout, 9) for rollout in rollouts], noise=noise)
    assert [rollout.chunks for rollout in rollouts] == [0, 0]


def test_a_chunk_takes_the_time_asked_for() -> None:
    world = load("testcard", image_size=(16, 16), seconds_per_chunk=0.2)
    rollout = world.start(Start(), 0)
    began = time.perf_counter()
    world.step([rollout], [control(rollout, 0)])
    stepped = time.perf_counter()
    list(world.stream(rollout, control(rollout, 0)))
    assert 0.2 <= stepped - began < 1
    assert 0.2 <= time.perf_counter() - stepped < 1


def test_a_twice_given_strange_or_uncontrolled_rollout_is_refused(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE), 0)
    still = control(rollout, 0)
    stranger = Testcard(image_size=(48, 64)).start(Start(), 0)
    for rollouts, controls, noise, message in [
        ([rollout, rollout], [still, still], None, "given twice"),
        ([rollout], [], None, "1 rollouts, 0 controls"),
        ([rollout], [still], torch.zeros(1, 2), r"noise must be a tensor of shape \(1, 4, 4, 3, 4\), got \(1, 2\)"),
        ([stranger], [still], None, "not a rollout of this world"),
    ]:
        with pytest.raises(ValueError, match=message):
            world.step(rollouts, controls, noise=noise)
    assert (rollout.chunks, stranger.chunks) == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 1}, "unknown option 'speed'.*knows image_size and seconds_per_chunk"),
        ({"image_size": (0, 64)}, "two positive integers"),
        ({"image_size": (64,)}, "two positive integers"),
        ({"seconds_per_chunk": -1.0}, "0 or more, got -1.0"),
        ({"seconds_per_chunk": float("nan")}, "0 or more, got nan"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("testcard", **options)


def test_a_prompt_that_is_no_string_is_refused(world: Testcard) -> None:
    rollout = world.start(Start(PICTURE, "a street"), 0)
    with pytest.raises(TypeError, match="the prompt must be a string, got int: 3"):
        rollout.set_prompt(3)  # type: ignore[arg-type]
    assert rollout.prompt == "a street"


@pytest.mark.parametrize("seed", [-3, 1.5, True])
def test_a_seed_that_is_none_is_told_when_it_is_given(world: Testcard, seed: Any) -> None:
    with pytest.raises(ValueError, match="a seed is a whole number of 0 or more"):
        world.start(Start(), seed)
    with pytest.raises(ValueError, match="a seed is a whole number of 0 or more"):
        world.start(Start(), 0).fork(seed)
