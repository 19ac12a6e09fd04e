"""The way walked: what can be gone back to, and for how long it is kept."""

from __future__ import annotations

import numpy as np
from played import SIZE, FakeClock, begin, images, show

from worldplay_env.play.history import REWINDS

FIRST_CHUNK = 13


def test_rewinding_goes_on_from_the_beginning_of_a_chunk_with_other_keys() -> None:
    clock = FakeClock()
    session = begin(clock)
    try:
        session.press("w")
        frames = show(session, clock, FIRST_CHUNK + 2 * 16 + 1)
        session.release("w")
        assert session.rewind(2)
        assert session.history.on_show is None
        assert len(session.history.records) == 2
        np.testing.assert_array_equal(session.history.pictures[0], frames[FIRST_CHUNK + 15].pictures[0])
        session.press("left")
        again = show(session, clock, 16)
        session.release("left")
        assert again[0].number == FIRST_CHUNK + 16
        assert (images(again) != images(frames[FIRST_CHUNK + 16 :])[:1]).any()
    finally:
        session.close()


def test_what_was_never_walked_or_is_too_long_ago_cannot_be_gone_back_to() -> None:
    clock = FakeClock()
    session = begin(clock)
    try:
        assert not session.rewind(0)
        session.press("w")
        show(session, clock, FIRST_CHUNK + 16 * (REWINDS + 1))
        assert session.history.kept_from == 2
        assert not session.rewind(1)
        assert not session.rewind(REWINDS + 2)
        assert session.rewind(2)
        assert session.history.pictures[0].shape == (*SIZE, 3)
    finally:
        session.close()
