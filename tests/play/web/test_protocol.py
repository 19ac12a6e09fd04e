"""Messages: what a page may say, and how frames and states are written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldplay_env.play.keys import Command
from worldplay_env.play.screen_state import ScreenState, Walk
from worldplay_env.play.web.protocol import (
    HEADER,
    LONGEST_MESSAGE,
    MOST_POINTS,
    Ack,
    KeyEdge,
    NewPrompt,
    NewStart,
    Order,
    Picture,
    ProtocolError,
    Release,
    Rewind,
    read_message,
    state_message,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "key", "key": "up", "down": true, "at": 12.5}', KeyEdge("up", True, 12.5)),
        ('{"type": "release"}', Release()),
        ('{"type": "command", "command": "return"}', Order(Command.RETURN)),
        ('{"type": "prompt", "text": "snow ☃"}', NewPrompt("snow ☃")),
        ('{"type": "start", "name": "dusk"}', NewStart("dusk")),
        ('{"type": "rewind", "chunk": 0}', Rewind(0)),
        ('{"type": "ack", "frame": 4294967295}', Ack(2**32 - 1)),
    ],
)
def test_messages_are_read(text: str, message: object) -> None:
    assert read_message(text) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 4000,
        '{"type": []}',
        '{"type": "leave"}',
        '{"type": "command", "command": "leave"}',
        '{"type": "command", "command": ["film"]}',
        '{"type": "release", "more": 1}',
        '{"type": "key", "key": "q", "down": true, "at": 0}',
        '{"type": "key", "key": "w", "down": 1, "at": 0}',
        '{"type": "key", "key": "w", "down": true, "at": NaN}',
        '{"type": "key", "key": "w", "down": true, "at": Infinity}',
        '{"type": "key", "key": "w", "down": true, "at": -1}',
        '{"type": "key", "key": "w", "down": true}',
        '{"type": "ack", "frame": true}',
        '{"type": "ack", "frame": -1}',
        '{"type": "ack", "frame": 4294967296}',
        json.dumps({"type": "prompt", "text": "x" * 501}),
        json.dumps({"type": "ack", "frame": 1, "padding": "x" * LONGEST_MESSAGE}),
        json.dumps({"type": "ack", "frame": 1}) + " " * LONGEST_MESSAGE,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        read_message(text)


@given(
    st.text(max_size=200)
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
)
def test_garbage_never_raises_anything_else(text: str) -> None:
    with pytest.raises(ProtocolError):
        read_message(text)


def test_a_frame_tells_in_the_page_s_clock_which_key_it_answers() -> None:
    picture = Picture(7, 2, 3, 10.0, 9.5, b"jpeg")
    packed = picture.pack(clock_offset=8.0)
    assert HEADER.unpack_from(packed) == (7, 2, 3, 10_000.0, 1500.0)
    assert packed[HEADER.size :] == b"jpeg"
    assert math.isnan(HEADER.unpack_from(picture.pack(None))[-1])


def test_a_long_walk_is_thinned_and_ends_where_the_camera_is() -> None:
    path = np.arange(2 * 5 * MOST_POINTS).reshape(-1, 2) / 7
    walk = Walk(path, np.array([0.0, 1.0]))
    state = ScreenState((np.zeros((2, 2, 3), np.uint8),), ("tiny",), walks=(walk,))
    message = json.loads(state_message(state, files=[], rewinds_from=0, takes_prompt=True))
    thinned = message["walks"][0]["path"]
    assert len(thinned) <= MOST_POINTS + 1
    assert thinned[-1] == path[-1].round(3).tolist()
    assert message["captions"] == []
