"""The PPO agent: it learns, resumes from checkpoints, and acts by its seed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scripts import load_script, run_script

import worldplay_env
from worldplay_env import Transition

ppo = load_script("agents/ppo.py")
PPOAgent, Settings = ppo.PPOAgent, ppo.Settings
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), dtype=np.uint8)
SMALL = Settings(num_steps=4, num_minibatches=2, update_epochs=2, width=8, checkpoint_every=2)


def make(count: int = 2, **arguments: Any) -> Any:
    """Return a vector env to learn in: a small test picture with goals."""
    options = {
        "world": worldplay_env.load("testcard", image_size=(12, 20)),
        "starts": [(picture, "") for picture in PICTURES],
        "channel_first": True,
        "output": "torch",
        "autoreset_mode": "same_step",
    }
    return gym.make_vec("WorldPlay/Reach-v0", num_envs=count, **{**options, **arguments})


def weights(agent: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.network.state_dict().items()}


# ---- learning


def test_one_update_makes_a_rewarded_action_likelier() -> None:
    wanted = Settings().labels.index(9)

    def nine(transition: Transition) -> np.ndarray:
        return (transition.action == 9).astype(float)

    env = make(8, reward=nine)
    agent = PPOAgent(env, Settings(num_steps=16, width=8), seed=0)
    obs, _ = env.reset(seed=1)

    def likely() -> torch.Tensor:
        with torch.no_grad():
            return agent.network(obs["observation"], obs["goal"])[0].softmax(1)

    before = likely()
    agent.learn(16 * 8)
    assert agent.updates == 1
    assert (likely() > before)[:, wanted].all()
    assert likely()[:, wanted].mean() > 1.2 * before[:, wanted].mean()
    assert (likely().argmax(1) == wanted).all()


def one(transition: Transition) -> np.ndarray:
    return np.ones(len(transition.action))


def gathered(chunks: int, steps: int) -> Any:
    """Return what an agent that only walks ahead buffers, if every step gives 1 and it expects 2 of any moment.

    With a discount of a half that is what an endless episode is worth. The goal is some chunks ahead.
    """
    env = make(4, reward=one, max_episode_steps=steps, task={"actions": (9,), "chunks": (chunks, chunks)})
    agent = PPOAgent(env, replace(SMALL, labels=(9,), gamma=0.5))
    with torch.no_grad():
        agent.network.critic.weight.zero_()
        agent.network.critic.bias.fill_(2.0)
    obs, _ = env.reset(seed=0)
    return agent.collect(obs)


def test_what_a_time_limit_cuts_short_would_have_gone_on() -> None:
    buffer, _, metrics = gathered(chunks=4, steps=2)
    assert buffer.dones[:, 0].tolist() == [False, True, False, True]
    torch.testing.assert_close(buffer.advantages, torch.zeros(4, 4))  # nothing is surprising
    assert (metrics["success"], metrics["episodes"], metrics["reward"]) == (0, 8, 2)  # what was given, not expected
    assert metrics["episode_length"] == 2


def test_nothing_comes_after_a_goal_is_reached() -> None:
    buffer, _, metrics = gathered(chunks=2, steps=3)
    assert buffer.dones[:, 0].tolist() == [False, True, False, True]
    lost = 1.0 - 2.0
    expected = torch.tensor([0.5 * SMALL.gae_lambda * lost, lost] * 2)[:, None].expand(4, 4)
    torch.testing.assert_close(buffer.advantages, expected)
    assert (metrics["success"], metrics["episodes"], metrics["reward"]) == (1, 8, 2)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    steps = 6 * SMALL.num_steps * 2
    whole = PPOAgent(make(), SMALL, seed=3)
    whole.learn(steps)

    class StoppedError(Exception):
        pass

    def stop(metrics: dict[str, float]) -> None:
        if metrics["steps"] == 5 * SMALL.num_steps * 2:
            raise StoppedError

    stopped = PPOAgent(make(), SMALL, seed=3)
    with pytest.raises(StoppedError):
        stopped.learn(steps, folder=tmp_path, report=stop)
    resumed = PPOAgent(make(), SMALL, seed=3)
    resumed.restore(tmp_path / "ppo.pt")
    assert resumed.updates == 4
    resumed.learn(steps, folder=tmp_path)

    assert resumed.updates == 6
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    for mine, other in zip(whole.history, resumed.history, strict=True):
        assert {**mine, "steps_per_second": 0} == {**other, "steps_per_second": 0}
    assert list(tmp_path.glob("events.*"))


def test_a_checkpoint_of_a_gpu_is_read_without_one(tmp_path: Path) -> None:
    class OnGpu:
        """Stands in for a generator of a GPU, whose state is shorter than that of one of a CPU."""

        def get_state(self) -> torch.Tensor:
            return torch.zeros(16, dtype=torch.uint8)

    agent, env = PPOAgent(make(), SMALL), make()
    agent.learn(SMALL.num_steps * 2)
    agent.generator = OnGpu()
    agent.save(tmp_path / "ppo.pt")
    obs, info = env.reset(seed=0)
    assert env.action_space.contains(PPOAgent.load(tmp_path / "ppo.pt", env).act(obs, info))


def test_a_minibatch_of_one_step_leaves_the_network_finite() -> None:
    agent = PPOAgent(make(1), replace(SMALL, num_steps=2))
    agent.learn(2)
    assert agent.updates == 1
    assert all(value.isfinite().all() for value in weights(agent).values())


def test_equal_seeds_learn_equally_whatever_the_global_random_numbers_are() -> None:
    agents = []
    for number in (0, 1):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        agents.append(PPOAgent(make(), SMALL, seed=1))
        agents[-1].learn(2 * SMALL.num_steps * 2)
        assert torch.equal(torch.get_rng_state(), state)
    one, other = map(weights, agents)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_checkpoint_of_other_settings_or_another_seed_is_refused(tmp_path: Path) -> None:
    agent = PPOAgent(make(), SMALL, seed=0)
    agent.save(tmp_path / "ppo.pt")
    before = weights(agent)
    for other in (PPOAgent(make(), SMALL, seed=1), PPOAgent(make(), replace(SMALL, clip_coef=0.1), seed=0)):
        with pytest.raises(ValueError, match="seed 0"):
            other.restore(tmp_path / "ppo.pt")
    assert all(torch.equal(value, before[name]) for name, value in weights(agent).items())


def test_a_checkpoint_of_version_0_1_goes_on(tmp_path: Path) -> None:
    agent, path = PPOAgent(make(), SMALL, seed=3), tmp_path / "ppo.pt"
    agent.learn(SMALL.num_steps * 2, folder=tmp_path, events=False)
    state = torch.load(path, weights_only=True)
    state["settings"] = {
        "labels": SMALL.labels,
        "horizon": 4,
        "epochs": 2,
        "minibatches": 2,
        "learning_rate": 1e-3,
        "clip": 0.2,
        "discount": 0.95,
        "trace": 0.9,
        "entropy": 0.01,
        "value": 0.5,
        "gradient": 0.5,
        "width": 8,
        "checkpoint_every": 2,
    }
    torch.save(state, path)

    assert PPOAgent.load(path, make()).settings == SMALL
    resumed = PPOAgent(make(), SMALL, seed=3)
    resumed.restore(path)
    assert resumed.updates == 1
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(agent).items())


def test_a_minute_less_than_none_stops_before_the_first_step() -> None:
    agent = PPOAgent(make(), SMALL)
    agent.learn(1000, minutes=0)
    assert agent.updates == 0


# ---- TensorBoard


def test_tensorboard_is_given_what_tells_how_learning_goes(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    agent = PPOAgent(make(max_episode_steps=2), SMALL)
    agent.learn(2 * SMALL.num_steps * 2, folder=tmp_path)
    written = events.EventAccumulator(str(tmp_path)).Reload()
    names = (
        "success reward episodes episode_length policy_loss value_loss entropy kl clip_fraction explained_variance"
    )
    for name in (*names.split(), "learning_rate", "steps_per_second"):
        values = [event.value for event in written.Scalars(f"ppo/{name}")]
        assert values == pytest.approx([line[name] for line in agent.history])
    assert [line["learning_rate"] for line in agent.history] == [SMALL.learning_rate, SMALL.learning_rate / 2]


def test_without_tensorboard_it_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="events=False or --no-tensorboard"):
        PPOAgent(make(), SMALL).learn(8, folder=tmp_path)
    PPOAgent(make(), SMALL).learn(8, folder=tmp_path, events=False)


# ---- acting


@pytest.mark.parametrize("observation", ["last", "chunk", "latent"])
def test_a_saved_agent_acts_in_any_env_by_its_seed_alone(observation: str, tmp_path: Path) -> None:
    card = worldplay_env.load("testcard", image_size=(12, 20))
    shown = {"observation": observation}
    PPOAgent(make(**shown), SMALL).save(tmp_path / "ppo.pt")
    single = gym.make("WorldPlay/Reach-v0", world=card, starts=[(None, "")], channel_first=True, **shown)
    vector = make(3, output="numpy", **shown)
    for env in (single, vector):
        obs, info = env.reset(seed=0)
        drawn = []
        for _ in range(2):
            agent = PPOAgent.load(tmp_path / "ppo.pt", env)
            drawn.append([agent.act(obs, info) for _ in range(20)])
        np.testing.assert_array_equal(*drawn)
        assert all(env.action_space.contains(action) for action in drawn[0])
        assert set(np.ravel(drawn[0])) <= set(SMALL.labels)
        assert len(set(np.ravel(drawn[0]))) > 1


def test_an_action_depends_on_the_newest_picture_and_the_goal_alone() -> None:
    agent = PPOAgent(env := make(4, observation="chunk"), SMALL)
    obs, _ = env.reset(seed=0)
    older = {**obs, "observation": obs["observation"].clone()}
    older["observation"][:, :-1] = 0
    newest = {**obs, "observation": obs["observation"].clone()}
    newest["observation"][:, -1] = 0
    logits = [agent.network(*agent._inputs(one))[0] for one in (obs, older, newest)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize(
    ("arguments", "message"), [({"task": None}, 'task="reach"'), ({"channel_first": False}, "channel_first=True")]
)
def test_an_env_that_does_not_show_what_the_agent_reads_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOAgent(make(**arguments), SMALL)


def test_an_env_whose_episodes_do_not_begin_anew_at_once_is_not_learnt_in() -> None:
    with pytest.raises(ValueError, match="same_step"):
        PPOAgent(make(autoreset_mode="next_step"), SMALL).learn(8)


@pytest.mark.slow
def test_the_agents_file_runs_as_it_stands_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    arguments = ["--world", "testcard", "--size", "12", "20", "--num-envs", "2", "--folder", "mine"]
    first = run_script("agents/ppo.py", *arguments, "--steps", "16", folder=tmp_path)
    second = run_script("agents/ppo.py", *arguments, "--steps", "32", folder=tmp_path)

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.startswith("steps 16, success")
    assert second.stdout.startswith("steps 32, success")
    assert list((tmp_path / "mine").glob("events.*"))
