"""Train PPO to come to the place that a picture shows, in a dream, and see what that is worth in the true world.

    python examples/train_ppo.py                                                       # in tiny, best on a GPU
    python examples/train_ppo.py --world scene --size 24 40 --seeds 3 --steps 20_480   # in the true scenes, on a CPU

The agent learns from starts in some scenes and is evaluated from others, beside agents that act at random, that are
told the goal's pose, and that plan. A run that was stopped goes on when the same command is given again,
evaluation too.
"""

from __future__ import annotations

import sys
import time
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

from planner import PlannerAgent, Search  # noqa: E402
from ppo import BUDGET, PPOAgent, Settings  # noqa: E402
from random_agent import RandomAgent  # noqa: E402
from reach_report import AmongAgent, Rates, Results, scene_starts, success_rate, write_report  # noqa: E402
from toward_goal import TowardGoalAgent  # noqa: E402

HELD_OUT = 900_000
"""The first scene that no dream was trained on."""
PLANNER_EPISODES = 8
"""Episodes that the planner is given for each seed: each of its steps imagines hundreds of others."""
EPISODES_APART = 10_000
"""Between the seeds of the episodes that agents of two seeds are evaluated in."""


@dataclass(frozen=True)
class Args:
    """Train PPO on Reach, evaluate it beside other agents, and write the curve and the table."""

    world: str = "tiny"
    """What to learn in: a name that `worldplay_env.load` knows, or a folder of weights."""
    size: tuple[int, int] = (48, 80)
    """Height and width of the pictures that PPO sees; also what scenes are rendered at when it learns in them."""
    steps: int = BUDGET
    """Budget of each seed, of all its worlds together."""
    minutes: float = float("inf")
    """Of training, all seeds together; the time left is shared by the seeds left."""
    seeds: int = 5
    """Agents that are trained and evaluated, to see how far they differ."""
    num_envs: int = 64
    """Worlds in one batch."""
    scenes: int = 256
    """Different scenes to start in, for training, and others for the evaluation."""
    episodes: int = 64
    """Held-out episodes that every agent is evaluated in, for each seed."""
    planner_episodes: int = PLANNER_EPISODES
    """How many the planner is given, which is slow; 0 leaves it out."""
    short_goals: tuple[int, int] = (2, 2)
    """The fewest and the most held actions that goals are away where PPO and planner meet on short ones too."""
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
    args = tyro.cli(Args, description=Args.__doc__)
    world = load_world(args, args.world)
    histories = train(args, world)
    results = evaluate(args, world, [len(history) for history in histories])
    settings = {**asdict(args), "weights": world.weights, "device": str(world.device)}
    print(write_report(args.folder, results, histories, settings))


def load_world(args: Args, name: str) -> worldplay_env.World:
    """Return a world; one without weights at the size of the agent's pictures, since more of it would not be seen."""
    world = worldplay_env.load(name, device=args.device)
    if world.weights != "none":
        return world
    return worldplay_env.load(name, device=args.device, image_size=args.size)


def make(world: worldplay_env.World, count: int, starts: Any, **shown: Any) -> Any:
    """Return a vector env of `count` worlds with the task."""
    return gym.make_vec(
        "WorldPlay/Reach-v0", num_envs=count, world=world, starts=starts, autoreset_mode="same_step", **shown
    )


def for_ppo(args: Args) -> dict[str, Any]:
    """Return what an env shows the trained agent, whatever its world."""
    return {"size": args.size, "channel_first": True, "output": "torch"}


def for_planner(args: Args, world: worldplay_env.World) -> worldplay_env.World:
    """Return the world that the planner acts in: one without weights at the size at which it compares pictures."""
    if world.weights != "none":
        return world
    return worldplay_env.load(world.name, device=args.device, image_size=args.search.picture)


def checkpoint(args: Args, seed: int) -> Path:
    """Return the file that the agent of a seed is kept in."""
    return args.folder / f"seed-{seed}" / "ppo.pt"


def train(args: Args, world: worldplay_env.World) -> list[list[dict[str, float]]]:
    """Train an agent for each seed, or go on with it; return their histories."""
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
            args.steps, minutes=share, folder=path.parent, events=args.tensorboard, report=partial(_say, seed)
        )
        histories.append(agent.history)
    env.close()
    return histories


def evaluate(args: Args, world: worldplay_env.World, updates: list[int]) -> Results:
    """Return every agent's success rates from held-out starts, in the world it learned in and in the true one.

    Args:
        args: Of the run.
        world: What was learned in.
        updates: How many each seed's agent has learned from.
    """
    worlds = [world] if world.weights == "none" else [world, load_world(args, "scene")]
    results: Results = {}
    rates = Rates(args.folder / "rates.json")
    for place in worlds:
        starts = scene_starts(place.name, range(HELD_OUT, HELD_OUT + args.scenes))
        for seed in range(args.seeds):
            for agent, (make_agent, make_env) in contenders(args, world, place, starts, seed).items():
                name = f"seed {seed} after {updates[seed]} updates, {place.name}, {agent}"
                rate = rates.of(name, partial(success_rate, make_agent, make_env, seed * EPISODES_APART))
                results.setdefault(agent, {}).setdefault(place.name, []).append(rate)
                print(f"{name}: {rate:.0%}", flush=True)
    return results


def contenders(
    args: Args, world: worldplay_env.World, place: worldplay_env.World, starts: Any, seed: int
) -> dict[str, tuple[Any, Any]]:
    """Return the agents that are evaluated in a place, by name: what makes each, and what makes the env it sees."""
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
    shown = {} if place.weights == "none" else {"observation": "latent"}
    agents["planner"] = planner, partial(make, for_planner(args, place), args.planner_episodes, starts, **shown)
    if place is not world:
        full = worldplay_env.load(place.name, device=args.device)  # a dream begins from pictures of its own size
        dreamer = partial(planner, world=world)
        agents[f"planner, imagining in {world.name}"] = dreamer, partial(make, full, args.planner_episodes, starts)
    near = {"task": {"chunks": args.short_goals}}
    rivals = [name for name in agents if name.startswith(("PPO", "planner"))]
    agents |= {f"{name}, short goals": (agents[name][0], partial(agents[name][1], **near)) for name in rivals}
    return agents


def _say(seed: int, figures: dict[str, float]) -> None:
    """Print a line of figures for an update."""
    shown = ("steps", "success", "reward", "entropy", "steps_per_second")
    print(f"seed {seed}: " + ", ".join(f"{name} {figures[name]:.4g}" for name in shown), flush=True)


if __name__ == "__main__":
    main()
