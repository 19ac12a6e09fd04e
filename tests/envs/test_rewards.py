"""Rewards are batched functions of a transition; whatever one does wrong is told, and nothing has happened."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from envs import PAIRS, PICTURES, bare, episode
from gymnasium.utils.env_checker import data_equivalence
from scipy.spatial.transform import Rotation
from small_world import begin, small_world

import worldplay_env
from worldplay_env import Control, RewardError, Start, Transition, cover_ground, reach_pose, reach_view
from worldplay_env.control.actions import motion_of
from worldplay_env.control.camera import integrate
from worldplay_env.envs.rewards import append_poses, evaluate, pose_error, start_path
from worldplay_env.envs.transition import Goal, Reward
from worldplay_env.media.image import fit_image

FORWARD, YAW_RIGHT, FORWARD_RIGHT = 9, 1, 10


def transition(count: int = 1, **changes: Any) -> Transition:
    """Return a transition of worlds that stand still at the origin, but for `changes`."""
    still = {
        "observation": np.zeros((count, 2)),
        "action": np.zeros(count, dtype=np.int64),
        "poses": np.broadcast_to(np.eye(4), (count, 4, 4, 4)),
        "past": [np.eye(4)[None]] * count,
        "step": np.ones(count, dtype=np.int64),
        "goals": None,
        "frames": None,
        "latents": None,
    }
    return Transition(**(still | changes))


def walked(*labels: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a path, one pose a latent frame, and its chunks."""
    poses = integrate(np.eye(4), [motion_of(label) for label in labels])
    return poses, list(poses.reshape(-1, 4, 4, 4))


# What a reward function returns


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, True],
        (1, 2.5, 1),
        np.array([1, 2.5, 1], dtype=np.float32),
        torch.tensor([1, 2.5, 1], requires_grad=True),
        torch.tensor([1, 2.5, 1], dtype=torch.bfloat16),
    ],
)
def test_any_numbers_one_a_world_are_rewards(values: Any) -> None:
    rewards = evaluate(lambda _: values, transition(3))
    assert rewards.dtype == np.float64
    np.testing.assert_array_equal(rewards, [1, 2.5, 1])


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.array(2.0), torch.tensor(2.0)])
def test_of_one_world_a_plain_number_is_a_reward(value: Any) -> None:
    np.testing.assert_array_equal(evaluate(lambda _: value, transition(1)), [2.0])
    env = gym.make("WorldPlay/Testcard-v0", reward=lambda step: value)
    env.reset(seed=0)
    assert env.step(9)[1] == 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (1.0, r"one number for each of 2 worlds, shape \(2,\), got shape \(\)"),
        (None, "raised TypeError.*real numbers, got object"),
        ([1.0], r"got shape \(1,\)"),
        (np.zeros((2, 1)), r"got shape \(2, 1\)"),
        ([0.0, math.nan], "finite numbers, got nan for world 1"),
        ([-math.inf, 0.0], "finite numbers, got -inf for world 0"),
        ([0.0, [1.0, 2.0]], "raised ValueError"),
        (["1", "2"], "raised TypeError.*real numbers"),
        (np.array([0, 1], dtype="datetime64[D]"), "raised TypeError.*real numbers, got datetime64"),
        (np.array([1j, 2.0]), "raised TypeError.*complex"),
        ([0.0, 1e39], r"finite numbers, got 1e\+39 for world 1"),
    ],
)
def test_anything_else_is_told_by_the_name_of_the_function(values: Any, message: str) -> None:
    def generous(_: Transition) -> Any:
        return values

    with pytest.raises(RewardError, match=rf"reward function generous .*{message}"):
        evaluate(generous, transition(2))


def test_what_a_reward_function_raises_is_the_cause_of_the_error() -> None:
    def divided(_: Transition) -> Any:
        return 1 / 0

    with pytest.raises(RewardError, match="divided raised ZeroDivisionError") as caught:
        evaluate(divided, transition())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_reward_that_is_no_function_is_refused_at_once() -> None:
    for make in (gym.make, partial(gym.make_vec, num_envs=2)):
        with pytest.raises(TypeError, match="a reward is a function of a Transition, got 3"):
            make("WorldPlay/Testcard-v0", reward=3)


def test_goals_in_latents_are_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        reach_view(np.full((1, 1, 2, 2), np.nan), space="latents")


# Paths


def test_a_path_holds_every_latent_frame_once_and_is_read_only() -> None:
    poses, chunks = walked(*[9, 1, 10] * 3, 2, 40)
    path = start_path(np.eye(4))
    for number, chunk in enumerate(chunks, 1):
        path = append_poses(path, chunk)
        np.testing.assert_array_equal(path, poses[: 4 * number])
    with pytest.raises(ValueError, match="read-only"):
        path[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        start_path(np.eye(4))[0] = 0


def test_the_path_of_an_env_is_that_of_its_infos() -> None:
    seen: list[Transition] = []

    def spy(transition: Transition) -> list[float]:
        seen.append(transition)
        return [0.0]

    env = bare(reward=spy, observation="last")
    results = episode(env, [FORWARD, YAW_RIGHT, 40])
    infos = [result[-1] for result in results]
    assert [len(one.past[0]) for one in seen] == [1, 4, 8]
    np.testing.assert_array_equal(seen[2].past[0], np.concatenate([info["poses"] for info in infos[1:3]]))
    for one, action, step, result in zip(seen, [FORWARD, YAW_RIGHT, 40], [1, 2, 3], results[1:], strict=True):
        np.testing.assert_array_equal(one.poses[0], result[-1]["poses"])
        np.testing.assert_array_equal(one.observation[0], result[0])
        assert one.frames is not None
        np.testing.assert_array_equal(one.frames[0].numpy(), result[0])
        assert one.latents is not None
        assert one.latents.shape == (1, *env.world.latent_shape)  # type: ignore[misc]
        assert (one.action.tolist(), one.step.tolist(), one.goals) == ([action], [step], None)
    snapshot = env.snapshot()
    env.reset(seed=3)
    env.step(9)
    env.restore(snapshot)
    env.step(9)
    np.testing.assert_array_equal(seen[-1].past[0][4:8], infos[2]["poses"])
    assert len(seen[-1].past[0]) == 12


@pytest.mark.parametrize("name", ["testcard", "scene", "small"])
def test_chunks_tell_where_the_camera_truly_went_streamed_or_stepped(name: str) -> None:
    if name == "small":
        world: Any = small_world()
        rollout: Any = begin(world, 1)
    else:
        world = worldplay_env.load(name, image_size=(24, 40))
        rollout = world.start(Start(prompt="scene 900011"), 1)
    for _ in range(8 if name == "scene" else 2):
        twin = rollout.fork()
        control = Control.of_labels(rollout.pose, [FORWARD] * 4, first=rollout.chunks == 0)
        [chunk] = world.step([rollout], [control], decode=False)
        stream = world.stream(twin, control)
        try:
            while True:
                next(stream)
        except StopIteration as stop:
            streamed = stop.value
        np.testing.assert_array_equal(chunk.poses, streamed.poses)
        np.testing.assert_array_equal(chunk.poses[-1], rollout.pose)
        if name != "scene":
            np.testing.assert_array_equal(chunk.poses, control.poses)
    assert (np.abs(chunk.poses - control.poses).max() > 0.05) == (name == "scene")  # a wall is in the way


# Where the camera is


def test_how_far_poses_are_apart_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    rotations = [Rotation.random(50, random_state=seed) for seed in (1, 2)]
    places = rng.normal(size=(2, 50, 3))
    poses = np.broadcast_to(np.eye(4), (2, 50, 4, 4)).copy()
    for index in range(2):
        poses[index, :, :3, :3], poses[index, :, :3, 3] = rotations[index].as_matrix(), places[index]
    units, degrees = pose_error(poses[0], poses[1])
    np.testing.assert_allclose(units, np.sqrt(((places[0] - places[1]) ** 2).sum(axis=1)))
    np.testing.assert_allclose(degrees, np.degrees((rotations[0].inv() * rotations[1]).magnitude()), atol=1e-6)
    assert pose_error(poses[0], poses[0])[1].max() == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_dense_rewards_of_a_way_add_up_to_what_was_left_of_it(seed: int) -> None:
    actions = np.random.default_rng(seed).integers(0, 81, 6).tolist()
    goal = integrate(np.eye(4), [motion_of(FORWARD_RIGHT)] * 11)[-1]
    env = bare(reward=reach_pose(goal, distance=1e-6, angle=1e-6))
    results = episode(env, actions)
    rewards = [result[1] for result in results[1:]]
    assert any(reward < 0 for reward in rewards)

    def left(pose: np.ndarray) -> float:
        turn = Rotation.from_matrix(pose[:3, :3].T @ goal[:3, :3]).magnitude()
        return float(np.hypot.reduce(pose[:3, 3] - goal[:3, 3]) + turn)

    assert sum(rewards) == pytest.approx(left(np.eye(4)) - left(results[-1][-1]["poses"][-1]))


def test_being_at_a_pose_gives_one_and_sparse_nothing_else() -> None:
    goal = integrate(np.eye(4), [motion_of(FORWARD)] * 7)[-1]
    plans = [[FORWARD, FORWARD, FORWARD], [FORWARD, YAW_RIGHT, FORWARD]]
    sparse, dense = (
        [[step[1] for step in episode(bare(reward=reach_pose(goal, reward=kind)), plan)[1:]] for plan in plans]
        for kind in ("sparse", "dense")
    )
    assert sparse == [[0, 1, 0], [0, 0, 0]]  # 0.24, 0.56 and 0.88 units of 0.56 forward, within 0.25
    np.testing.assert_allclose(dense[0], [0.24, 1.32, -0.32])


def test_each_world_is_judged_by_its_own_pose() -> None:
    poses = np.broadcast_to(np.eye(4), (3, 4, 4, 4)).copy()
    poses[1, -1, 2, 3] = 1.0  # only the newest pose counts
    poses[2, 0, 2, 3] = 1.0
    goal = np.eye(4)
    goal[2, 3] = 1.1
    given = transition(3, poses=poses, past=[np.eye(4)[None]] * 3)
    np.testing.assert_array_equal(evaluate(reach_pose(goal, reward="sparse"), given), [0, 1, 0])


# What is seen


def test_the_distance_in_pixels_is_that_of_the_newest_frame() -> None:
    results = episode(bare(observation="last", reward=reach_view(PICTURES[1])), [FORWARD, 40])
    goal = fit_image(PICTURES[1], (96, 160)).astype(float)
    for observation, reward, *_ in results[1:]:
        assert reward == pytest.approx(-np.abs(observation - goal).mean() / 255, abs=1e-6)


def test_the_very_view_is_the_best() -> None:
    plain = bare(observation="last")
    frames = [result[0] for result in episode(plain, [FORWARD, 40])]
    rewards = [result[1] for result in episode(bare(reward=reach_view(frames[2])), [FORWARD, 40])[1:]]
    assert rewards[1] == 0
    assert rewards[0] < -0.01
    latents = [result[0] for result in episode(bare(observation="latent"), [FORWARD, 40])]
    for goal in (latents[2][:, -1:], torch.from_numpy(latents[2][:, -1:])):
        env = bare(observation="latent", reward=reach_view(goal, space="latents"))
        rewards = [result[1] for result in episode(env, [FORWARD, 40])[1:]]
        assert rewards[1] == 0
        assert rewards[0] == pytest.approx(-np.sqrt(((latents[1][:, -1] - latents[2][:, -1]) ** 2).mean()), rel=1e-5)


def test_without_a_goal_of_its_own_a_view_is_compared_with_that_of_the_task() -> None:
    frames = torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(2, 4, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    goals = [Goal(np.eye(4), frames[1].numpy(), latents[1, :, -1:].numpy()) for _ in range(2)]
    given = transition(2, frames=frames, latents=latents, goals=goals)
    for space in ("pixels", "latents"):
        rewards = evaluate(reach_view(space=space), given)
        assert rewards[1] == 0
        assert rewards[0] < 0


@pytest.mark.parametrize(
    ("reward", "arguments", "message"),
    [
        (reach_view(), {}, 'there is no goal: give reach_view one, or the env task="reach"'),
        (reach_view(PICTURES[0]), {"observation": "latent"}, "there are no frames"),
        (reach_view(space="pixels"), {"observation": "latent", "task": "reach"}, "there are no frames"),
        (reach_view(np.zeros((1, 1, 2, 2)), space="latents"), {}, r"goal's latents are \[1, 1, 2, 2\]"),
        (
            reach_view(np.zeros((1, 1, 2, 2)), space="latents"),
            {"world": "scene", "starts": None},
            "this world has no latents",
        ),
    ],
)
def test_views_that_cannot_be_compared_are_told(reward: Reward, arguments: dict[str, Any], message: str) -> None:
    env = bare(**{"reward": reward, "size": (24, 40), **arguments})
    env.reset(seed=0)
    with pytest.raises(RewardError, match=message):
        env.step(FORWARD)


# Ground covered


def test_every_cell_of_the_map_counts_once() -> None:
    poses, chunks = walked(*[FORWARD] * 11, *[18] * 12)  # 0.88 units forward, and back
    reward, path, rewards = cover_ground(cell=0.2), start_path(np.eye(4)), []
    for chunk in chunks:
        rewards.append(evaluate(reward, transition(poses=chunk[None], past=[path]))[0])
        path = append_poses(path, chunk)
    # In cells of 0.2 around 0: 0.24 ends in cell 1, 0.56 in 3, 0.88 in 4; the last backward step leads to -0.08.
    assert rewards == [1, 2, 1, 0, 0, 0]
    several = transition(2, poses=np.stack([chunks[0], chunks[1]]), past=[poses[:1], poses[:4]])
    assert evaluate(reward, several).tolist() == [1, 2]


def test_height_and_turning_cover_no_ground() -> None:
    poses = np.broadcast_to(np.eye(4), (4, 4, 4)).copy()
    poses[:, 1, 3] = [0, 1, 2, 3]
    poses[:, :3, :3] = Rotation.from_euler("y", [[0], [30], [60], [90]], degrees=True).as_matrix()
    assert evaluate(cover_ground(), transition(poses=poses[None])).tolist() == [0]


# Made wrongly, and carried elsewhere


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: reach_pose(np.eye(3)), r"shape \[N, 4, 4\]"),
        (lambda: reach_pose(2 * np.eye(4)), "must end in the row"),
        (lambda: reach_pose(np.eye(4), distance=0), "distance must be a positive number, got 0"),
        (lambda: reach_pose(np.eye(4), angle=math.nan), "angle must be a positive number, got nan"),
        (lambda: reach_pose(np.eye(4), reward="more"), "unknown reward 'more': known are dense, sparse"),
        (lambda: reach_view(space="words"), "unknown space 'words': known are pixels, latents"),
        (lambda: reach_view("missing.png"), "no picture at 'missing.png'"),
        (
            lambda: reach_view(np.zeros((4, 2, 3)), space="latents"),
            r"\[channels, 1, rows, columns\], got \[4, 2, 3\]",
        ),
        (lambda: cover_ground(cell=-1), "cell must be a positive number of world units, got -1"),
        (lambda: cover_ground(cell=math.inf), "got inf"),
    ],
)
def test_what_cannot_be_rewarded_is_told_at_once(make: Callable[[], Reward], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("reward", [reach_pose(np.eye(4)), reach_view(PICTURES[0]), cover_ground()])
def test_rewards_go_with_a_pickled_env(reward: Reward) -> None:
    env = worldplay_env.WorldPlayEnv("testcard", starts=PAIRS, reward=reward)
    twin = pickle.loads(pickle.dumps(env))
    played = episode(env, [FORWARD, 40])
    assert any(result[1] for result in played[1:])
    assert data_equivalence(episode(twin, [FORWARD, 40]), played, exact=True)
