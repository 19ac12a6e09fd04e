"""What `train_ppo.py` reports: success rates of agents on Reach, a table of them, and the curve of learning.

python examples/reach_report.py outputs/train_ppo     # table and curve once more, from results.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import numpy as np
import torch
import tyro

import worldplay_env
from worldplay_env.media.files import replacing, write_json

Results = dict[str, dict[str, list[float]]]
"""Agent -> world -> success rate of each seed."""
SMOOTHED = 9
"""Updates whose episodes a point of the curve counts."""


def scene_starts(world: str, scenes: Sequence[int]) -> list[tuple[np.ndarray | None, str]]:
    """Return starts in the same procedural scenes for any world, as (picture, prompt) pairs.

    Args:
        world: "scene" is told which scene by the prompt; others are given its picture and caption.
        scenes: Their seeds; those below 900,000 are what a dream was trained on, those above are held out.
    """
    if world == "scene":
        return [(None, f"scene {seed}") for seed in scenes]
    truth = worldplay_env.load("scene")
    rollouts: list[Any] = [truth.start(worldplay_env.Start(None, f"scene {seed}"), 0) for seed in scenes]
    return [(rollout.picture, rollout.scene.caption) for rollout in rollouts]


def success_rate(make_agent: Callable[[Any], Any], make_env: Callable[[], Any], seed: int) -> float:
    """Return in which part of a vector env's first episodes an agent comes to its goal.

    Args:
        make_agent: Called with the env, returns an agent with `act(obs, info)`.
        make_env: Returns a vector env with a task and automatic resets; later episodes of a row do not count.
        seed: Of the episodes: equal seeds give equal starts and goals, whatever the env shows of them.
    """
    env = make_env()
    agent = make_agent(env)
    obs, info = env.reset(seed=seed)
    ended, success = np.zeros(env.num_envs, dtype=bool), np.zeros(env.num_envs, dtype=bool)
    while not ended.all():
        obs, _, *ends, info = env.step(agent.act(obs, info))
        terminated, truncated = (torch.as_tensor(end).cpu().numpy() for end in ends)
        success |= terminated & ~ended
        ended |= terminated | truncated
    env.close()
    return float(success.mean())


class Rates:
    """Success rates that are measured once and kept in a file, so that an evaluation that was stopped can go on.

    Args:
        path: Of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def of(self, name: str, measure: Callable[[], float]) -> float:
        """Return the rate that is kept under a name, or else what `measure` returns now."""
        if name not in self.known:
            self.known[name] = measure()
            write_json(self.path, self.known)
        return self.known[name]


class AmongAgent:
    """Takes any of some actions, each as likely as another: chance, with the actions that the others choose among."""

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], labels: Sequence[int], seed: int) -> None:
        self.count, self.labels, self.random = env.num_envs, np.array(labels), np.random.default_rng(seed)

    def act(self, obs: Any, info: dict[str, Any]) -> np.ndarray:
        """Return an action for each world, int64 [N]."""
        return self.random.choice(self.labels, self.count)


def write_report(
    folder: Path, results: Results, histories: Sequence[Sequence[Mapping[str, float]]], settings: Mapping[str, Any]
) -> str:
    """Write `results.json`, `table.md` and `curve.png` to a folder; return the table.

    Args:
        folder: Made if it does not exist.
        results: Success rates.
        histories: Of each seed's agent, a line of figures for every update.
        settings: What the run was asked for; kept in the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown_table(results)
    with replacing(folder / "table.md") as partial:
        partial.write_text(table)
    content = {"settings": dict(settings), "success": results, "histories": [list(lines) for lines in histories]}
    with replacing(folder / "results.json") as partial:
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n")
    draw_curve(folder / "curve.png", histories, results)
    return table


def markdown_table(results: Results) -> str:
    """Return success rates as a table: mean and standard deviation over seeds, in per cent."""
    worlds = list(dict.fromkeys(world for rates in results.values() for world in rates))
    lines = [f"| agent | {' | '.join(worlds)} |", f"| --- |{' --- |' * len(worlds)}"]
    for agent, rates in results.items():
        cells = [_cell(rates[world]) if world in rates else "" for world in worlds]
        lines.append(f"| {agent} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(rates: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(rates, ddof=1):.0f}" if len(rates) > 1 else ""
    return f"{100 * np.mean(rates):.0f}{spread} %"


def draw_curve(path: Path, histories: Sequence[Sequence[Mapping[str, float]]], results: Results) -> None:
    """Draw the part of training episodes that came to their goals over the steps seen, a line for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, history in enumerate(histories):
        axes.plot(*learning_curve(history), marker=".", markersize=4, label=f"PPO, seed {number}")
    for style, (agent, rates) in zip((":", "--"), results.items(), strict=False):  # chance, in its two forms
        world, values = next(iter(rates.items()))
        axes.axhline(float(np.mean(values)), color="grey", linestyle=style, label=f"{agent}, {world}")
    axes.set(xlabel="steps of all worlds together", ylabel="episodes that reach the goal", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial)


def learning_curve(history: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
    """Return steps, and which part of the episodes that ended in the last `SMOOTHED` updates came to their goals.

    Updates before which no episode ended are left out. The first of the others count fewer updates, and too many
    successes: of episodes that have just begun, those that succeed end sooner.
    """
    steps, rates = [], []
    for end in range(1, len(history) + 1):
        window = history[max(0, end - SMOOTHED) : end]
        episodes = sum(line["episodes"] for line in window)
        if not episodes:
            continue
        steps.append(window[-1]["steps"])
        rates.append(sum(line["success"] * line["episodes"] for line in window) / episodes)
    return steps, rates


def main(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the table and the curve of a folder's results.json anew, and print the table.

    Args:
        folder: What `train_ppo.py` wrote to, with its results.json.
    """
    content = json.loads((folder / "results.json").read_text())
    print(write_report(folder, content["success"], content["histories"], content["settings"]))


if __name__ == "__main__":
    tyro.cli(main)
