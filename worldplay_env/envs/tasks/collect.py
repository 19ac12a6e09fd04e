"""The task of collecting the marked cells of a map: observations show where they lie, the true path decides.

The cells lie along a walk of a few held actions from the start, so each is within reach, behind walls too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from worldplay_env.control.actions import action_label
from worldplay_env.envs.observation import ObservationEncoder, unbounded_box
from worldplay_env.envs.rewards import cells_of, check_positive
from worldplay_env.envs.tasks.base import Task
from worldplay_env.envs.tasks.walks import TRIES, check_labels, draw_each, walk
from worldplay_env.envs.transition import Transition
from worldplay_env.summary import one_line
from worldplay_env.worlds.base import Rollout, World, WorldError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class MarkedCells:
    """The state of one episode.

    Attributes:
        cells: int64 [K, 2], the marked cells' indices along the x and z axes of the start.
        collected: bool [K], the cells that the camera has entered.
        pose: float64 [4, 4], where the camera is.
    """

    cells: np.ndarray
    collected: np.ndarray
    pose: np.ndarray

    __repr__ = one_line

    def __post_init__(self) -> None:
        for array in (self.cells, self.collected, self.pose):
            array.flags.writeable = False


@dataclass(frozen=True)
class Collect(Task[MarkedCells]):
    """Enter every marked cell of the map.

    The map is the plane of the start's x and z axes (right and forward), cut into squares; one is centred on the
    start. The camera collects a marked cell when a latent frame of its true path is inside, at any height and facing
    anywhere. `gymnasium.make("WorldPlay/Collect-v0")` has this task in the procedural scenes,
    `gymnasium.make("WorldPlay/Collect-v0", world="tiny")` in the embedded world.

    Observations are a dict: "observation", as without a task, and "cells", float32 (K, 4). A row of "cells" is a
    cell's centre in the camera's axes (right, down, forward), in world units, and 1; zeros once it is collected.

    The reward is 1 for each cell collected in the step. Collecting the last one terminates the episode, which
    `WorldPlay/Collect-v0` truncates after 18 steps. `info` has "success" and "is_success", bool, and "cells_left",
    int.

    Baselines, in 200 episodes of `WorldPlay/Collect-v0` with the seeds 0 to 199: random actions succeed in 1.5 % and
    collect 0.6 cells an episode. The scripted agent `agents/toward_cells.py`, which knows nothing of walls, succeeds
    in 88 % and collects 2.8.

    Attributes:
        count: K, the marked cells of an episode.
        cell: World units along a side of a cell.
        chunks: Held actions of the walk that the cells are drawn from.
        actions: The labels of that walk; by default forward, and forward with yaw right or left. Agents may use any.
    """

    state_type: ClassVar[type] = MarkedCells

    count: int = 3
    cell: float = 0.4
    chunks: int = 6
    actions: tuple[int, ...] = (action_label(1, 0), action_label(1, 1), action_label(1, 2))

    def __post_init__(self) -> None:
        for name in ("count", "chunks"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")
        check_positive("cell", self.cell, "a positive number of world units")
        object.__setattr__(self, "actions", check_labels(self.actions))

    def space(self, view: ObservationEncoder) -> spaces.Dict:
        """Return the space of the chunk's observation and the marked cells."""
        return spaces.Dict({"observation": view.space, "cells": unbounded_box((self.count, 4))})

    def begin(
        self, world: World, rollouts: Sequence[Rollout], generators: Sequence[np.random.Generator], *, pictures: bool
    ) -> list[MarkedCells]:
        """Draw each episode's marked cells among those of a walk, the start's left out.

        Raises:
            WorldError: Out of memory, or each walk drawn entered less than `count` cells.
        """

        def draw(pending: list[int]) -> list[MarkedCells | None]:
            plans = [generators[index].choice(self.actions, size=self.chunks).tolist() for index in pending]
            walks = walk(world, [rollouts[index] for index in pending], plans, False)
            return [self._mark(one.path, generators[index]) for index, one in zip(pending, walks, strict=True)]

        if (found := draw_each(len(rollouts), draw)) is None:
            raise WorldError(
                f"no cells were found: {TRIES} walks of {self.chunks} actions of {self.actions} entered less than "
                f"{self.count} cells of {self.cell} units; give the task longer walks, or fewer or smaller cells"
            )
        return found

    def advance(self, transition: Transition) -> list[MarkedCells]:
        """Return the states with the cells that the step entered, and the camera's new poses."""
        return [
            replace(state, collected=state.collected | entered, pose=poses[-1].copy())
            for state, entered, poses in zip(
                _states(transition), self._entered(transition), transition.poses, strict=True
            )
        ]

    def observe(
        self, states: Sequence[MarkedCells], view: ObservationEncoder, device: torch.device
    ) -> dict[str, Any]:
        """Return the marked cells relative to the camera."""
        import torch

        return {"cells": torch.from_numpy(np.stack([self._relative(state) for state in states])).to(device)}

    def score(self, transition: Transition) -> np.ndarray:
        """Return how many cells each of N worlds collected in the step: float64 [N]."""
        fresh = [
            entered & ~state.collected
            for state, entered in zip(_states(transition), self._entered(transition), strict=True)
        ]
        return np.array(fresh).sum(axis=1).astype(np.float64)

    def success(self, transition: Transition) -> np.ndarray:
        """Return which of N worlds have no marked cell left after the step: bool [N]."""
        return np.array([state.collected.all() for state in self.advance(transition)])

    def info(self, state: MarkedCells, success: bool) -> dict[str, Any]:
        """Return "success", "is_success" and "cells_left"."""
        return {**super().info(state, success), "cells_left": int((~state.collected).sum())}

    def caption(self, state: MarkedCells, *, ended: bool, success: bool) -> str:
        """Return how many cells are left, and where the nearest lies."""
        left = self._relative(state)[~state.collected]
        if not len(left):
            return "all cells collected"
        right, _, forward, _ = left[np.argmin(np.linalg.norm(left[:, :3], axis=1))]
        return f"cells left: {len(left)}, the nearest {forward:+.1f} forward, {right:+.1f} right"

    def _mark(self, path: np.ndarray, generator: np.random.Generator) -> MarkedCells | None:
        """Return the state of an episode whose cells a path entered, None if they are too few."""
        entered = np.unique(cells_of(path, self.cell), axis=0)
        entered = entered[(entered != cells_of(path[:1], self.cell)).any(axis=1)]
        if len(entered) < self.count:
            return None
        cells = generator.choice(entered, size=self.count, replace=False)
        return MarkedCells(cells, np.zeros(self.count, dtype=np.bool_), path[0].copy())

    def _entered(self, transition: Transition) -> list[np.ndarray]:
        """Return which marked cells the chunk of each of N worlds entered: N of bool [K]."""
        return [
            (state.cells[:, None] == cells_of(poses, self.cell)).all(axis=2).any(axis=1)
            for state, poses in zip(_states(transition), transition.poses, strict=True)
        ]

    def _relative(self, state: MarkedCells) -> np.ndarray:
        """Return the rows of "cells": float32 [K, 4]."""
        centres = np.insert(state.cells * self.cell, 1, 0.0, axis=1)  # [K, 3], on the plane of the start
        relative = (centres - state.pose[:3, 3]) @ state.pose[:3, :3]
        rows = np.concatenate([relative, np.ones((len(relative), 1))], axis=1)
        return np.where(state.collected[:, None], 0, rows).astype(np.float32)


def _states(transition: Transition) -> Sequence[MarkedCells]:
    assert transition.states is not None  # the env's own, one for each world
    return transition.states
