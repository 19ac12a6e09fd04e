"""The world of scenes keeps every promise of a world, and its cameras do not pass through walls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

import worldplay_env
from worldplay_env.control.actions import NUM_ACTIONS, motion_of
from worldplay_env.control.camera import DEFAULT_INTRINSICS, integrate
from worldplay_env.envs.starts import find_starts
from worldplay_env.worlds.base import Control, Rollout, Start, WorldError
from worldplay_env.worlds.registry import load
from worldplay_env.worlds.scene.build import HELD_OUT_SEED
from worldplay_env.worlds.scene.starts import BUNDLED_PROMPTS, BUNDLED_SCENES
from worldplay_env.worlds.scene.walk import between, motion_table, walk
from worldplay_env.worlds.scene.world import SceneRollout, SceneWorld

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
FORWARD, YAW_RIGHT, FORWARD_YAW = 9, 1, 10


@pytest.fixture(scope="module")
def world() -> SceneWorld:
    return SceneWorld(image_size=(24, 40), samples=1, device="cpu")


def control(rollout: Rollout, *labels: int) -> Control:
    """Return the next chunk's cameras for one action, or for one a latent frame."""
    return Control.of_labels(rollout.pose, labels * (4 if len(labels) == 1 else 1), first=rollout.chunks == 0)


def play(world: SceneWorld, rollout: SceneRollout, *labels: int) -> np.ndarray:
    """Make a chunk for each action and return the video."""
    video = [np.empty((0, *world.image_size, 3), dtype=np.uint8)]
    for label in labels:
        [chunk] = world.step([rollout], [control(rollout, label)])
        assert chunk.frames is not None
        video.append(chunk.frames.numpy())
    return np.concatenate(video)


def test_it_is_a_world_by_name() -> None:
    world = load("scene", image_size=(24, 40), samples=1, device="cpu")
    assert (world.name, world.weights, world.fps, world.image_size) == ("scene", "none", 16, (24, 40))
    assert world.latent_shape is None
    assert isinstance(world.start(Start(), 0), Rollout)


def test_chunks_have_13_then_16_frames_and_no_latents(world: SceneWorld) -> None:
    rollout = world.start(Start(), 0)
    for expected in (13, 16, 16):
        [chunk] = world.step([rollout], [control(rollout, YAW_RIGHT)])
        assert chunk.frames is not None
        assert chunk.frames.dtype == torch.uint8
        assert chunk.frames.shape == (expected, 24, 40, 3)
        assert (chunk.latents, len(chunk.memory)) == (None, 0)


# Which scene


@pytest.mark.parametrize(
    ("prompt", "seed", "scene"),
    [
        ("scene 900012", 5, 900_012),
        (" scene  7 ", 5, 7),
        ("", 5, 900_005),
        ("a street", 100_005, 900_005),
        ("a scene 12", 2**62, 900_000 + 2**62 % 100_000),
        *((BUNDLED_PROMPTS[name], 5, seed) for name, seed in BUNDLED_SCENES.items()),
    ],
)
def test_the_prompt_names_the_scene_or_the_seed_draws_a_held_out_one(
    world: SceneWorld, prompt: str, seed: int, scene: int
) -> None:
    rollout = world.start(Start(PICTURE, prompt), seed)
    assert rollout.scene.seed == scene
    assert rollout.prompt == prompt


def test_the_picture_is_the_first_frame_whatever_picture_is_given(world: SceneWorld) -> None:
    given, none = (world.start(Start(picture), 0) for picture in (PICTURE, None))
    np.testing.assert_array_equal(given.picture, none.picture)
    np.testing.assert_array_equal(play(world, given, FORWARD)[0], given.picture)


def test_a_bundled_start_shows_the_scene_that_its_picture_does() -> None:
    world = SceneWorld((96, 160), device="cpu")
    for image, prompt in find_starts():
        assert image is not None
        picture = worldplay_env.media.image.fit_image(worldplay_env.read_image(image), (96, 160)).astype(int)
        shown = world.start(Start(None, prompt), 0).picture.astype(int)
        assert np.abs(picture - shown).mean() < 4  # scaled down with another filter


def test_equal_seeds_give_equal_frames_and_others_do_not(world: SceneWorld) -> None:
    videos = [play(world, world.start(Start(), seed), FORWARD_YAW, 2) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(videos[0], videos[1])
    assert (videos[0] != videos[2]).any()


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_that_is_none_is_refused(world: SceneWorld, seed: Any) -> None:
    with pytest.raises(ValueError, match="0 or more, got"):
        world.start(Start(), seed)


# Cameras


@pytest.mark.parametrize("seed", range(4))
def test_a_rollout_goes_where_a_walk_with_the_same_labels_goes(world: SceneWorld, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(NUM_ACTIONS, size=(12, 4)).repeat([1, 3] * 6, axis=0)[:20]
    labels[:, 1:] = labels[:, :1]  # held for chunks at a time, so that walls are met
    start = integrate(np.eye(4), [motion_of(40)] * 30)[-1]  # not where its scene has the origin
    rollout = world.start(Start(pose=start), seed)
    scene = rollout.scene
    true, stopped = walk([scene], scene.start[None], motion_table()[labels.ravel()[1:]][None])
    poses, blocked = [], []
    for row in labels:
        world.step([rollout], [control(rollout, *row)], decode=False)
        poses.append(rollout.poses)
        blocked.append(rollout.blocked)
    inverse = np.linalg.inv(scene.start)
    np.testing.assert_allclose(np.concatenate(poses), start @ inverse @ true[0], atol=1e-9)
    assert np.concatenate(blocked).tolist() == [False, *stopped[0]]
    assert stopped.any()


def test_poses_are_exactly_those_asked_for_where_nothing_is_in_the_way(world: SceneWorld) -> None:
    rollout = world.start(Start(), 0)
    for _ in range(3):
        asked = control(rollout, YAW_RIGHT)
        world.step([rollout], [asked], decode=False)
        np.testing.assert_array_equal(rollout.poses, asked.poses)
        np.testing.assert_array_equal(rollout.pose, asked.poses[-1])
        assert not rollout.blocked.any()


def test_a_wall_blocks_and_the_picture_stands_still(world: SceneWorld) -> None:
    rollout = world.start(Start(), 0)
    play(world, rollout, *[FORWARD] * 30)  # farther than any scene is long
    assert rollout.blocked.all()
    pose = rollout.pose
    frames = play(world, rollout, FORWARD)
    np.testing.assert_array_equal(frames, np.broadcast_to(frames[:1], frames.shape))
    np.testing.assert_allclose(rollout.pose, pose, atol=1e-12)
    play(world, rollout, YAW_RIGHT)
    assert not rollout.blocked.any()


def test_frames_are_those_of_the_cameras_between_the_true_poses(world: SceneWorld) -> None:
    rollout = world.start(Start(), 1)
    poses = [rollout.pose[None]]
    video = []
    for label in (FORWARD_YAW, FORWARD, 3):
        video.append(play(world, rollout, label))
        poses.append(rollout.poses[len(poses) == 1 :])
    start = rollout.scene.start
    cameras = between(start @ np.linalg.inv(poses[0]) @ np.concatenate(poses))
    expected = SceneWorld._render(
        world, [rollout.scene], [cameras], [np.tile(DEFAULT_INTRINSICS, (len(cameras), 1, 1))]
    )
    difference = np.abs(np.concatenate(video).astype(int) - expected[0].numpy())
    assert (difference > 2).mean() < 1e-3  # the same but for rounding at edges


def test_a_narrower_lens_is_used_as_asked(world: SceneWorld) -> None:
    narrow = np.tile(DEFAULT_INTRINSICS * np.array([[2, 1, 1], [1, 2, 1], [1, 1, 1]]), (4, 1, 1))
    one, other = (world.start(Start(), 0) for _ in range(2))
    asked = control(one, 0)
    [wide] = world.step([one], [asked])
    [close] = world.step([other], [Control(asked.poses, asked.labels, narrow)])
    assert wide.frames is not None
    assert close.frames is not None
    enlarged = wide.frames[:, 6:18, 10:30].repeat_interleave(2, 1).repeat_interleave(2, 2).float()
    assert (close.frames.float() - enlarged).abs().mean() < (close.frames.float() - wide.frames).abs().mean() / 2


# The promises of every world


def test_a_fork_goes_on_as_its_parent_and_apart_from_it(world: SceneWorld) -> None:
    rollout = world.start(Start(None, "a street"), 0)
    play(world, rollout, FORWARD)
    same, other = rollout.fork(), rollout.fork(seed=1)
    video = play(world, rollout, YAW_RIGHT, 2)
    np.testing.assert_array_equal(play(world, same, YAW_RIGHT, 2), video)
    np.testing.assert_array_equal(play(world, other, YAW_RIGHT, 2), video)  # a scene has no noise
    assert (same.seed, other.seed) == (0, 1)
    same.set_prompt("a field")
    assert (rollout.prompt, same.prompt) == ("a street", "a field")


def test_a_file_that_is_no_rollout_of_it_is_refused(world: SceneWorld, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        world.load_rollout(tmp_path / "text")
    SceneWorld((16, 16), samples=1, device="cpu").start(Start(), 0).save(tmp_path / "smaller")
    with pytest.raises(ValueError, match=r"\(16, 16\) pixels, this world has \(24, 40\)"):
        world.load_rollout(tmp_path / "smaller")
    load("testcard").start(Start(), 0).save(tmp_path / "card")
    with pytest.raises(ValueError, match="no rollout of 'scene', but of 'testcard'"):
        world.load_rollout(tmp_path / "card")


def test_a_stream_commits_with_its_last_frames_and_not_before(world: SceneWorld) -> None:
    rollout = world.start(Start(), 0)
    stream = world.stream(rollout, control(rollout, FORWARD))
    for _ in range(3):
        next(stream)
    assert rollout.chunks == 0
    next(stream)
    assert rollout.chunks == 1


def test_a_stream_whose_rollout_was_stepped_meanwhile_fails(world: SceneWorld) -> None:
    rollout = world.start(Start(), 0)
    stream = world.stream(rollout, control(rollout, FORWARD))
    next(stream)
    play(world, rollout, YAW_RIGHT)
    pose = rollout.pose
    with pytest.raises(WorldError, match="stepped while its chunk was streamed"):
        list(stream)
    assert rollout.chunks == 1
    np.testing.assert_array_equal(rollout.pose, pose)


def test_a_chunk_that_fails_leaves_every_rollout_as_it_was(
    world: SceneWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = [world.start(Start(), seed) for seed in (0, 1)]

    def fail(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("worldplay_env.worlds.scene.world.Renderer.frames", fail)
        with pytest.raises(WorldError, match="out of memory on cpu; no rollout was changed"):
            world.step(rollouts, [control(rollout, FORWARD) for rollout in rollouts])
    assert [rollout.chunks for rollout in rollouts] == [0, 0]
    for rollout in rollouts:
        np.testing.assert_array_equal(rollout.pose, np.eye(4))


def test_a_twice_given_strange_or_uncontrolled_rollout_is_refused(world: SceneWorld) -> None:
    rollout = world.start(Start(), 0)
    still = control(rollout, 0)
    stranger = SceneWorld((24, 40), samples=1, device="cpu").start(Start(), 0)
    for rollouts, controls, noise, message in [
        ([rollout, rollout], [still, still], None, "given twice"),
        ([rollout], [], None, "1 rollouts, 0 controls"),
        ([rollout], [still], torch.zeros(1, 2), r"noise must be a tensor of shape \(1,\), got \(1, 2\)"),
        ([stranger], [still], None, "not a rollout of this world"),
    ]:
        with pytest.raises(ValueError, match=message):
            world.step(rollouts, controls, noise=noise)
    assert (rollout.chunks, stranger.chunks) == (0, 0)
    assert world.step([], []) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 1}, "unknown option 'speed'.*knows image_size and samples"),
        ({"image_size": (0, 64)}, "two positive integers"),
        ({"image_size": (64,)}, "two positive integers"),
        ({"samples": 0}, "samples must be a positive integer, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("scene", **options)


# The environment


@pytest.fixture
def env(world: SceneWorld) -> gymnasium.Env:
    return gymnasium.make("WorldPlay/Scene-v0", world=world)


def test_the_checker_of_gymnasium_passes_without_a_warning(env: gymnasium.Env) -> None:
    check_env(env.unwrapped, skip_render_check=True)  # warnings are errors in these tests


def test_it_has_the_spaces_and_info_of_the_dream_s_env() -> None:
    dream, scene = (gymnasium.make(f"WorldPlay/{name}-v0") for name in ("Tiny", "Scene"))
    assert dream.observation_space == scene.observation_space
    assert dream.action_space == scene.action_space
    with pytest.raises(ValueError, match="this world has none"):
        gymnasium.make("WorldPlay/Scene-v0", observation="latent")


def test_equal_resets_begin_in_the_scene_of_the_picture_that_the_dream_begins_from(env: gymnasium.Env) -> None:
    card = gymnasium.make("WorldPlay/Testcard-v0")
    scenes = set()
    for seed in range(8):
        env.reset(seed=seed)
        card.reset(seed=seed)
        assert env.unwrapped.rollout.prompt == card.unwrapped.rollout.prompt
        scenes.add(env.unwrapped.rollout.scene.seed)
    assert scenes <= set(BUNDLED_SCENES.values())
    assert len(scenes) > 1


@pytest.mark.parametrize("options", [{"image": None}, {"image": None, "prompt": "scene 900012"}, {}])
def test_an_episode_begins_without_a_picture_of_ones_own(env: gymnasium.Env, options: dict[str, Any]) -> None:
    observation, _ = env.reset(seed=1, options=options)
    assert env.unwrapped.rollout.scene.seed >= HELD_OUT_SEED
    np.testing.assert_array_equal(observation[0], env.unwrapped.rollout.picture)


def test_steps_go_on_from_the_true_pose(env: gymnasium.Env) -> None:
    def episode() -> list[Any]:
        return [env.reset(seed=1, options={"prompt": "scene 900011"}), *(env.step(FORWARD) for _ in range(15))]

    played = episode()
    rollout = env.unwrapped.rollout
    assert rollout.blocked.all()
    before = rollout.pose
    *_, info = env.step(18)  # back
    np.testing.assert_allclose(info["poses"][0], integrate(before, [motion_of(18)])[-1], atol=1e-12)
    np.testing.assert_array_equal(env.unwrapped.rollout.pose, info["poses"][-1])
    assert data_equivalence(episode(), played, exact=True)
