"""Recorded sessions: the keys that each chunk was made from, and the commands at the frames they were given at.

A recording is a file of JSON lines, so that what was recorded is whole whenever the player stops:

    {"world": "tiny", "seed": 0, "image": null, "prompt": null, "compare": null, "task": null}
    {"keys": [[], ["w"], ["w"], ["w", "right"]]}           the next chunk: the keys of its latent frames
    {"keys": ["w"]}                                        the same for a whole chunk, shorter to write by hand
    {"keys": [[], [], [], []], "prompt": "it snows"}       ... made from a new prompt
    {"frame": 45, "press": "enter"}                        a command, once 45 frames have been shown

Chunks depend on nothing else, and no time is kept: the same seed and keys give the same film on any machine's clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from worldplay_env.control.actions import KEYS
from worldplay_env.media.files import check_regular
from worldplay_env.play.keys import RECORDED, Command

SETTINGS = ("world", "seed", "image", "prompt", "compare", "task")
"""What the first line of a recording may tell of how it was begun."""
CUTS = (Command.RESTART, Command.RETURN)
"""Commands after which the world goes on from somewhere else."""


class ReplayError(ValueError):
    """A script cannot be replayed; the message says which line, and why."""


@dataclass(frozen=True)
class ChunkKeys:
    """What one chunk is made from.

    Attributes:
        keys: Of each latent frame, or of the whole chunk as the only entry.
        prompt: The new one; None if it did not change.
    """

    keys: tuple[tuple[str, ...], ...]
    prompt: str | None = None

    def over(self, latents: int) -> ChunkKeys:
        """Return the same with the keys of each of so many latent frames.

        Raises:
            ReplayError: It has the keys of another number.
        """
        if len(self.keys) not in (1, latents):
            raise ReplayError(
                f"a chunk of the script has the keys of {len(self.keys)} latent frames, "
                f"the world's chunks have {latents}"
            )
        return self if len(self.keys) == latents else ChunkKeys(self.keys * latents, self.prompt)


STAND_STILL = ChunkKeys(((),))


@dataclass
class _Part:
    """What lies between two cuts."""

    chunks: list[ChunkKeys] = field(default_factory=list)
    commands: list[tuple[int, Command]] = field(default_factory=list)


class Replay:
    """A recording on its way through a session.

    Args:
        settings: What the recording tells of how it was begun.
        lines: The rest, in order: chunks, and commands with the number of frames shown before them.
    """

    def __init__(self, settings: Mapping[str, Any], lines: Sequence[ChunkKeys | tuple[int, Command]] = ()) -> None:
        self.settings = dict(settings)
        self._parts = [_Part()]
        for line in lines:
            if isinstance(line, ChunkKeys):
                self._parts[-1].chunks.append(line)
                continue
            self._parts[-1].commands.append(line)
            if line[1] in CUTS:
                self._parts.append(_Part())

    @property
    def running(self) -> bool:
        """Whether anything is left to replay."""
        return any(part.chunks or part.commands for part in self._parts)

    def check(self, latents: int) -> None:
        """Raise ReplayError unless all chunks can be made in a world with so many latent frames a chunk."""
        for part in self._parts:
            for chunk in part.chunks:
                chunk.over(latents)

    def next_chunk(self, frames_made: int) -> ChunkKeys | None:
        """Take what the next chunk is made from; None if a command has to come first, or the script is over.

        A command at a frame that no chunk of the script leads to is reached standing still.

        Args:
            frames_made: Frames shown so far, and those that are ready to be shown.
        """
        part = self._parts[0]
        if part.chunks:
            return part.chunks.pop(0)
        return STAND_STILL if part.commands and part.commands[0][0] > frames_made else None

    def cut_short(self, frames_made: int) -> None:
        """Drop the chunks before the next cut, and have the commands among them come after so many frames.

        For a world that goes no further.
        """
        for part in self._parts[:1]:
            part.chunks.clear()
            part.commands = [(min(frame, frames_made), command) for frame, command in part.commands]

    def due(self, frames_shown: int) -> Command | None:
        """Take the next command if it was given by the time that so many frames had been shown."""
        commands = self._parts[0].commands
        if not commands or commands[0][0] > frames_shown:
            return None
        command = commands.pop(0)[1]
        if command in CUTS:
            self._parts.pop(0)
        return command


def read_replay(path: str | Path) -> Replay:
    """Read a recorded session.

    Raises:
        ScriptError: The file holds a line that is no JSON object, has unknown keys, commands or fields.
        OSError: It cannot be read.
    """
    settings: dict[str, Any] = {}
    lines: list[ChunkKeys | tuple[int, Command]] = []
    try:
        check_regular(path)
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ReplayError(f"{path} is not a recorded session: it is no text") from error
    except ValueError as error:
        raise ReplayError(str(error)) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = _parse(line)
        except ValueError as error:
            raise ReplayError(f"{path}, line {number}: {error}") from error
        if isinstance(entry, dict):
            settings |= entry
        else:
            lines.append(entry)
    return Replay(settings, lines)


def _parse(line: str) -> ChunkKeys | tuple[int, Command] | dict[str, Any]:
    try:
        entry = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, got {line.strip()[:60]!r}")
    if "keys" in entry:
        return _chunk(entry)
    if "press" in entry:
        return _command(entry)
    if unknown := [name for name in entry if name not in SETTINGS]:
        raise ValueError(f'unknown field {unknown[0]!r}: a line has "keys", "press", or {", ".join(SETTINGS)}')
    if "seed" in entry and (type(entry["seed"]) is not int or entry["seed"] < 0):
        raise ValueError(f"the seed is a whole number of 0 or more, got {entry['seed']!r}")
    for name in SETTINGS:
        if name != "seed" and not isinstance(entry.get(name), str | None):
            raise ValueError(f"{name} is a text, got {entry[name]!r}")
    return entry


def _chunk(entry: dict[str, Any]) -> ChunkKeys:
    _allow(entry, "keys", "prompt")
    keys, prompt = entry["keys"], entry.get("prompt")
    if isinstance(keys, list) and all(isinstance(key, str) for key in keys):
        keys = [keys]
    if not isinstance(keys, list) or not all(isinstance(some, list) for some in keys):
        raise ValueError(f'"keys" must be a list of keys, or one for each latent frame, got {keys!r}')
    for key in (key for some in keys for key in some):
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}: known are {', '.join(KEYS)}")
    if not isinstance(prompt, str | None):
        raise ValueError(f"the prompt is a text, got {prompt!r}")
    return ChunkKeys(tuple(tuple(some) for some in keys), prompt)


def _command(entry: dict[str, Any]) -> tuple[int, Command]:
    _allow(entry, "frame", "press")
    frame, known = entry.get("frame"), {command.value: command for command in RECORDED}
    if type(frame) is not int or frame < 0:
        raise ValueError(f'"frame" is a whole number of 0 or more, got {frame!r}')
    if entry["press"] not in known:
        raise ValueError(f"unknown key {entry['press']!r}: known are {', '.join(known)}")
    return frame, known[entry["press"]]


def _allow(entry: dict[str, Any], *fields: str) -> None:
    if unknown := [name for name in entry if name not in fields]:
        raise ValueError(f"unknown field {unknown[0]!r}: expected {', '.join(fields)}")


class Recording:
    """Writes a session down while it is played; every line is on disk as soon as it is written.

    A line that cannot be written (a full disk) ends the recording and is kept as `error`: the session goes on.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.error: OSError | None = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO | None = self.path.open("w", encoding="utf-8")
        self._write(dict(settings))

    def chunk(self, chunk: ChunkKeys) -> None:
        """Write what the next chunk is made from."""
        self._write({"keys": chunk.keys} | ({} if chunk.prompt is None else {"prompt": chunk.prompt}))

    def command(self, frames_shown: int, command: Command) -> None:
        """Write a command, if it is one that matters to the film."""
        if command in RECORDED:
            self._write({"frame": frames_shown, "press": command.value})

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            self.error = error
            with suppress(OSError):  # it tries to write the rest once more
                self._file.close()
            self._file = None
