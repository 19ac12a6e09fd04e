"""The interface between an environment and its task."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from gymnasium import spaces

from worldplay_env.envs.observation import ObservationEncoder
from worldplay_env.envs.transition import Goal, Transition
from worldplay_env.worlds.base import Rollout, World

if TYPE_CHECKING:
    import torch

State = TypeVar("State")
T = TypeVar("T", bound="Task[Any]")


class Task(ABC, Generic[State]):
    """The aim of an environment's episodes: their state, what observations show of it, reward and termination.

    An environment calls `space` once, `begin` at every reset, and after every step `advance`, `score`, `success`,
    `terminated` and `info`. Each call gets N worlds, and row i of a result may depend on world i alone. A subclass
    implements `begin`, `score` and `success`; with `space` and `observe` observations show the task.

    A state is immutable: the steps, forks and snapshots of an episode share it.

    Attributes:
        state_type: The class of the task's states, by which the snapshot of another task is refused.
    """

    state_type: ClassVar[type] = object

    def space(self, view: ObservationEncoder) -> spaces.Space[Any]:
        """Return the space of one world's observations; by default that of an environment without a task.

        Args:
            view: Encodes the chunks. Its `space` is the space of the entry "observation".
        """
        return view.space

    @abstractmethod
    def begin(
        self, world: World, rollouts: Sequence[Rollout], generators: Sequence[np.random.Generator], *, pictures: bool
    ) -> list[State]:
        """Return the states of N new episodes.

        Args:
            world: The rollouts' world.
            rollouts: N rollouts at their start. Fork them before stepping them: they must stay as they are.
            generators: Random numbers, one generator for each episode.
            pictures: Whether the environment decodes frames.

        Raises:
            WorldError: The episode cannot have this task; the reset fails and nothing has changed.
        """

    def advance(self, transition: Transition) -> list[State]:
        """Return the N states after a step; by default they stay the same.

        Args:
            transition: The step, with the states before it in `transition.states`. Its `observation` has no entries
                of the task yet.
        """
        assert transition.states is not None
        return list(transition.states)

    def observe(self, states: Sequence[State], view: ObservationEncoder, device: torch.device) -> dict[str, Any]:
        """Return the observations' entries beside "observation": a new tensor [N, ...] for each name, on a device.

        Without entries, the default, an observation is no dict. The entries of a state are encoded once, and shown
        until `advance` returns another state.
        """
        return {}

    @abstractmethod
    def score(self, transition: Transition) -> Any:
        """Return the rewards of a step, N finite numbers; not called where the environment was given a `reward`.

        `transition.states` are the states before the step.
        """

    @abstractmethod
    def success(self, transition: Transition) -> np.ndarray:
        """Return which worlds achieved the task in a step: bool [N]."""

    def terminated(self, transition: Transition) -> np.ndarray:
        """Return which episodes a step terminates: bool [N]; by default those that succeed."""
        return self.success(transition)

    def info(self, state: State, success: bool) -> dict[str, Any]:
        """Return the task's entries in the info of one world: the same keys and types at reset and at every step."""
        return {"success": bool(success), "is_success": bool(success)}  # Stable-Baselines3 averages "is_success"

    def check(self, state: Any, view: ObservationEncoder) -> None:
        """Check the state of a snapshot, which may come from another environment of the same world.

        Raises:
            ValueError: It belongs to another task, or `view` cannot show it.
        """
        if state is None or not isinstance(state, self.state_type):
            raise ValueError(
                f"the snapshot has no {self.state_type.__name__}: take it in an env of the same task and observation"
            )

    def goal(self, state: State) -> Goal | None:
        """Return where the episode should come to, None for a task without a place to reach."""
        return None

    def picture(self, state: State) -> np.ndarray | None:
        """Return a picture for the window to show beside the video, uint8 [height, width, 3], or None."""
        return None

    def caption(self, state: State, *, ended: bool, success: bool) -> str:
        """Return the window's line about a running or an ended episode."""
        return ("succeeded" if success else "failed") if ended else "in progress"


def from_fields(task: type[T], fields: Mapping[str, Any]) -> T:
    """Return a task that is a dataclass, made from some of its fields.

    Raises:
        ValueError: An unknown field, or a value that the task refuses.
    """
    known = [field.name for field in dataclasses.fields(task)]  # type: ignore[arg-type]
    if unknown := [name for name in fields if name not in known]:
        raise ValueError(f"unknown field {unknown[0]!r} of a task: known are {', '.join(known)}")
    return task(**fields)
