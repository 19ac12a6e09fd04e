"""What each key of the keyboard does: move, look, or one of the player's commands."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from worldplay_env.control.actions import KEYS, action_name, label_of_keys


class Command(Enum):
    """What a key does once, when it is pressed; the value is how a recording writes it."""

    RESTART = "enter"
    PAUSE = "p"
    FILM = "f"
    PICTURE = "c"
    BOOKMARK = "b"
    RETURN = "n"
    PROMPT = "t"
    HIDE = "h"
    LEAVE = "escape"


RECORDED = (
    Command.RESTART,
    Command.FILM,
    Command.PICTURE,
    Command.BOOKMARK,
    Command.RETURN,
    Command.LEAVE,
)
"""The commands that a recording may hold: the others change nothing that is filmed (a prompt is kept as text).

That a person leaves is not recorded; a script that is to end the session says so."""

HELP = (
    "Enter start over",
    "P pause",
    "F film",
    "C picture",
    "B bookmark",
    "N go back",
    "T prompt",
    "H hide",
    "Esc leave",
)
"""The commands in words, for the line at the foot of the window."""

_COMMANDS = {command.value: command for command in Command} | {"return": Command.RESTART}


def movement(name: str) -> str | None:
    """Return which of `control.actions.KEYS` a key is, by its name; None if it is no such key."""
    name = name.lower()
    return name if name in KEYS else None


def command(name: str) -> Command | None:
    """Return what a key does once, by its name ("return", "p", "escape"); None if it does nothing."""
    return _COMMANDS.get(name.lower())


def action_of(keys: Iterable[str]) -> str:
    """Return the action, in words, of the movement keys held together; opposite keys cancel."""
    return action_name(label_of_keys(keys))
