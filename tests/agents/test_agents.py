"""The agents: what they do and what they look at, and that their files run as they stand."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from films import read_film
from scripts import load_script, run_script
from small_world import small_world

import worldplay_env

RandomAgent = load_script("agents/random_agent.py").RandomAgent
ScriptedAgent = load_script("agents/scripted.py").ScriptedAgent
KeyboardAgent = load_script("agents/keyboard.py").KeyboardAgent
TowardGoalAgent = load_script("agents/toward_goal.py").TowardGoalAgent
planner = load_script("agents/planner.py")
PlannerAgent, Search = planner.PlannerAgent, planner.Search
PPOAgent = load_script("agents/ppo.py").PPOAgent
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), dtype=np.uint8)


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


# ---- agents that go somewhere


def make_worlds(world: Any, count: int, **arguments: Any) -> Any:
    pairs = [(picture, "") for picture in PICTURES]
    options = {"starts": pairs, "autoreset_mode": "same_step", **arguments}
    return gym.make_vec("WorldPlay/Reach-v0", num_envs=count, world=world, **options)


def small_card() -> worldplay_env.World:
    return worldplay_env.load("testcard", image_size=(24, 40))


def arrivals(env: Any, agent: Any, seed: int = 0) -> np.ndarray:
    """Return which of a vector env's first episodes come to their goals."""
    obs, info = env.reset(seed=seed)
    ended, success = np.zeros(env.num_envs, dtype=bool), np.zeros(env.num_envs, dtype=bool)
    while not ended.all():
        obs, _, terminated, truncated, info = env.step(agent.act(obs, info))
        success |= terminated & ~ended
        ended |= terminated | truncated
    return success


def test_who_is_told_the_goals_pose_comes_to_it_by_the_shortest_way() -> None:
    card = small_card()
    env = make_worlds(card, 16, max_episode_steps=4)
    assert arrivals(env, TowardGoalAgent(env)).all()
    single = gym.make("WorldPlay/Reach-v0", world=card, starts=[(PICTURES[0], "")], max_episode_steps=4)
    agent = TowardGoalAgent(single)
    obs, info = single.reset(seed=3)
    terminated = truncated = False
    while not (terminated or truncated):
        action = agent.act(obs, info)
        assert single.action_space.contains(action)
        obs, _, terminated, truncated, info = single.step(action)
    assert terminated


def test_the_planner_finds_goals_that_chance_misses() -> None:
    card, random = small_card(), np.random.default_rng(0)
    near = {"task": {"chunks": (1, 2)}, "max_episode_steps": 3}
    env = make_worlds(card, 8, **near)
    agent = PlannerAgent(env, Search(depth=2, plans=12, rounds=2, elite=3), seed=0)

    class Chance:
        def act(self, obs: Any, info: dict[str, Any]) -> np.ndarray:
            return random.choice(planner.WALK_AND_TURN, 32)

    found, chanced = arrivals(env, agent).mean(), arrivals(make_worlds(card, 32, **near), Chance()).mean()

    assert found >= 0.75
    assert chanced < found / 2


@pytest.mark.parametrize("observation", ["last", "chunk", "latent"])
def test_the_planner_draws_valid_actions_by_its_seed_alone(observation: str) -> None:
    card = small_card()
    single = gym.make("WorldPlay/Reach-v0", world=card, starts=[(PICTURES[0], "")], observation=observation)
    vector = make_worlds(card, 2, observation=observation)
    search = Search(depth=2, plans=4, rounds=2, elite=2)
    for env in (single, vector):
        obs, _ = env.reset(seed=0)
        actions = [PlannerAgent(env, search, seed=5).act(obs, {}) for _ in range(2)]
        np.testing.assert_array_equal(*actions)
        assert env.action_space.contains(actions[0])


@pytest.mark.parametrize(
    ("make_agent", "channel_first"),
    [(partial(PlannerAgent, search=Search(depth=2, plans=4, rounds=2, elite=2)), False), (PPOAgent, True)],
    ids=["planner", "PPO"],
)
def test_who_sees_the_goal_never_asks_where_it_is(
    make_agent: Any, channel_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("asked for a pose")

    card, starts = small_card(), [(PICTURES[0], "")]
    single = gym.make("WorldPlay/Reach-v0", world=card, starts=starts, channel_first=channel_first)
    for env in (single, make_worlds(card, 2, channel_first=channel_first)):
        obs, _ = env.reset(seed=0)
        with monkeypatch.context() as patch:
            patch.setattr(worldplay_env.Goal, "pose", property(refuse), raising=False)
            for owner, name in ((worldplay_env.WorldPlayEnv, "goal"), (worldplay_env.WorldPlayVectorEnv, "goals")):
                patch.setattr(owner, name, property(refuse))
            action = make_agent(env).act(obs, {})  # where infos hold poses
        assert env.action_space.contains(action)


class NoText:
    """Stands in for a text encoder."""

    def token_count(self, prompt: str) -> int:
        return 1

    def encode(self, prompts: list[str]) -> torch.Tensor:
        return torch.zeros(len(prompts), 5, 10)


class Watched:
    """A world's step, and what it was asked for."""

    def __init__(self, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        step = world.step

        def watched(rollouts: Any, controls: Any, **options: Any) -> Any:
            self.calls.append({"seeds": {rollout.seed for rollout in rollouts}, "count": len(rollouts), **options})
            return step(rollouts, controls, **options)

        monkeypatch.setattr(world, "step", watched)


def test_the_planner_searches_a_dream_in_latents_with_noise_of_its_own_and_leaves_it_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = small_world(text_encoder=NoText())
    pair = [make_worlds(world, 2) for _ in range(2)]
    for env in pair:
        env.reset(seed=0)
        obs, *_, info = env.step([9, 1])
    watched = Watched(world, monkeypatch)

    PlannerAgent(pair[1], Search(depth=2, plans=3, rounds=2, elite=1, max_batch=4)).act(obs, info)

    assert {call["decode"] for call in watched.calls} == {False}
    assert max(call["count"] for call in watched.calls) <= 4
    assert 2 * 2 <= sum(call["count"] for call in watched.calls) <= 2 * 2 * 3 * 2
    [seed] = set().union(*(call["seeds"] for call in watched.calls))
    assert seed not in {rollout.seed for env in pair for rollout in env.unwrapped.rollouts}
    plain, planned = (env.step([1, 10])[0] for env in pair)
    np.testing.assert_array_equal(planned["observation"], plain["observation"])


def test_the_planner_searches_in_a_world_of_another_layout() -> None:
    env = gym.make("WorldPlay/Reach-v0", world="abot-small", weights="random", device="cpu", disable_env_checker=True)
    obs, info = env.reset(seed=0)
    agent = PlannerAgent(env, search=Search(depth=2, plans=4, rounds=1, elite=2))
    before = env.unwrapped.rollout
    assert env.action_space.contains(agent.act(obs, info))
    assert (env.unwrapped.rollout is before, before.chunks) == (True, 0)


def test_the_planner_imagines_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    card = small_card()
    env = gym.make("WorldPlay/Reach-v0", world=card, starts=[(PICTURES[0], "")])
    obs, info = env.reset(seed=0)
    watched = Watched(card, monkeypatch)
    PlannerAgent(env, Search(labels=(9, 1), depth=2, plans=40, rounds=3)).act(obs, info)
    assert [call["count"] for call in watched.calls] == [2, 4]  # all that two actions can lead to in two steps
    assert {call["decode"] for call in watched.calls} == {"newest"}  # the others are not looked at


def test_the_planner_imagines_in_another_world_from_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    dream, card = small_world(text_encoder=NoText()), small_card()
    env = gym.make("WorldPlay/Reach-v0", world=card, starts=[(PICTURES[0], "")], observation="chunk")
    obs, info = env.reset(seed=0)
    dreamt, carded = Watched(dream, monkeypatch), Watched(card, monkeypatch)

    action = PlannerAgent(env, Search(depth=1, plans=3, rounds=1, elite=1), world=dream).act(obs, info)

    assert env.action_space.contains(action)
    assert (len(dreamt.calls), len(carded.calls)) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"task": None}, {}, 'task="reach"'),
        ({"channel_first": True}, {}, "channel_first"),
        ({"observation": "latent"}, {"world": object()}, "shows latents"),
        ({"actions": "latent"}, {}, "one action a chunk"),
    ],
)
def test_the_planner_refuses_an_env_that_it_cannot_see_the_goal_in(
    arguments: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    env = gym.make("WorldPlay/Reach-v0", world="testcard", starts=[(None, "")], **arguments)
    with pytest.raises(ValueError, match=message):
        PlannerAgent(env, **options)


def test_agents_refuse_envs_whose_actions_are_not_theirs() -> None:
    testcard = {"world": "testcard", "starts": [(None, "")]}
    by_latent = gym.make("WorldPlay/Reach-v0", actions="latent", channel_first=True, **testcard)
    with pytest.raises(ValueError, match="one action a chunk"):
        PPOAgent(by_latent)
    with pytest.raises(ValueError, match="one action a chunk"):
        TowardGoalAgent(by_latent)
    with pytest.raises(ValueError, match="needs a task"):
        TowardGoalAgent(gym.make("WorldPlay/Testcard-v0"))
    envs = gym.make_vec("WorldPlay/Testcard-v0", num_envs=2)
    with pytest.raises(TypeError, match="one env at a time"):
        ScriptedAgent(envs, "w-3")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one env at a time"):
        KeyboardAgent(envs)  # type: ignore[arg-type]


# ---- their files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "frames"),
    [
        ("agents/random_agent.py", ["--steps", "2"], 29),
        ("agents/scripted.py", ["--pose", "w-5, right-1"], 29),
        ("agents/random_agent.py", ["--env", "WorldPlay/Reach-v0", "--steps", "2"], 29),
    ],
)
def test_an_agents_file_runs_as_it_stands(script: str, arguments: list[str], frames: int, tmp_path: Path) -> None:
    result = run_script(script, *["--env", "WorldPlay/Testcard-v0", *arguments], "--out", "film.mp4", folder=tmp_path)

    assert result.returncode == 0, result.stderr
    assert "step 1" in result.stdout
    assert len(read_film(tmp_path / "film.mp4").frames) == frames


@pytest.mark.slow
@pytest.mark.parametrize("script", ["agents/planner.py", "agents/toward_goal.py"])
def test_a_file_of_an_agent_with_a_goal_films_it_beside_the_view(script: str, tmp_path: Path) -> None:
    arguments = ["--world", "testcard", "--steps", "1", "--out", "film.mp4"]
    result = run_script(script, *arguments, folder=tmp_path)

    assert result.returncode == 0, result.stderr
    assert "step 0" in result.stdout
    assert read_film(tmp_path / "film.mp4").frames.shape == (13, 96, 320, 3)
