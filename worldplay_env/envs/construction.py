"""The construction and the properties that the single and the vector environment share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium.utils import EzPickle

from worldplay_env.envs.core import EnvCore
from worldplay_env.envs.observation import ObservationEncoder, render_rate
from worldplay_env.envs.starts import StartSource, find_starts
from worldplay_env.envs.tasks.base import Task
from worldplay_env.envs.tasks.lookup import find_task
from worldplay_env.worlds.base import ChunkLayout, MotionScale, World
from worldplay_env.worlds.registry import lazy_world


def arguments_of(local: Mapping[str, Any]) -> dict[str, Any]:
    """Return a constructor's arguments by name from its `locals()`, taken before anything else is assigned."""
    return {name: value for name, value in local.items() if name not in ("self", "__class__")}


class WorldEnvBase(EzPickle):
    """A Gymnasium environment of a world, single or batched."""

    metadata: dict[str, Any]
    timings: dict[str, float]
    """Seconds of the newest step: the world's by part ("prefill", "decode", ..., added up over its batches), "world"
    for all calls of the world, "host" for the rest, "total" for both; empty after a reset."""

    def _construct(self, given: Mapping[str, Any], *, pictures: str | None, **of_core: Any) -> None:
        """Check a constructor's arguments and set the attributes that follow from them.

        Args:
            given: All arguments of the constructor, by name; see `arguments_of`.
            pictures: See `EnvCore`.
            of_core: The remaining arguments of `EnvCore`.

        Raises:
            ValueError, TypeError: An argument that is refused; the message lists what is known.
        """
        EzPickle.__init__(self, **given)
        world, modes = given["world"], type(self).metadata["render_modes"]
        if given["render_mode"] not in (None, *modes):
            raise ValueError(f"unknown render mode {given['render_mode']!r}: known are {', '.join(modes)}, or None")
        settings = {name: given[name] for name in ("device", "dtype", "weights", "revision", "accept_license")}
        self._promised, load = lazy_world(world, **settings)
        view = ObservationEncoder.of(
            given["observation"],
            self._promised,
            given["size"],
            every=given["every"],
            channel_first=given["channel_first"],
        )
        self._core = EnvCore(
            load,
            view,
            task=find_task(given["task"]),
            reward=given["reward"],
            pictures=pictures,
            held_keys=given["actions"] == "keys",
            **of_core,
        )
        starts = given["starts"]
        self._starts: Sequence[StartSource] | None = None if starts is None else find_starts(starts, self._promised)
        self.render_mode = given["render_mode"]
        self.metadata = {
            **type(self).metadata,
            "render_fps": render_rate(self._promised, given["render_mode"]),
        }
        self.timings = {}

    @property
    def world(self) -> World:
        """The world, loaded at the first reset or at the first use of this property."""
        return self._core.world

    @property
    def fps(self) -> int:
        """Frames a second of the world's video, in any render mode."""
        return self._promised.fps

    @property
    def layout(self) -> ChunkLayout:
        """Latent frames and images of a chunk, and the length of its memory."""
        return self._promised.layout

    @property
    def motion(self) -> MotionScale:
        """How far an action moves and turns the camera in a latent frame."""
        return self._promised.motion

    @property
    def weights(self) -> str:
        """The source of the world's parameters ("random", "trained", a revision, "none"); loads the world."""
        return self.world.weights

    @property
    def task(self) -> Task[Any] | None:
        """The task, None without one."""
        return self._core.task
