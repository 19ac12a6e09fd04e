"""A planning agent: it imagines sequences of actions and takes the first action of the best one.

Before every step it forks the world and searches sequences of actions by the cross-entropy method (Rubinstein 1999;
as a planner in Chua et al. 2018, arXiv 1805.12114): draw sequences, imagine them all in one batch, keep the best,
draw more like them. It then acts and searches again from the result. It knows the goal's picture and no pose.

    python agents/planner.py --world testcard
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor

import worldplay_env
from common import WALK_AND_TURN, AnyEnv, describe_action, film_episode, single_spaces
from worldplay_env.worlds.follow import next_control

Way = tuple[int, tuple[int, ...]]
"""A row of the batch, and the indices of the labels taken from there."""


@dataclass(frozen=True)
class Search:
    """How the planner searches."""

    labels: tuple[int, ...] = WALK_AND_TURN
    """The env's actions that plans are made of."""
    depth: int = 4
    """Steps that a plan looks ahead."""
    plans: int = 32
    """Plans that are imagined at once, for every world."""
    rounds: int = 3
    """How often plans are drawn."""
    elite: int = 6
    """How many of the best the next ones are drawn like."""
    smoothing: float = 0.1
    """How much of every step's distribution stays even, so that no action is given up."""
    patience: float = 0.02
    """What a step costs, as a part of the distance of the view at the outset: near is better sooner."""
    picture: tuple[int, int] = (24, 40)
    """Height and width at which pictures are compared."""
    max_batch: int = 512
    """The most rollouts that go through the world at once, which bounds its memory."""


DEFAULT = Search()


class PlannerAgent:
    """Plans in a world with `World.step` alone; its frames are not decoded where latents can be compared.

    Latents are compared in a world that has an autoencoder, or where the env shows latents: the goal is the picture
    as the world encodes it, or the latent frame that is shown. In other worlds small pictures are compared.

    Plans are imagined with noise of their own, since the world's future noise is unknown. All plans of one search
    share it, so that they differ by their actions alone.

    Args:
        env: An env or vector env with `task="reach"` and one action a chunk, whose pictures are not channel first.
        search: See there.
        seed: With the same seed, the same actions.
        world: What plans are imagined in, beginning from the picture that the env shows; by default the env's own
            world, forked where it is.

    Raises:
        ValueError: An env without a goal picture, or with an action for each latent frame.
    """

    def __init__(
        self,
        env: AnyEnv,
        search: Search = DEFAULT,
        seed: int = 0,
        world: worldplay_env.World | None = None,
    ) -> None:
        inner: Any = env.unwrapped
        self.env, self.batched = inner, isinstance(inner, gym.vector.VectorEnv)
        self.search, self.imagined = search, world
        actions, space = single_spaces(env)
        if not isinstance(space, gym.spaces.Dict) or "goal" not in space.spaces:
            raise ValueError(
                f'the planner is told where to go by a goal: make the env with task="reach", got {space}'
            )
        if not isinstance(actions, gym.spaces.Discrete):
            raise ValueError(f"the planner takes one action a chunk, got {actions}")
        shape = space["goal"].shape
        self.shows_latents = space["goal"].dtype == np.float32
        if self.shows_latents and world is not None:
            raise ValueError("another world begins from pictures, and this env shows latents: leave out one of them")
        if not self.shows_latents and (shape is None or shape[-1] != 3):
            raise ValueError(f"pictures must be [height, width, 3], got {shape}: leave out channel_first")
        self.random = np.random.default_rng(seed)

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return the first action of the best plan found; of a vector env's observations one for each, int64 [N]."""
        goals = [_array(goal) for goal in (obs["goal"] if self.batched else [obs["goal"]])]
        if self.imagined is not None:
            shown = obs["observation"] if self.batched else [obs["observation"]]
            rollouts = [self.imagined.start(worldplay_env.Start(_newest(_array(picture))), 0) for picture in shown]
        else:
            rollouts = list(self.env.rollouts) if self.batched else [self.env.rollout]
        labels = self.plan(self.imagined or self.env.world, rollouts, goals)[:, 0]
        return labels if self.batched else int(labels[0])

    def plan(
        self, world: worldplay_env.World, rollouts: Sequence[worldplay_env.Rollout], goals: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Return the best plan found for each of N rollouts, which stay as they are: labels, int64 [N, depth].

        Args:
            world: Of the rollouts.
            rollouts: Where the plans begin.
            goals: N pictures, uint8 [height, width, 3], or latent frames, float32 [channels, 1, rows, columns].
        """
        search, count, rows = self.search, len(self.search.labels), np.arange(len(rollouts))
        imagined = Imagination(world, rollouts, goals, search, self.shows_latents, int(self.random.integers(2**63)))
        likely = np.full((len(rollouts), search.depth, count), 1 / count)
        best, least = np.zeros((len(rollouts), search.depth), dtype=np.int64), np.full(len(rollouts), np.inf)
        for _ in range(search.rounds):
            drawn = self._draw(likely)  # [N, plans, depth]
            costs = imagined.costs(drawn)  # [N, plans]
            order = costs.argsort(axis=1, kind="stable")
            elite = np.take_along_axis(drawn, order[:, : search.elite, None], axis=1)
            shares = (elite[..., None] == np.arange(count)).mean(axis=1)  # [N, depth, labels]
            likely = (1 - search.smoothing) * shares + search.smoothing / count
            first = order[:, 0]
            better = costs[rows, first] < least
            best[better], least[better] = drawn[rows, first][better], costs[rows, first][better]
        return np.array(search.labels)[best]

    def _draw(self, likely: np.ndarray) -> np.ndarray:
        """Draw plans, indices of labels [N, plans, depth], from each step's distribution [N, depth, labels]."""
        worlds, depth, _ = likely.shape
        dice = self.random.random((worlds, self.search.plans, depth, 1))
        return np.minimum((dice > likely.cumsum(-1)[:, None]).sum(-1), len(self.search.labels) - 1)


class Imagination:
    """Imagined plans from N rollouts, with the distances of their views to the goal; results are cached.

    Args:
        world: Of the rollouts.
        rollouts: Where the plans begin; they stay as they are.
        goals: N pictures, or latent frames.
        search: See there.
        latent_goals: Whether they are latent frames.
        seed: Of the noise.
    """

    def __init__(
        self,
        world: worldplay_env.World,
        rollouts: Sequence[worldplay_env.Rollout],
        goals: Sequence[np.ndarray],
        search: Search,
        latent_goals: bool,
        seed: int,
    ) -> None:
        self.world, self.search = world, search
        self.in_latents = latent_goals or world.has_model
        self.wanted = [self._view_of_goal(goal, latent_goals) for goal in goals]
        self.known: dict[Way, tuple[worldplay_env.Rollout, float]] = {
            (row, ()): (rollout.fork(seed), np.inf) for row, rollout in enumerate(rollouts)
        }

    def costs(self, plans: np.ndarray) -> np.ndarray:
        """Return how near each plan ever comes to its goal's view, what it takes added: float64 [N, plans].

        Args:
            plans: Indices of labels [N, plans, depth].
        """
        worlds, count, depth = plans.shape
        ways = [(row, tuple(plan)) for row, several in enumerate(plans.tolist()) for plan in several]
        away = np.empty((len(ways), depth))
        for length in range(1, depth + 1):
            begun = [(row, plan[:length]) for row, plan in ways]
            new = [way for way in dict.fromkeys(begun) if way not in self.known]
            for first in range(0, len(new), self.search.max_batch):
                self._imagine(new[first : first + self.search.max_batch])
            away[:, length - 1] = [self.known[way][1] for way in begun]
        haste = 1 + self.search.patience * np.arange(depth)
        return (away * haste).min(axis=1).reshape(worlds, count)

    def _imagine(self, ways: list[Way]) -> None:
        """Make the last step of ways whose other steps are known."""
        forks = [self.known[row, plan[:-1]][0].fork() for row, plan in ways]
        controls = [
            next_control(fork, self.search.labels[plan[-1]]) for fork, (_, plan) in zip(forks, ways, strict=True)
        ]
        chunks = self.world.step(forks, controls, decode=False if self.in_latents else "newest")
        views = torch.stack([self._view(chunk.latents if self.in_latents else chunk.frames) for chunk in chunks])
        wanted = torch.stack([self.wanted[row] for row, _ in ways])
        distances = (views - wanted).square().flatten(1).mean(1).sqrt().tolist()
        self.known.update(zip(ways, zip(forks, distances, strict=True), strict=True))

    def _view_of_goal(self, goal: np.ndarray, latent: bool) -> Tensor:
        """Return a goal as views are compared: latents [C, rows, columns] or a small picture [3, height, width]."""
        if latent:
            return torch.from_numpy(goal)[:, -1].to(self.world.device)
        if not self.in_latents:
            return self._view(torch.from_numpy(goal)[None].to(self.world.device))
        encoded = self.world.start(worldplay_env.Start(goal), 0).start_latent
        assert encoded is not None  # a world with weights has latents
        return encoded[:, -1].float()

    def _view(self, made: Tensor | None) -> Tensor:
        """Return the newest of a chunk's latents [C, 4, rows, columns], or of its frames [F, H, W, 3], made small."""
        assert made is not None
        if self.in_latents:
            return made[:, -1].float()
        planes = made[-1:].permute(0, 3, 1, 2).float() / 255
        return torch.nn.functional.interpolate(planes, self.search.picture, mode="area")[0]


def _array(value: Any) -> np.ndarray:
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _newest(pictures: np.ndarray) -> np.ndarray:
    """Return the newest picture [H, W, 3] of a chunk of them [F, H, W, 3], or the only one."""
    return pictures[-1] if pictures.ndim == 4 else pictures


@dataclass(frozen=True)
class Args:
    """Let the planner come to the place that a picture shows, and film it."""

    world: str = "tiny"
    """Where: a name that `worldplay_env.load` knows, or a folder of weights."""
    steps: int = 12
    """Chunks of a second each, unless it arrives before."""
    seed: int = 0
    """Of the env and the agent."""
    out: Path = Path("outputs/planner.mp4")
    """The film to write: what is seen, and beside it the goal."""


def main() -> None:
    """Run one episode."""
    args = tyro.cli(Args, description=Args.__doc__)
    env = gym.make("WorldPlay/Reach-v0", world=args.world, observation="chunk")
    agent = PlannerAgent(env, seed=args.seed)
    film_episode(
        env, agent, seed=args.seed, steps=args.steps, path=args.out, describe=describe_action, beside_goal=True
    )


if __name__ == "__main__":
    main()
