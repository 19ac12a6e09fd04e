"""Train PPO on Reach in a world model, and evaluate it there and in the true scenes.

    python examples/train_ppo.py                                                       # in tiny, best on a GPU
    python examples/train_ppo.py --world scene --size 24 40 --seeds 3 --steps 20_480   # in the true scenes, on a CPU

Training and evaluation start in different scenes. The baselines act at random, follow the goal's pose, or plan. The
same command resumes an interrupted run, training and evaluation alike.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import tyro

import worldplay_env

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "agents"), str(Path(__file__).resolve().parent)]

from reach_report import AmongAgent, Rates, Results, scene_starts, success_rate, write_report  # noqa: E402

from planner import PlannerAgent, Search  # noqa: E402
from ppo import BUDGET, OLD_NAMES, PPOAgent, Settings  # noqa: E402
from random_agent import RandomAgent  # noqa: E402
from toward_goal import TowardGoalAgent  # noqa: E402

HELD_OUT = 900_000
"""The first held-out scene: no world model was trained on it or on later ones."""
PLANNER_EPISODES = 8
"""Evaluation episodes of the planner for each seed; each of its steps imagines hundreds of others."""
SEED_STRIDE = 10_000
"""From the evaluation seeds of one agent to those of the next."""


@dataclass(frozen=True)
class Args:
    """Train PPO on Reach, evaluate it beside other agents, and write the curve and the table."""

    world: str = "tiny"
    """Training world: a name, as in `worldplay_env.load`, or a folder of weights."""
    size: tuple[int, int] = (48, 80)
    """Height and width of PPO's pictures; scenes are rendered at this size too when PPO is trained in them."""
    steps: int = BUDGET
    """Step budget of each seed, of all its worlds together."""
    minutes: float = float("inf")
    """Time limit of training, all seeds together; the remaining seeds share the remaining time."""
    seeds: int = 5
    """Agents to train and evaluate."""
    num_envs: int = 64
    """Worlds in one batch."""
    scenes: int = 256
    """Number of training scenes, and of evaluation scenes."""
    episodes: int = 64
    """Held-out evaluation episodes of every agent, for each seed."""
    planner_episodes: int = PLANNER_EPISODES
    """The same for the planner, which is slow; 0 leaves it out."""
    short_goals: tuple[int, int] = (2, 2)
    """Fewest and most held actions to a goal, in the evaluation of PPO and planner on short goals."""
    device: str | None = None
    """Of worlds and network; by default a GPU where there is one."""
    settings: Settings = field(default_factory=Settings)
    """Of PPO."""
    search: Search = field(default_factory=Search)
    """Of the planner."""
    tensorboard: bool = True
    """Whether to write TensorBoard's events; it needs the package of that name."""
    folder: Path = Path("outputs/train_ppo")
    """For checkpoints, events, results.json, table.md and curve.png. A folder is for one set of arguments."""


def main() -> None:
    """Train, evaluate, report."""
    args = tyro.cli(Args, description=Args.__doc__, args=rename_old_flags(sys.argv[1:]))
    world = load_world(args, args.world)
    histories = train(args, world)
    results = evaluate(args, world, [len(history) for history in histories])
    settings = {**asdict(args), "weights": world.weights, "device": str(world.device)}
    print(write_report(args.folder, results, histories, settings))


def rename_old_flags(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with the current names of the flags of version 0.1."""

    def rename(flag: re.Match[str]) -> str:
        return f"--settings.{OLD_NAMES.get(flag[1], flag[1])}"

    return [re.sub(r"^--settings\.(\w+)(?==|$)", rename, argument) for argument in arguments]


def load_world(args: Args, name: str) -> worldplay_env.World:
    """Return a world; one without a model is loaded at the size of the agent's pictures."""
    world = worldplay_env.load(name, device=args.device)
    if world.has_model:
        return world
    return worldplay_env.load(name, device=args.device, image_size=args.size)


def make(world: worldplay_env.World, count: int, starts: Any, **shown: Any) -> Any:
    """Return a vector env of `count` worlds with the task."""
    return gym.make_vec(
        "WorldPlay/Reach-v0", num_envs=count, world=world, starts=starts, autoreset_mode="same_step", **shown
    )


def for_ppo(args: Args) -> dict[str, Any]:
    """Return the observation arguments of PPO's envs."""
    return {"size": args.size, "channel_first": True, "output": "torch"}


def for_planner(args: Args, world: worldplay_env.World) -> worldplay_env.World:
    """Return the planner's world; one without a model is loaded at the size of the planner's comparisons."""
    if world.has_model:
        return world
    return worldplay_env.load(world.name, device=args.device, image_size=args.search.picture)


def checkpoint(args: Args, seed: int) -> Path:
    """Return the checkpoint of a seed's agent."""
    return args.folder / f"seed-{seed}" / "ppo.pt"


def train(args: Args, world: worldplay_env.World) -> list[list[dict[str, float]]]:
    """Train an agent for each seed, or resume it; return their histories."""
    starts = scene_starts(world.name, range(args.scenes))
    env = make(world, args.num_envs, starts, **for_ppo(args))
    histories, end = [], time.perf_counter() + 60 * args.minutes
    for seed in range(args.seeds):
        agent = PPOAgent(env, args.settings, seed)
        path = checkpoint(args, seed)
        if path.is_file():
            agent.restore(path)
        share = (end - time.perf_counter()) / 60 / (args.seeds - seed)
        agent.learn(
            args.steps, minutes=share, folder=path.parent, events=args.tensorboard, report=partial(_print, seed)
        )
        histories.append(agent.history)
    env.close()
    return histories


def evaluate(args: Args, world: worldplay_env.World, updates: list[int]) -> Results:
    """Return every agent's success rates from held-out starts, in the training world and in the true scenes.

    Args:
        args: Of the run.
        world: The training world.
        updates: Number of updates of each seed's agent.
    """
    worlds = [world, load_world(args, "scene")] if world.has_model else [world]
    results: Results = {}
    rates = Rates(args.folder / "rates.json")
    for place in worlds:
        starts = scene_starts(place.name, range(HELD_OUT, HELD_OUT + args.scenes))
        for seed in range(args.seeds):
            for agent, (make_agent, make_env) in contenders(args, world, place, starts, seed).items():
                name = f"seed {seed} after {updates[seed]} updates, {place.name}, {agent}"
                rate = rates.of(name, partial(success_rate, make_agent, make_env, seed * SEED_STRIDE))
                results.setdefault(agent, {}).setdefault(place.name, []).append(rate)
                print(f"{name}: {rate:.0%}", flush=True)
    return results


def contenders(
    args: Args, world: worldplay_env.World, place: worldplay_env.World, starts: Any, seed: int
) -> dict[str, tuple[Any, Any]]:
    """Return the agents to evaluate in a world, by name: a factory of the agent and one of its env."""
    labels = args.settings.labels
    plain = partial(make, place, args.episodes, starts, size=args.size)
    agents = {
        "random, all 81 actions": (partial(RandomAgent, seed=seed), plain),
        f"random, the {len(labels)} actions of PPO": (partial(AmongAgent, labels=labels, seed=seed), plain),
        "scripted toward the goal's pose": (TowardGoalAgent, plain),
        "PPO": (partial(PPOAgent.load, checkpoint(args, seed)), partial(plain, **for_ppo(args))),
    }
    if not args.planner_episodes:
        return agents
    planner = partial(PlannerAgent, search=args.search, seed=seed)
    shown = {"observation": "latent"} if place.has_model else {}
    agents["planner"] = planner, partial(make, for_planner(args, place), args.planner_episodes, starts, **shown)
    if place is not world:
        full = worldplay_env.load(place.name, device=args.device)  # a model starts from pictures of its own size
        imagining = partial(planner, world=world)
        agents[f"planner, imagining in {world.name}"] = imagining, partial(make, full, args.planner_episodes, starts)
    near = {"task": {"chunks": args.short_goals}}
    rivals = [name for name in agents if name.startswith(("PPO", "planner"))]
    agents |= {f"{name}, short goals": (agents[name][0], partial(agents[name][1], **near)) for name in rivals}
    return agents


def _print(seed: int, metrics: dict[str, float]) -> None:
    """Print the main metrics of an update."""
    shown = ("steps", "success", "reward", "entropy", "steps_per_second")
    print(f"seed {seed}: " + ", ".join(f"{name} {metrics[name]:.4g}" for name in shown), flush=True)


if __name__ == "__main__":
    main()
