"""The task of reaching a view: goals that can be reached, success by the true pose, rewards that add up."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from envs import PAIRS, PICTURES, bare, episode, make
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from small_world import small_world

import worldplay_env
from worldplay_env import Goal, Reach, Start, WorldError, WorldPlayEnv
from worldplay_env.control.actions import motion_of
from worldplay_env.control.camera import integrate
from worldplay_env.worlds.base import Decode

ID = "WorldPlay/Reach-v0"
FORWARD, YAW_RIGHT, YAW_LEFT = 9, 1, 2


def reach(**arguments: Any) -> gymnasium.Env:
    return make(ID, **{"world": "testcard", "size": (24, 40), **arguments})


def plans(env: WorldPlayEnv) -> list[list[int]]:
    """Return plans of two to four held actions whose poses come to the env's goal."""
    assert env.goal is not None
    assert env.task is not None
    found, frontier = [], [([], np.eye(4))]
    for length in range(1, 5):
        frontier = [
            ([*plan, action], integrate(pose, [motion_of(action)] * (4 if plan else 3))[-1])
            for plan, pose in frontier
            for action in env.task.actions
        ]
        found += [plan for plan, pose in frontier if length > 1 and np.allclose(pose, env.goal.pose, atol=1e-9)]
    return found


# As a Gymnasium environment


@pytest.mark.parametrize("arguments", [{}, {"channel_first": True}, {"observation": "chunk", "every": 4}])
def test_the_checker_of_gymnasium_passes(arguments: dict[str, Any]) -> None:
    check_env(reach(**arguments).unwrapped)


def test_the_checker_passes_over_latents() -> None:
    check_env(reach(observation="latent").unwrapped, skip_render_check=True)


def test_the_passive_checker_of_make_has_nothing_to_say() -> None:
    env = reach(disable_env_checker=False, render_mode="rgb_array")
    episode(env, [9, 40])
    assert env.render().shape == (24, 40, 3)  # type: ignore[union-attr]
    env.close()


def test_the_registered_task_is_in_the_dream_and_ends_after_twelve_steps() -> None:
    spec = gymnasium.spec(ID)
    assert spec.kwargs == {"world": "tiny", "task": "reach", "observation": "last"}
    assert spec.max_episode_steps == 12 == 3 * Reach().chunks[1]
    env = reach(task={"distance": 1e-6, "angle": 1e-6})
    assert [step[3] for step in episode(env, [80] * 12)[1:]] == [False] * 11 + [True]


@pytest.mark.slow
def test_the_registered_task_plays_the_same_twice() -> None:
    played = [episode(gymnasium.make(ID, starts=PAIRS, size=(48, 80)), [9, 10]) for _ in range(2)]
    assert data_equivalence(played[0], played[1], exact=True)
    assert (played[0][0][0]["goal"] != played[0][0][0]["observation"]).any()


def test_a_spec_with_a_task_makes_the_same_env_from_json() -> None:
    env = gymnasium.make(ID, world="testcard", task={"reward": "sparse", "chunks": (1, 2)})
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["kwargs"]["task"] == {"reward": "sparse", "chunks": [1, 2]}
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.get_wrapper_attr("task") == Reach(reward="sparse", chunks=(1, 2))
    assert data_equivalence(episode(env, [9]), episode(again, [9]), exact=True)
    assert data_equivalence(episode(pickle.loads(pickle.dumps(env)), [9]), episode(again, [9]), exact=True)


# Goals


@pytest.mark.parametrize("observation", ["last", "latent"])
def test_a_short_plan_of_held_actions_always_succeeds_and_leads_to_the_very_goal(observation: str) -> None:
    env = reach(observation=observation, max_episode_steps=None, task={"distance": 1e-3, "angle": 0.1}).unwrapped
    assert isinstance(env, WorldPlayEnv)
    for seed in range(8):
        first, info = env.reset(seed=seed)
        assert info["success"] is False
        assert info["is_success"] is False
        seen = []
        for plan in plans(env):
            env.reset(seed=seed)
            for action in plan:
                shown, _, terminated, _, info = env.step(action)
            assert terminated is True
            assert info["success"] is True
            assert info["is_success"] is True
            np.testing.assert_array_equal(shown["goal"], first["goal"])
            newest = shown["observation"][:, -1:] if observation == "latent" else shown["observation"]
            seen.append(np.abs(newest.astype(float) - shown["goal"]).max())
        assert min(seen) == 0  # the plan that was drawn, of all that come to its pose


def test_the_goal_is_shown_in_the_form_of_the_observation() -> None:
    for arguments, shape in (
        ({}, (24, 40, 3)),
        ({"channel_first": True}, (3, 24, 40)),
        ({"observation": "chunk", "every": 8}, (24, 40, 3)),
        ({"observation": "latent"}, (4, 1, 6, 10)),
    ):
        env = reach(**arguments)
        assert isinstance(env.observation_space, spaces.Dict)
        observation, _ = env.reset(seed=0)
        assert observation["goal"].shape == shape == env.observation_space["goal"].shape
        assert observation in env.observation_space
        assert env.step(9)[0] in env.observation_space


def test_goals_are_as_far_as_asked_and_never_where_the_episode_starts() -> None:
    env = bare(task={"actions": [FORWARD], "chunks": [2, 4]}, observation="latent")
    lengths = []
    for seed in range(20):
        env.reset(seed=seed)
        assert env.goal is not None
        lengths.append(round(float(env.goal.pose[2, 3]), 6))
    assert set(lengths) == {0.56, 0.88, 1.2}  # 7, 11 and 15 steps of 0.08
    env = bare(task={"actions": [YAW_LEFT, YAW_RIGHT], "chunks": [2, 2]}, observation="latent")
    for seed in range(20):
        _, info = env.reset(seed=seed)
        assert abs(np.degrees(np.arcsin(info["goal_pose"][0, 2]))) > 10  # right then left would be 3 degrees


def test_where_every_goal_is_the_start_the_reset_fails_and_the_episode_goes_on() -> None:
    env = bare(task={"actions": [0, YAW_LEFT], "distance": 9, "angle": 60})
    twin = bare(task=env.task)
    snapshot = bare(task="reach").unwrapped
    snapshot.reset(seed=3)
    moment = snapshot.snapshot()
    for one in (env, twin):
        one.restore(moment)
    with pytest.raises(WorldError, match="no goal was found: 16 draws of 2 to 4 actions"):
        env.reset()
    assert data_equivalence(env.step(9), twin.step(9), exact=True)


def test_goals_follow_from_the_seed_alone_and_differ() -> None:
    poses = {}
    for _ in range(2):
        env = reach()
        for seed in (5, 1, 3, 5):
            observation, info = env.reset(seed=seed)
            known = poses.setdefault(seed, (info["goal_pose"], observation["goal"]))
            assert data_equivalence(known, (info["goal_pose"], observation["goal"]), exact=True)
    assert len({pose.tobytes() for pose, _ in poses.values()}) > 1
    env.reset(seed=5)
    assert len({env.reset()[1]["goal_pose"].tobytes() for _ in range(8)}) > 3


def test_a_goal_does_not_depend_on_the_other_worlds_of_the_draw() -> None:
    world, task = worldplay_env.load("testcard", image_size=(32, 48)), Reach()
    rollouts = [world.start(Start(picture), seed) for seed, picture in enumerate(PICTURES)]

    def draw(rows: list[int]) -> list[Goal]:
        generators = [np.random.default_rng(row) for row in rows]
        return task.goals(world, [rollouts[row] for row in rows], generators, pictures=True)

    together = draw([0, 1, 2])
    for row in range(3):
        [alone] = draw([row])
        assert alone.picture is not None
        assert together[row].picture is not None
        np.testing.assert_array_equal(alone.pose, together[row].pose)
        np.testing.assert_array_equal(alone.picture, together[row].picture)
        np.testing.assert_array_equal(alone.latent, together[row].latent)  # type: ignore[arg-type]
    assert [rollout.chunks for rollout in rollouts] == [0, 0, 0]


def test_latent_goals_need_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    env = reach(observation="latent").unwrapped
    assert isinstance(env, WorldPlayEnv)
    asked = []
    step = env.world.step

    def spy(*arguments: Any, decode: Decode, **others: Any) -> Any:
        asked.append(decode)
        return step(*arguments, decode=decode, **others)

    monkeypatch.setattr(env.world, "step", spy)
    episode(env, [9])
    assert asked
    assert not any(asked)
    assert env.goal is not None
    assert env.goal.picture is None


def test_a_dream_shows_what_it_would_dream_at_the_goal() -> None:
    world, task = small_world(), Reach(actions=(FORWARD,), chunks=(2, 2))
    prompt = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    rollout = world.start(Start(PICTURES[0]), 4, prompt_embedding=prompt)
    [goal] = task.goals(world, [rollout], [np.random.default_rng(0)], pictures=True)
    pose = rollout.pose
    for count in (3, 4):
        poses = integrate(pose, [motion_of(FORWARD)] * count)[-4:]
        labels = [0, 9, 9, 9] if count == 3 else [9] * 4
        [chunk] = world.step([rollout], [worldplay_env.Control(poses, np.array(labels))])
        pose = rollout.pose
    assert chunk.frames is not None
    assert chunk.latents is not None
    assert goal.picture is not None
    assert goal.latent is not None
    np.testing.assert_allclose(goal.pose, pose, atol=1e-12)
    np.testing.assert_array_equal(goal.picture, chunk.frames[-1].numpy())
    np.testing.assert_array_equal(goal.latent, chunk.latents[:, -1:].numpy())


# Success and reward


def test_the_dense_reward_adds_up_to_the_way_to_the_goal_and_one() -> None:
    for seed in range(6):
        env = reach(observation="latent").unwrapped
        assert isinstance(env, WorldPlayEnv)
        env.reset(seed=seed)
        assert env.goal is not None
        goal = env.goal.pose
        plan = min(plans(env), key=len)
        rewards, terminated = [], False
        while not terminated:
            *_, reward, terminated, _, info = env.step(plan[len(rewards)])
            rewards.append(reward)

        def left(pose: np.ndarray, goal: np.ndarray = goal) -> float:
            cosine = (np.trace(pose[:3, :3].T @ goal[:3, :3]) - 1) / 2
            return float(np.linalg.norm(pose[:3, 3] - goal[:3, 3]) + np.arccos(np.clip(cosine, -1, 1)))

        assert sum(rewards) == pytest.approx(1 + left(np.eye(4)) - left(info["poses"][-1]), abs=1e-6)


def test_the_sparse_reward_is_one_at_the_goal_and_another_reward_takes_the_place_of_both() -> None:
    only = {"actions": [FORWARD], "chunks": [3, 3]}
    way = [FORWARD, FORWARD, FORWARD]
    sparse = episode(reach(task={**only, "reward": "sparse"}), way)[1:]
    assert [step[1] for step in sparse] == [0, 0, 1]
    assert [step[2] for step in sparse] == [False, False, True]
    other = episode(reach(task=only, reward=lambda transition: transition.step / 2), way)[1:]
    assert [step[1:3] for step in other] == [(0.5, False), (1.0, False), (1.5, True)]


def test_random_play_rarely_succeeds() -> None:
    env = bare(task="reach", observation="latent")
    rng, successes, episodes = np.random.default_rng(0), 0, 150
    for seed in range(episodes):
        env.reset(seed=seed)
        successes += any(env.step(int(action))[2] for action in rng.integers(0, 81, 12))
    assert 0 < successes / episodes < 0.15


def test_info_has_the_same_keys_at_reset_and_every_step() -> None:
    infos = [result[-1] for result in episode(reach(), [9, 40, 80])]
    kinds = [{key: (type(value), np.shape(value)) for key, value in info.items()} for info in infos]
    assert all(kind == kinds[0] for kind in kinds)
    assert kinds[0]["success"] == (bool, ())
    assert kinds[0]["goal_pose"] == (np.ndarray, (4, 4))
    assert "success" not in bare().reset()[1]


def test_arrays_once_handed_out_do_not_change() -> None:
    env = reach()
    observation, info = env.reset(seed=0)
    goal, pose = observation["goal"].copy(), info["goal_pose"].copy()
    observation["goal"][:] = 7
    info["goal_pose"][:] = 7
    observation, *_, info = env.step(9)
    np.testing.assert_array_equal(observation["goal"], goal)
    np.testing.assert_array_equal(info["goal_pose"], pose)
    observation["goal"][:] = 7
    np.testing.assert_array_equal(env.step(9)[0]["goal"], goal)


# Behind walls


def test_success_is_judged_by_where_the_camera_is_and_not_by_where_it_was_sent() -> None:
    world = worldplay_env.load("scene", image_size=(24, 40), samples=1)
    env = bare(world=world, task="reach", starts=[(None, "scene 900011")], observation="last")
    env.reset(seed=1)
    moment = env.snapshot()
    goal = env.goal
    for _ in range(15):  # farther than the scene is long
        *_, info = env.step(FORWARD)
    asked = integrate(np.eye(4), [motion_of(FORWARD)] * 59)[-1]
    true = info["poses"][-1]
    np.testing.assert_array_equal(true, env.rollout.pose)
    assert np.linalg.norm(asked[:3, 3] - true[:3, 3]) > 1
    for pose, expected in ((asked, False), (true, True)):
        env.restore(replace(moment, episode=replace(moment.episode, state=replace(goal, pose=pose))))
        ended = [env.step(FORWARD)[2] for _ in range(15)]
        assert ended[-1] is expected
        assert any(ended) is expected


def test_a_goal_in_a_scene_is_where_the_camera_truly_comes_to() -> None:
    world = worldplay_env.load("scene", image_size=(24, 40), samples=1)
    task = Reach(actions=(FORWARD,), chunks=(12, 12))
    env = bare(world=world, task=task, starts=[(None, "scene 900011")], observation="last")
    first, info = env.reset(seed=0)
    assert info["goal_pose"][2, 3] < 0.08 * 47 - 0.5  # the wall
    for _ in range(12):
        observation, *_, info = env.step(FORWARD)
    np.testing.assert_allclose(info["poses"][-1], info["goal_pose"], atol=1e-12)
    np.testing.assert_array_equal(observation["observation"], first["goal"])
    assert info["success"]
