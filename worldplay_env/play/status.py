"""What a session tells its owner."""

from __future__ import annotations

from dataclasses import dataclass

from worldplay_env.play.chunk_job import Frame
from worldplay_env.play.keys import Command


@dataclass(frozen=True)
class Activity:
    """What the session's thread is doing, and since when."""

    what: str
    since: float


@dataclass(frozen=True)
class Update:
    """What `Session.advance` has to say.

    Attributes:
        frame: To be shown from now on, or None: the one on show stays.
        command: Of the script, for the owner to obey as if a person had given it; then there is no frame.
    """

    frame: Frame | None = None
    command: Command | None = None


@dataclass(frozen=True)
class Figures:
    """How well the session runs; None or empty where it is not known yet.

    Attributes:
        played: Frames a second shown of late.
        made: Frames a second of the newest chunk's making.
        key_to_frame: Seconds from a key going down to the first frame that answers it, the last time.
        chunk: Seconds that the newest chunk took.
        parts: Of those, by part ("prefill", "denoise", "decode"), of all panels together.
        age: Seconds of video since the world began.
    """

    played: float
    made: float | None
    key_to_frame: float | None
    chunk: float | None
    parts: dict[str, float]
    age: float
