"""What the commands share: the arguments that say how a world is loaded, and how a failure is told."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class LoadArgs:
    """How a world is loaded: the arguments of `worldplay_env.load` beside its name, as options of a command."""

    weights: str | None = None
    """"random" for seeded random parameters of the same sizes, without a download. By default the world's own."""
    device: str | None = None
    """A torch device. By default "cuda" where there is one, else "cpu"."""
    dtype: str | None = None
    """float32, bfloat16 or float16. By default bfloat16 on a GPU and float32 on a CPU."""
    revision: str | None = None
    """The hub's commit or tag of weights that have to be downloaded."""
    decoder: str | None = None
    """"full" or "small": which decoder makes a world model's frames. By default the world's own."""
    accept_license: bool = False
    """Agree to the licence of weights that have to be downloaded."""

    def load_options(self) -> dict[str, Any]:
        """Return them as keyword arguments of `worldplay_env.load`."""
        return {field.name: getattr(self, field.name) for field in fields(LoadArgs)}


@dataclass(frozen=True)
class WorldArgs(LoadArgs):
    """Which world, and how it is loaded."""

    world: str = "tiny"
    """"tiny", "wan-5b", "abot-5b", "scene", "testcard", or a folder of weights."""


def in_words(error: BaseException) -> str:
    """Return what an error says, in its own lines; of the operating system's, the file first."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error).strip() or type(error).__name__


def fail(reason: BaseException | str, code: int) -> int:
    """Tell the user what went wrong, on standard error, and return the program's exit code."""
    print(f"error: {reason if isinstance(reason, str) else in_words(reason)}", file=sys.stderr)
    return code
