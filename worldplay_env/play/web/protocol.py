"""The messages between page and server: JSON of a fixed schema, and frames as bytes.

The page sends one JSON object a message, with exactly these fields:

    {"type": "key", "key": "w", "down": true, "at": 1234.5}    a key's edge, in milliseconds of the page's clock
    {"type": "release"}                                        all keys went up: the page lost the keyboard
    {"type": "command", "command": "bookmark"}                 one of `COMMANDS`
    {"type": "prompt", "text": "it snows"}
    {"type": "start", "name": "snow"}                          begin again from a bundled picture
    {"type": "rewind", "chunk": 3}                             go back to the beginning of a chunk of the way walked
    {"type": "ack", "frame": 17}                               a frame has arrived

The server sends JSON as `hello_message` and `state_message` return it, and frames as `Picture.pack` does.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldplay_env.control.actions import KEYS
from worldplay_env.play.keys import Command
from worldplay_env.play.presenter import LONGEST_PROMPT
from worldplay_env.play.screen_state import ScreenState, Walk

COMMANDS = {
    "restart": Command.RESTART,
    "pause": Command.PAUSE,
    "film": Command.FILM,
    "picture": Command.PICTURE,
    "bookmark": Command.BOOKMARK,
    "return": Command.RETURN,
}
"""What a page may ask for by name; that it hides its overlay, or leaves, is its own affair."""
LONGEST_MESSAGE = 4096
"""Bytes of a message: a prompt of four bytes a character and its escapes fit."""
MOST_POINTS = 400
"""Of a path on the map."""
HEADER = struct.Struct("<IIIdd")
NO_KEY = math.nan


class ProtocolError(ValueError):
    """A message is none of those that the protocol knows."""


@dataclass(frozen=True)
class KeyEdge:
    """A movement key that went down or up, at milliseconds of the page's clock."""

    key: str
    down: bool
    at: float


@dataclass(frozen=True)
class Release:
    """All keys went up."""


@dataclass(frozen=True)
class Order:
    """A command, to be done once."""

    command: Command


@dataclass(frozen=True)
class NewPrompt:
    """A prompt, from the next chunk on."""

    text: str


@dataclass(frozen=True)
class NewStart:
    """A bundled picture to begin from."""

    name: str


@dataclass(frozen=True)
class Rewind:
    """A chunk of the way walked to go back to."""

    chunk: int


@dataclass(frozen=True)
class Ack:
    """A frame that has arrived."""

    frame: int


Message = KeyEdge | Release | Order | NewPrompt | NewStart | Rewind | Ack


def read_message(text: str) -> Message:
    """Return what a page says.

    Raises:
        ProtocolError: No JSON object, an unknown type, other fields than the type has, or a value out of range.
    """
    if len(text) > LONGEST_MESSAGE:
        raise ProtocolError(f"a message has at most {LONGEST_MESSAGE} bytes")
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if not isinstance(entry, dict) or not isinstance(kind := entry.pop("type", None), str) or kind not in _READERS:
        raise ProtocolError(f"expected an object with a type of {', '.join(_READERS)}")
    fields, make = _READERS[kind]
    if entry.keys() != fields.keys():
        raise ProtocolError(f"{kind} has the fields {', '.join(fields) or 'type alone'}")
    for name, holds in fields.items():
        if not holds(entry[name]):
            raise ProtocolError(f"{kind}: {name} is out of range")
    return make(**entry)


def _text(longest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and len(value) <= longest


def _one_of(known: Sequence[str] | dict[str, Any]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in known


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e15


_READERS: dict[str, tuple[dict[str, Callable[[Any], bool]], Callable[..., Message]]] = {
    "key": ({"key": _one_of(KEYS), "down": lambda value: isinstance(value, bool), "at": _is_time}, KeyEdge),
    "release": ({}, Release),
    "command": ({"command": _one_of(COMMANDS)}, lambda command: Order(COMMANDS[command])),
    "prompt": ({"text": _text(LONGEST_PROMPT)}, NewPrompt),
    "start": ({"name": _text(60)}, NewStart),
    "rewind": ({"chunk": _count}, Rewind),
    "ack": ({"frame": _count}, Ack),
}


@dataclass(frozen=True)
class Picture:
    """A frame on its way to the pages.

    Attributes:
        number: Counts the frames of all sessions that a server shows.
        chunk: Of the way walked, which it belongs to.
        index: Its place in the chunk.
        shown_at: Seconds of the server's clock.
        pressed_at: When the key went down that it answers first, in seconds of the server's clock; None if none.
        jpeg: The file.
    """

    number: int
    chunk: int
    index: int
    shown_at: float
    pressed_at: float | None
    jpeg: bytes

    def pack(self, clock_offset: float | None) -> bytes:
        """Return the message for a page, little-endian: number, chunk, index, times in milliseconds, the JPEG file.

        Args:
            clock_offset: Seconds by which the server's clock is ahead of the page's; None while it is not known, and
                for one who only watches: then no key is answered.
        """
        pressed = NO_KEY
        if self.pressed_at is not None and clock_offset is not None:
            pressed = 1000 * (self.pressed_at - clock_offset)
        return HEADER.pack(self.number, self.chunk, self.index, 1000 * self.shown_at, pressed) + self.jpeg


def hello_message(role: str, title: str, fps: float, starts: Sequence[str]) -> str:
    """Return the first message to a page: its role ("player" or "watcher"), and what does not change."""
    return json.dumps({"type": "hello", "role": role, "title": title, "fps": fps, "starts": list(starts)})


def state_message(state: ScreenState, *, files: Sequence[str], rewinds_from: int, takes_prompt: bool) -> str:
    """Return what a page shows beside the frame.

    Args:
        state: Of the screen.
        files: Names of the films and pictures that can be downloaded.
        rewinds_from: The earliest chunk of the way walked to go back to.
        takes_prompt: Whether a new prompt changes anything.
    """
    height = state.pictures[0].shape[0]
    widths = [width * height // rows for rows, width, _ in (picture.shape for picture in state.pictures)]
    progress = state.progress and {"text": state.progress.text, "fraction": round(state.progress.fraction, 3)}
    return json.dumps(
        {
            "type": "state",
            "captions": state.captions if len(state.captions) > 1 else (),
            "widths": widths,
            "held": sorted(state.held),
            "action": state.action,
            "figures": state.figures,
            "walks": [_walk(walk) for walk in state.walks],
            "notice": state.notice,
            "sign": state.sign,
            "verdict": state.verdict,
            "progress": progress,
            "filming": None if state.filming is None else round(state.filming, 1),
            "paused": state.paused,
            "error": state.error,
            "files": list(files),
            "rewinds_from": rewinds_from,
            "takes_prompt": takes_prompt,
        },
        ensure_ascii=False,
    )


def _walk(walk: Walk) -> dict[str, Any]:
    step = -(-len(walk.path) // MOST_POINTS)
    path = np.concatenate([walk.path[:-1:step], walk.path[-1:]])
    return {
        "path": np.round(path, 3).tolist(),
        "heading": np.round(walk.heading, 3).tolist(),
        "remembered": np.round(walk.remembered, 3).tolist(),
        "bookmark": None if walk.bookmark is None else np.round(walk.bookmark, 3).tolist(),
    }
