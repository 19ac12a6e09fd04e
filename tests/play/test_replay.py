"""Recordings: what is written is read back, and what cannot be replayed is refused by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldplay_env.control.actions import KEYS
from worldplay_env.play.keys import RECORDED, Command
from worldplay_env.play.replay import STAND_STILL, ChunkKeys, Recording, Replay, ReplayError, read_replay

SOME_KEYS = st.lists(st.sampled_from(KEYS), unique=True, max_size=3).map(tuple)
CHUNKS = st.builds(ChunkKeys, st.tuples(*[SOME_KEYS] * 4), st.none() | st.text())
COMMANDS = st.tuples(st.integers(0, 500), st.sampled_from(RECORDED))
W = ChunkKeys((("w",),) * 4)


@given(lines=st.lists(CHUNKS | COMMANDS, max_size=12))
def test_what_is_recorded_is_read_back(tmp_path_factory: pytest.TempPathFactory, lines: list) -> None:
    path = tmp_path_factory.mktemp("record") / "session.jsonl"
    recording = Recording(path, {"world": "testcard", "seed": 3})
    for line in lines:
        recording.chunk(line) if isinstance(line, ChunkKeys) else recording.command(*line)
    recording.close()

    script, expected = read_replay(path), Replay({"world": "testcard", "seed": 3}, lines)
    assert script.settings == expected.settings
    assert script._parts == expected._parts


def test_every_line_is_on_disk_before_the_next_is_written(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "session.jsonl", {})
    for count in range(1, 4):
        recording.chunk(W)
        assert len((tmp_path / "session.jsonl").read_text().splitlines()) == 1 + count
    recording.close()
    recording.close()


def test_commands_that_do_not_matter_to_the_film_are_left_out(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "session.jsonl", {})
    for command in Command:
        recording.command(0, command)
    recording.close()
    lines = [json.loads(line) for line in (tmp_path / "session.jsonl").read_text().splitlines()[1:]]
    assert [line["press"] for line in lines] == ["enter", "f", "c", "b", "n", "escape"]


def test_chunks_behind_a_cut_wait_for_it() -> None:
    script = Replay({}, [W, (10, Command.FILM), (20, Command.RESTART), STAND_STILL])
    assert script.next_chunk(0) == W
    assert script.next_chunk(29) is None
    assert script.due(9) is None
    assert script.due(10) == Command.FILM
    assert script.due(19) is None
    assert script.due(20) == Command.RESTART
    assert script.next_chunk(20) == STAND_STILL
    assert not script.running


def test_a_command_behind_the_last_chunk_is_reached_standing_still() -> None:
    script = Replay({}, [W, (40, Command.LEAVE)])
    assert [script.next_chunk(made) for made in (0, 13, 29)] == [W, STAND_STILL, STAND_STILL]
    assert script.next_chunk(45) is None


def test_a_chunk_written_by_hand_may_name_its_keys_once(tmp_path: Path) -> None:
    path = tmp_path / "hand.jsonl"
    path.write_text('{"keys": ["w", "left"]}\n\n{"keys": []}\n')
    script = read_replay(path)
    assert script.next_chunk(0) == ChunkKeys((("w", "left"),))
    assert script.next_chunk(0) == STAND_STILL


def test_keys_named_once_are_held_over_a_chunk_of_any_length() -> None:
    assert ChunkKeys((("w",),), "snow").over(3) == ChunkKeys((("w",),) * 3, "snow")
    assert W.over(4) == W
    Replay({}, [W, (8, Command.RESTART), STAND_STILL]).check(4)
    with pytest.raises(ReplayError, match="keys of 4 latent frames, the world's chunks have 3"):
        Replay({}, [STAND_STILL, (8, Command.RESTART), W]).check(3)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"keys": ["q"]}', "unknown key 'q': known are w, s, a, d, up, down, left, right"),
        ('{"keys": [["w"], ["jump"], [], []]}', "unknown key 'jump'"),
        ('{"keys": [["w"], [], "d"]}', "one for each latent frame"),
        ('{"keys": "w"}', "must be a list"),
        ('{"keys": [], "prompt": 3}', "the prompt is a text"),
        ('{"keys": [], "prompts": "snow"}', "unknown field 'prompts'"),
        ('{"frame": 3, "press": "x"}', "unknown key 'x': known are enter, f, c, b, n, escape"),
        ('{"frame": -3, "press": "f"}', "whole number"),
        ('{"press": "f"}', "whole number"),
        ('{"seed": "one"}', "the seed is a whole number"),
        ('{"world": 3}', "world is a text"),
        ('{"wrold": "tiny"}', "unknown field 'wrold'"),
        ("[1, 2]", "expected an object"),
        ("w w w", "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"keys": ["w"]}\n' + line + "\n")
    with pytest.raises(ReplayError, match=r"bad\.jsonl, line 2: ") as raised:
        read_replay(path)
    assert complaint in str(raised.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ReplayError, match="no text"):
        read_replay(path)


def test_a_full_disk_ends_the_recording_and_not_the_session(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "session.jsonl", {})
    assert recording._file is not None
    recording._file.close()
    recording._file = open("/dev/full", "w")  # noqa: SIM115
    recording.chunk(W)
    assert isinstance(recording.error, OSError)
    recording.chunk(W)
    recording.close()
