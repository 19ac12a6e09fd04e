"""Episodes collected by workers, and the example that saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scripts import load_script, run_script
from spread import SIZE, Drifter, make_env

import worldplay_env
from worldplay_env.workers import Agent, RecordedEpisode, collect


def episodes(
    count: int | None, make_agent: Callable[[gym.Env[Any, Any], int], Agent] = Drifter
) -> list[RecordedEpisode]:
    found = list(collect(make_env, make_agent, range(4), workers=count, threads=1))
    return sorted(found, key=lambda episode: episode.seed)


def assert_equal(found: list[RecordedEpisode], expected: list[RecordedEpisode]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.arrays().keys() == other.arrays().keys()
        for name, array in one.arrays().items():
            np.testing.assert_array_equal(array, other.arrays()[name], err_msg=name, strict=True)


@pytest.mark.slow
def test_episodes_do_not_depend_on_who_plays_them(ray: Any) -> None:
    expected = episodes(None)
    assert len({tuple(episode.actions) for episode in expected}) == 4
    found = episodes(2)
    assert_equal(found, expected)
    found[0].observations[:] = 0  # one's own to write in, as without Ray


def test_an_episode_is_what_its_env_gave_step_by_step() -> None:
    [episode] = collect(make_env, Drifter, [5])
    env = make_env()
    obs, info = env.reset(seed=5)
    agent = Drifter(env, 5)
    assert len(episode) == len(episode.actions) == 3
    assert (episode.seed, episode.terminated, episode.truncated) == (5, False, True)
    for step in range(4):
        np.testing.assert_array_equal(episode.observations[step], obs)
        assert episode.infos.keys() == info.keys()
        for name, value in info.items():
            np.testing.assert_array_equal(episode.infos[name][step], value)
        if step < 3:
            action = agent.act(obs, info)
            assert episode.actions[step] == action
            obs, reward, *_, info = env.step(action)
            assert episode.rewards[step] == reward


class Doubled(gym.ObservationWrapper[Any, Any, Any]):
    """Shows a dict, as an env with a goal does."""

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"observation": observation, "goal": 255 - observation}


def test_an_episode_is_cut_and_saved_as_arrays(tmp_path: Path) -> None:
    still = SimpleNamespace(act=lambda obs, info: 0)
    [episode] = collect(lambda: Doubled(make_env()), lambda env, seed: still, [0], max_steps=2)
    assert (len(episode), episode.truncated) == (2, True)
    episode.save(tmp_path / "new" / "0.npz")
    with np.load(tmp_path / "new" / "0.npz", allow_pickle=False) as saved:
        assert saved["observations/goal"].shape == (3, *SIZE, 3)
        np.testing.assert_array_equal(saved["observations/goal"], 255 - saved["observations/observation"])
        np.testing.assert_array_equal(saved["actions"], episode.actions)
        assert saved["infos/poses"].shape == (3, 4, 4, 4)
        assert (saved["seed"], saved["truncated"], saved["rewards"].tolist()) == (0, True, [0, 0])
    with pytest.raises(ValueError, match="max_steps must be 1 or more, got 0"):
        list(collect(make_env, Drifter, [0], max_steps=0))


@pytest.mark.slow
def test_the_example_writes_the_same_episodes_with_ray_and_without(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    arguments = ["--env", "WorldPlay/Testcard-v0", "--episodes", "3", "--steps", "2", "--workers", "2"]
    script = load_script("examples/collect_ray.py")
    monkeypatch.setattr("sys.argv", ["collect_ray.py", *arguments, "--out", str(tmp_path / "alone")])
    script.main()
    assert len(capsys.readouterr().out.splitlines()) == 3
    result = run_script("examples/collect_ray.py", *arguments, "--out", "spread", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 3
    for seed in range(3):
        name = f"episode-{seed:06}.npz"
        with np.load(tmp_path / "alone" / name) as one, np.load(tmp_path / "spread" / name) as other:
            assert one.keys() == other.keys()
            for part in one:
                np.testing.assert_array_equal(one[part], other[part], err_msg=part, strict=True)
            assert (one["seed"], one["actions"].shape) == (seed, (2,))


def test_the_example_lets_the_scripted_agent_follow_a_path(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("examples/collect_ray.py")
    arguments = ["--env", "WorldPlay/Testcard-v0", "--episodes", "1", "--steps", "2", "--pose", "w-3, right-4"]
    monkeypatch.setattr("sys.argv", ["collect_ray.py", *arguments, "--out", str(tmp_path)])
    script.main()
    expected = worldplay_env.load_trajectory("w-3, right-4").poses
    with np.load(tmp_path / "episode-000000.npz") as episode:
        poses = episode["infos/poses"][1:].reshape(-1, 4, 4)
        np.testing.assert_allclose(poses, expected, atol=1e-12)
