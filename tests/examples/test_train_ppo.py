"""PPO: its mathematics, that it learns and can be stopped, and that the training example runs from end to end."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from scripts import load_script, run_script

import worldplay_env
from worldplay_env import Transition

ppo = load_script("agents/ppo.py")
reach_report = load_script("examples/reach_report.py")
train_ppo = load_script("examples/train_ppo.py")
PPOAgent, Settings = ppo.PPOAgent, ppo.Settings
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), dtype=np.uint8)
SMALL = Settings(horizon=4, minibatches=2, epochs=2, width=8, checkpoint_every=2)


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


# ---- the mathematics


def test_advantages_are_the_discounted_sums_of_surprises_up_to_the_episodes_end() -> None:
    random = np.random.default_rng(0)
    steps, worlds, discount, trace = 7, 3, 0.9, 0.8
    rewards, values = random.normal(size=(2, steps, worlds))
    last, ended = random.normal(size=worlds), random.random((steps, worlds)) < 0.3
    assert ended.any()

    expected = np.zeros((steps, worlds))
    for t in range(steps):
        for n in range(worlds):
            weight = 1.0
            for k in range(t, steps):
                after = 0.0 if ended[k, n] else (last[n] if k + 1 == steps else values[k + 1, n])
                expected[t, n] += weight * (rewards[k, n] + discount * after - values[k, n])
                if ended[k, n]:
                    break
                weight *= discount * trace

    given = [torch.from_numpy(part) for part in (rewards, values, ended, last)]
    np.testing.assert_allclose(ppo.advantages_of(*given, discount, trace), expected, rtol=0, atol=1e-12)


def test_with_full_traces_an_advantage_is_the_return_less_the_value() -> None:
    rewards, values = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.5], [0.25], [8.0]])
    ended = torch.tensor([[False], [True], [False]])
    advantages = ppo.advantages_of(rewards, values, ended, torch.tensor([10.0]), 0.5, 1.0)
    assert advantages[:, 0].tolist() == [1 + 0.5 * 2 - 0.5, 2 - 0.25, 4 + 0.5 * 10 - 8]


def test_the_clipped_loss_is_what_is_worked_out_by_hand() -> None:
    # An action's probability went from 0.5 to 0.9, 0.2, 0.9, 0.2 and 0.55: ratios 1.8, 0.4, 1.8, 0.4 and 1.1.
    new, old = torch.tensor([0.9, 0.2, 0.9, 0.2, 0.55]).log(), torch.full((5,), 0.5).log()
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    # Gains stop at 1.2, losses count in full; what moved the wrong way is pulled back however far it went.
    by_hand = -(1.2 + 0.4 - 1.8 - 0.8 + 2.2) / 5
    assert ppo.clipped_loss(new, old, advantage, 0.2).item() == pytest.approx(by_hand, abs=1e-6)


def test_nothing_is_gained_by_moving_past_the_clip() -> None:
    new = torch.tensor([0.9, 0.2], requires_grad=True)
    ppo.clipped_loss(new.log(), torch.full((2,), 0.5).log(), torch.tensor([1.0, -1.0]), 0.2).backward()
    assert new.grad is not None
    assert new.grad.tolist() == [0.0, 0.0]


def test_how_far_the_policy_moved_is_its_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 5, generator=generator).log_softmax(1)
    taken = torch.multinomial(old.exp(), 100_000, replacement=True, generator=generator)
    kl, clipped = ppo.change_of(new[taken], old[taken], clip=0.2)
    assert kl == pytest.approx(float((old.exp() * (old - new)).sum()), rel=0.05)
    moved = ((new - old).exp() - 1).abs() > 0.2
    assert clipped == pytest.approx(float((old.exp() * moved).sum()), abs=0.01)
    assert [float(one) for one in ppo.change_of(old, old, clip=0.2)] == [0, 0]


@pytest.mark.parametrize(("values", "explained"), [([1, 2, 3], 1), ([5, 6, 7], 1), ([2, 2, 2], 0), ([3, 2, 1], -3)])
def test_explained_variance(values: list[float], explained: float) -> None:
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert ppo.explained_variance(torch.tensor(values, dtype=torch.float32), returns) == pytest.approx(explained)
    assert ppo.explained_variance(torch.tensor([0.0, 1.0]), torch.ones(2)) == 0


def test_tensorboard_is_given_what_tells_how_learning_goes(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    agent = PPOAgent(make(max_episode_steps=2), SMALL)
    agent.learn(2 * SMALL.horizon * 2, folder=tmp_path)
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


# ---- learning


def test_one_update_makes_a_rewarded_action_likelier() -> None:
    wanted = Settings().labels.index(9)

    def nine(transition: Transition) -> np.ndarray:
        return (transition.action == 9).astype(float)

    env = make(8, reward=nine)
    agent = PPOAgent(env, Settings(horizon=16, width=8), seed=0)
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
    """Return what an agent that only walks ahead experiences, if every step gives 1 and it expects 2 of any moment.

    With a discount of a half that is what an endless episode is worth. The goal is some chunks ahead.
    """
    env = make(4, reward=one, max_episode_steps=steps, task={"actions": (9,), "chunks": (chunks, chunks)})
    agent = PPOAgent(env, replace(SMALL, labels=(9,), discount=0.5))
    with torch.no_grad():
        agent.network.critic.weight.zero_()
        agent.network.critic.bias.fill_(2.0)
    obs, _ = env.reset(seed=0)
    return agent.gather(obs)


def test_what_a_time_limit_cuts_short_would_have_gone_on() -> None:
    experience, _, figures = gathered(chunks=4, steps=2)
    assert experience.ended[:, 0].tolist() == [False, True, False, True]
    torch.testing.assert_close(experience.advantages, torch.zeros(4, 4))  # nothing is surprising
    assert (figures["success"], figures["episodes"], figures["reward"]) == (0, 8, 2)  # what was given, not expected
    assert figures["episode_length"] == 2


def test_nothing_comes_after_a_goal_is_reached() -> None:
    experience, _, figures = gathered(chunks=2, steps=3)
    assert experience.ended[:, 0].tolist() == [False, True, False, True]
    lost = 1.0 - 2.0
    expected = torch.tensor([0.5 * SMALL.trace * lost, lost] * 2)[:, None].expand(4, 4)
    torch.testing.assert_close(experience.advantages, expected)
    assert (figures["success"], figures["episodes"], figures["reward"]) == (1, 8, 2)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    steps = 6 * SMALL.horizon * 2
    whole = PPOAgent(make(), SMALL, seed=3)
    whole.learn(steps)

    class StoppedError(Exception):
        pass

    def stop(figures: dict[str, float]) -> None:
        if figures["steps"] == 5 * SMALL.horizon * 2:
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
    agent.learn(SMALL.horizon * 2)
    agent.generator = OnGpu()
    agent.save(tmp_path / "ppo.pt")
    obs, info = env.reset(seed=0)
    assert env.action_space.contains(PPOAgent.load(tmp_path / "ppo.pt", env).act(obs, info))


def test_a_minibatch_of_one_step_leaves_the_network_finite() -> None:
    agent = PPOAgent(make(1), replace(SMALL, horizon=2))
    agent.learn(2)
    assert agent.updates == 1
    assert all(value.isfinite().all() for value in weights(agent).values())


def test_equal_seeds_learn_equally_whatever_the_global_random_numbers_are() -> None:
    agents = []
    for number in (0, 1):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        agents.append(PPOAgent(make(), SMALL, seed=1))
        agents[-1].learn(2 * SMALL.horizon * 2)
        assert torch.equal(torch.get_rng_state(), state)
    one, other = map(weights, agents)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_checkpoint_of_other_settings_or_another_seed_is_refused(tmp_path: Path) -> None:
    agent = PPOAgent(make(), SMALL, seed=0)
    agent.save(tmp_path / "ppo.pt")
    before = weights(agent)
    for other in (PPOAgent(make(), SMALL, seed=1), PPOAgent(make(), replace(SMALL, clip=0.1), seed=0)):
        with pytest.raises(ValueError, match="seed 0"):
            other.restore(tmp_path / "ppo.pt")
    assert all(torch.equal(value, before[name]) for name, value in weights(agent).items())


def test_a_minute_less_than_none_stops_before_the_first_step() -> None:
    agent = PPOAgent(make(), SMALL)
    agent.learn(1000, minutes=0)
    assert agent.updates == 0


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
    logits = [agent.network(*agent._planes(one))[0] for one in (obs, older, newest)]
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


# ---- the report and the example


class Ends:
    """A vector env whose row i ends its first episode after i + 1 steps, at the goal if i is even."""

    num_envs = 4

    def reset(self, seed: int) -> tuple[None, dict[str, Any]]:
        self.steps = 0
        return None, {}

    def step(self, actions: Sequence[int]) -> tuple[Any, ...]:
        self.steps += 1
        due = np.arange(1, 5) == self.steps
        again = np.arange(1, 5) < self.steps  # second episodes, all at the goal: they do not count
        even = np.arange(4) % 2 == 0
        return None, None, (due & even) | again, due & ~even, {}

    def close(self) -> None:
        pass


def test_a_success_rate_counts_every_rows_first_episode_alone() -> None:
    class Still:
        def act(self, obs: Any, info: dict[str, Any]) -> list[int]:
            return [0] * 4

    assert reach_report.success_rate(lambda env: Still(), Ends, seed=0) == 0.5


def test_a_rate_that_was_measured_is_kept_for_the_next_run(tmp_path: Path) -> None:
    def never() -> float:
        raise AssertionError("measured again")

    path = tmp_path / "runs" / "rates.json"
    assert reach_report.Rates(path).of("PPO", lambda: 0.25) == 0.25
    again = reach_report.Rates(path)
    assert again.of("PPO", never) == 0.25
    assert again.of("planner", lambda: 0.5) == 0.5
    assert reach_report.Rates(path).of("planner", never) == 0.5


def test_the_curve_counts_the_episodes_of_neighbouring_updates_together() -> None:
    lines = [{"steps": 10.0 * n, "success": float(n == 1), "episodes": 1.0 if n == 1 else 9.0} for n in range(1, 11)]
    steps, rates = reach_report.learning_curve(lines)
    assert steps == [10.0 * n for n in range(1, 11)]
    # One lucky episode at the outset, and nine updates on none.
    assert rates == pytest.approx([1 / (1 + 9 * others) for others in range(9)] + [0])


def test_the_curve_of_a_short_run_begins_at_the_first_update_that_ended_an_episode() -> None:
    lines = [
        {"steps": 8.0, "success": 0.0, "episodes": 0.0},
        {"steps": 16.0, "success": 0.5, "episodes": 4.0},
    ]
    assert reach_report.learning_curve(lines[:1]) == ([], [])
    assert reach_report.learning_curve(lines) == ([16.0], [0.5])


def test_budgets_are_what_the_readme_says() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert train_ppo.Args().steps == ppo.Args().steps == ppo.BUDGET
    assert train_ppo.Args().planner_episodes == train_ppo.PLANNER_EPISODES
    assert f"The budget was {ppo.BUDGET:,} steps" in readme
    assert f"the planner has {train_ppo.PLANNER_EPISODES} episodes" in readme
    # What is asked for in the true scenes is what the table tells of.
    for text in (readme, train_ppo.__doc__):
        [asked] = re.findall(r"train_ppo\.py .*--steps ([\d_]+)", text)
        assert f"learned in the true scenes, {int(asked):,} steps" in readme


def test_table_and_curve_are_made_once_more_from_the_results(tmp_path: Path) -> None:
    results = {"random": {"scene": [0.25]}, "PPO": {"scene": [0.5]}}
    table = reach_report.write_report(
        tmp_path, results, [[{"steps": 8, "success": 0.5, "episodes": 4}]], {"seeds": 1}
    )
    for name in ("table.md", "curve.png"):
        (tmp_path / name).unlink()
    reach_report.main(tmp_path)
    assert (tmp_path / "table.md").read_text() == table
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.width > 600


def test_the_table_gives_mean_and_spread_and_leaves_open_what_was_not_run() -> None:
    results = {"random": {"tiny": [0.1, 0.2, 0.3], "scene": [0.25]}, "dreamer": {"scene": [0.5, 0.5]}}
    assert reach_report.markdown_table(results).splitlines() == [
        "| agent | tiny | scene |",
        "| --- | --- | --- |",
        "| random | 20 ± 10 % | 25 % |",
        "| dreamer |  | 50 ± 0 % |",
    ]


def test_starts_are_the_same_places_for_every_world() -> None:
    scene = worldplay_env.load("scene", image_size=(12, 20))
    for (picture, prompt), (none, name) in zip(
        reach_report.scene_starts("testcard", [3, 900_001]),
        reach_report.scene_starts("scene", [3, 900_001]),
        strict=True,
    ):
        assert none is None
        assert prompt
        assert picture is not None
        shown = scene.start(worldplay_env.Start(None, name), 0).picture.astype(float)
        blurred = np.asarray(Image.fromarray(picture).resize((20, 12), Image.Resampling.BOX), dtype=float)
        assert np.abs(shown - blurred).mean() < 8


@pytest.mark.slow
def test_the_example_trains_evaluates_reports_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "--world testcard --size 12 20 --num-envs 2 --seeds 2 --scenes 2 --episodes 3 --planner-episodes 2"
    less = (
        "--settings.horizon 4 --settings.width 8 --search.plans 2 --search.depth 1 --search.rounds 1 --search.elite 1"
    )

    def run(steps: int) -> dict[str, Any]:
        command = [*sizes.split(), *less.split(), "--steps", str(steps), "--folder", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["train_ppo.py", *command])
        train_ppo.main()
        return json.loads((tmp_path / "results.json").read_text())

    first, second = run(8), run(16)

    assert [len(history) for history in first["histories"]] == [1, 1]
    assert [len(history) for history in second["histories"]] == [2, 2]
    assert [history[:1] for history in second["histories"]] == first["histories"]
    assert len(second["success"]) == 7
    for rates in second["success"].values():
        assert list(rates) == ["testcard"]
        assert len(rates["testcard"]) == 2
        assert all(0 <= rate <= 1 and math.isfinite(rate) for rate in rates["testcard"])
    assert second["success"]["scripted toward the goal's pose"] == {"testcard": [1.0, 1.0]}
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.width > 600


@pytest.mark.slow
def test_the_agents_file_runs_as_it_stands_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    arguments = ["--world", "testcard", "--size", "12", "20", "--num-envs", "2", "--folder", "mine"]
    first = run_script("agents/ppo.py", *arguments, "--steps", "16", folder=tmp_path)
    second = run_script("agents/ppo.py", *arguments, "--steps", "32", folder=tmp_path)

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.startswith("steps 16, success")
    assert second.stdout.startswith("steps 32, success")
    assert list((tmp_path / "mine").glob("events.*"))
