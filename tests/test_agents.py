"""The random and the scripted agent: what they do, and that their files run as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from films import read_film
from scripts import load_script, run_script

import worldplay_env

RandomAgent = load_script("agents/random_agent.py").RandomAgent
ScriptedAgent = load_script("agents/scripted.py").ScriptedAgent


def make(actions: str = "chunk") -> gym.Env[Any, Any]:
    return gym.make("WorldPlay/Testcard-v0", starts=[(None, "")], actions=actions)


def follow(env: gym.Env[Any, Any], agent: Any, steps: int) -> np.ndarray:
    """Run an agent for some steps; return all poses, float64 [4 * steps, 4, 4]."""
    obs, info = env.reset(seed=0)
    poses = []
    for _ in range(steps):
        obs, _, _, _, info = env.step(agent.act(obs, info))
        poses.append(info["poses"])
    return np.concatenate(poses)


@pytest.mark.parametrize("actions", ["chunk", "latent"])
def test_a_random_agent_draws_valid_actions_by_its_seed_alone(actions: str) -> None:
    env = make(actions)
    env.action_space.seed(5)
    agents = [RandomAgent(env, seed) for seed in (1, 1, 2)]
    drawn = [[agent.act(None, {}) for _ in range(20)] for agent in agents]

    assert all(env.action_space.contains(action) for actions_drawn in drawn for action in actions_drawn)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.not_equal(drawn[0], drawn[2]).any()
    untouched = make(actions).action_space
    untouched.seed(5)
    np.testing.assert_array_equal(env.action_space.sample(), untouched.sample())


@pytest.mark.parametrize(
    ("actions", "pose_string"),
    [
        ("latent", "w-8, right-8, w-8, left-7"),
        ("latent", "w-1, up-1, d-1, right-1, s-1"),
        ("latent", ""),
        ("chunk", "w-3, right-8, a-4"),
        ("chunk", "w-2, w-1, up-4"),
        ("chunk", ""),
    ],
)
def test_a_scripted_agent_follows_the_pose_string_and_then_stands_still(actions: str, pose_string: str) -> None:
    env = make(actions)
    agent = ScriptedAgent(env, pose_string)
    expected = worldplay_env.load_trajectory(pose_string).poses

    poses = follow(env, agent, len(agent) + 1)

    np.testing.assert_allclose(poses[: len(expected)], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(poses[len(expected) :], np.broadcast_to(poses[-1], poses[len(expected) :].shape))


def test_a_scripted_agent_begins_again_with_the_episode() -> None:
    env = make("latent")
    agent = ScriptedAgent(env, "w-5, right-2")
    np.testing.assert_array_equal(follow(env, agent, 1), follow(env, agent, 2)[:4])


@pytest.mark.parametrize(
    ("pose_string", "message"),
    [
        ("w-4", "chunk 1"),
        ("w-2, right-1", "chunk 0.*forward, .*yaw right"),
        ("w-3, right-4, w-3", "chunk 2.*latent"),
        ("w-3, sideways-4", "sideways"),
    ],
)
def test_a_pose_string_that_the_env_cannot_follow_is_refused(pose_string: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScriptedAgent(make("chunk"), pose_string)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "frames"),
    [("agents/random_agent.py", ["--steps", "2"], 29), ("agents/scripted.py", ["--pose", "w-5, right-1"], 29)],
)
def test_an_agents_file_runs_as_it_stands(script: str, arguments: list[str], frames: int, tmp_path: Path) -> None:
    result = run_script(script, "--env", "WorldPlay/Testcard-v0", *arguments, "--out", "film.mp4", folder=tmp_path)

    assert result.returncode == 0, result.stderr
    assert "step 1" in result.stdout
    assert len(read_film(tmp_path / "film.mp4").frames) == frames
