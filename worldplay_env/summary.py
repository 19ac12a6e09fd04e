"""What objects that hold arrays and tensors look like in a line, as their `repr`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from worldplay_env.worlds.base import Rollout

LONGEST = 60
"""Characters of a text that are shown."""


def one_line(self: Any) -> str:
    """Return a dataclass's name and fields in a line: `__repr__ = one_line` in its body."""
    shown = (f"{field.name}={_shown(getattr(self, field.name))}" for field in fields(self) if field.repr)
    return f"{type(self).__name__}({', '.join(shown)})"


def rollout_line(rollout: Rollout, world: str) -> str:
    """Return a rollout in a line: its world, age, seed, prompt, and where its camera is."""
    x, y, z = rollout.pose[:3, 3]
    return (
        f"{type(rollout).__name__}({world}, chunks={rollout.chunks}, seed={rollout.seed}, "
        f"prompt={_shown(rollout.prompt)}, position=({x:.2f}, {y:.2f}, {z:.2f}))"
    )


def _shown(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        array = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        if isinstance(value, np.ndarray) or value.device.type == "cpu":
            return array
        return f"{array} on {value.device}"
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST else value[: LONGEST - 3] + "...")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_shown(part)}" for name, part in value.items()) + "}"
    if isinstance(value, Sequence) and len(value) > 4:
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return repr(value)
