"""The chunks shown in a session, and the places among them that it can go back to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldplay_env.play.chunk_job import Checkpoint, ChunkRecord, Frame

REWINDS = 32
"""Chunks that can be gone back over: each keeps the state that it was made from."""


@dataclass(frozen=True)
class Place:
    """The beginning of a chunk: the state there, and the chunks before it."""

    checkpoint: Checkpoint
    records: tuple[ChunkRecord, ...] = ()

    @property
    def poses(self) -> list[np.ndarray]:
        """The cameras there, a pose [4, 4] for each panel."""
        return [rollout.pose for rollout in self.checkpoint.rollouts]


class History:
    """The way walked up to the frame on show.

    Attributes:
        records: One a chunk, the last of them the one on show.
        on_show: The frame; None while the picture of `standing` is on show.
        standing: Where the way begins: the start, or the place gone back to; None before there is a start.
        bookmark: A place to return to; None if there is none.
    """

    def __init__(self) -> None:
        self.records: list[ChunkRecord] = []
        self.on_show: Frame | None = None
        self.standing: Checkpoint | None = None
        self.bookmark: Place | None = None

    def show(self, frame: Frame) -> None:
        """Put a frame on show."""
        self.on_show = frame
        if frame.index == 0:
            self.records.append(frame.record)
            frame.record.before = frame.before
            for record in self.records[:-REWINDS]:
                record.before = None

    def stand_at(self, place: Place) -> None:
        """Go on from a place."""
        self.records, self.on_show, self.standing = list(place.records), None, place.checkpoint

    @property
    def pictures(self) -> tuple[np.ndarray, ...] | None:
        """What is on show, uint8 [height, width, 3] for each panel; None before there is a start."""
        if self.on_show is not None:
            return self.on_show.pictures
        return None if self.standing is None else self.standing.pictures

    @property
    def whole(self) -> list[ChunkRecord]:
        """The chunks of which every frame has been shown."""
        frame = self.on_show
        if frame is None or (frame.latent + 1 == len(frame.record.keys) and frame.index + 1 == frame.record.frames):
            return self.records
        return self.records[:-1]

    @property
    def here(self) -> Place | None:
        """The beginning of the chunk on show; None before there is a start."""
        if self.on_show is not None:
            return Place(self.on_show.before, tuple(self.records[:-1]))
        return None if self.standing is None else Place(self.standing, tuple(self.records))

    def before(self, chunk: int) -> Place | None:
        """Return the beginning of a chunk by its place in `records`; None if it is not kept, or there is none."""
        checkpoint = self.records[chunk].before if 0 <= chunk < len(self.records) else None
        return None if checkpoint is None else Place(checkpoint, tuple(self.records[:chunk]))

    @property
    def kept_from(self) -> int:
        """The earliest chunk of `records` that `before` knows."""
        return next((place for place, record in enumerate(self.records) if record.before), len(self.records))
