"""A Gymnasium environment around a streaming video world model (HY-WorldPlay WAN-5B).

Importing the package registers the environments and little else: torch comes in when a world is made.

    import gymnasium
    import worldplay_env

    env = gymnasium.make("WorldPlay/Tiny-v0")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from worldplay_env.action_space import InvalidAction
    from worldplay_env.control.actions import (
        ACTION_TABLE,
        KEYS,
        NUM_ACTIONS,
        action_label,
        action_name,
        keys_of,
        label_of_keys,
        split_label,
    )
    from worldplay_env.control.camera import Motion
    from worldplay_env.control.trajectory import Trajectory, load_trajectory
    from worldplay_env.env import Snapshot, WorldPlayEnv
    from worldplay_env.image import ImageError, read_image
    from worldplay_env.reach import Reach
    from worldplay_env.rewards import Goal, RewardError, Transition, cover_ground, reach_pose, reach_view
    from worldplay_env.rollout import roll_out
    from worldplay_env.starts import choose_start
    from worldplay_env.vector import VectorSnapshot, WorldPlayVectorEnv
    from worldplay_env.video import FilmWriter, save_picture, tile
    from worldplay_env.world import CHUNK_LATENTS, Chunk, Control, Rollout, Start, World, WorldError, load
    from worldplay_env.wrappers import FrameByFrame, RecordChunks, RecordVectorChunks

__version__ = "0.1.0"

_MODULES = {
    "ACTION_TABLE": "control.actions",
    "KEYS": "control.actions",
    "NUM_ACTIONS": "control.actions",
    "action_label": "control.actions",
    "action_name": "control.actions",
    "keys_of": "control.actions",
    "label_of_keys": "control.actions",
    "split_label": "control.actions",
    "Motion": "control.camera",
    "Trajectory": "control.trajectory",
    "load_trajectory": "control.trajectory",
    "InvalidAction": "action_space",
    "Snapshot": "env",
    "WorldPlayEnv": "env",
    "ImageError": "image",
    "read_image": "image",
    "Reach": "reach",
    "Goal": "rewards",
    "RewardError": "rewards",
    "Transition": "rewards",
    "cover_ground": "rewards",
    "reach_pose": "rewards",
    "reach_view": "rewards",
    "choose_start": "starts",
    "roll_out": "rollout",
    "VectorSnapshot": "vector",
    "WorldPlayVectorEnv": "vector",
    "FilmWriter": "video",
    "save_picture": "video",
    "tile": "video",
    "CHUNK_LATENTS": "world",
    "Chunk": "world",
    "Control": "world",
    "Rollout": "world",
    "Start": "world",
    "World": "world",
    "WorldError": "world",
    "load": "world",
    "FrameByFrame": "wrappers",
    "RecordChunks": "wrappers",
    "RecordVectorChunks": "wrappers",
}
"""The module of each public name, imported when the name is first used."""

__all__ = [  # noqa: RUF022 (in the order of their modules)
    "ACTION_TABLE",
    "KEYS",
    "NUM_ACTIONS",
    "action_label",
    "action_name",
    "keys_of",
    "label_of_keys",
    "split_label",
    "Motion",
    "Trajectory",
    "load_trajectory",
    "InvalidAction",
    "Snapshot",
    "WorldPlayEnv",
    "ImageError",
    "read_image",
    "Reach",
    "Goal",
    "RewardError",
    "Transition",
    "cover_ground",
    "reach_pose",
    "reach_view",
    "choose_start",
    "roll_out",
    "VectorSnapshot",
    "WorldPlayVectorEnv",
    "FilmWriter",
    "save_picture",
    "tile",
    "CHUNK_LATENTS",
    "Chunk",
    "Control",
    "Rollout",
    "Start",
    "World",
    "WorldError",
    "load",
    "FrameByFrame",
    "RecordChunks",
    "RecordVectorChunks",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_ENV, _VECTOR_ENV = "worldplay_env.env:WorldPlayEnv", "worldplay_env.vector:WorldPlayVectorEnv"
for _id, _world in (("Tiny", "tiny"), ("Wan5B", "wan-5b"), ("Testcard", "testcard"), ("Scene", "scene")):
    gymnasium.register(
        id=f"WorldPlay/{_id}-v0",
        entry_point=_ENV,
        vector_entry_point=_VECTOR_ENV,
        max_episode_steps=60,
        kwargs={"world": _world},
    )
gymnasium.register(
    id="WorldPlay/Reach-v0",
    entry_point=_ENV,
    vector_entry_point=_VECTOR_ENV,
    max_episode_steps=12,  # three times as many as the farthest goal is away
    kwargs={"world": "tiny", "task": "reach", "observation": "last"},
)
