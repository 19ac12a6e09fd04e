"""Sessions, without a window: what is shown follows the keys, whatever the world's pace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from played import FPS, SIZE, FakeClock, GatedTestcard, begin, images, picture, show, until

from worldplay_env.control.actions import label_of_keys
from worldplay_env.play.keys import Command
from worldplay_env.play.replay import Recording, read_replay
from worldplay_env.play.session import Panel, Session
from worldplay_env.worlds.base import Control, Start, WorldError
from worldplay_env.worlds.testcard import Testcard, frame_number


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("worldplay")])


def expected(chunks: list[list[tuple[str, ...]]], seed: int = 0) -> np.ndarray:
    """Return the film of chunks made from keys, one tuple a latent frame, by stepping the world itself."""
    world = Testcard(SIZE)
    rollout, film = world.start(Start(picture()), seed), []
    for keys in chunks:
        control = Control.of_labels(rollout.pose, [label_of_keys(some) for some in keys], first=not rollout.chunks)
        [chunk] = world.step([rollout], [control])
        film.append(chunk.frames)
    return np.concatenate(film)


def test_what_is_shown_is_what_the_world_makes_of_the_keys(clock: FakeClock) -> None:
    session = begin(clock)
    frames = show(session, clock, 13)  # the first chunk has been begun without a key
    session.press("w")
    frames += show(session, clock, 20)
    session.press("right")
    frames += show(session, clock, 30)
    session.close()
    keys = [frame.record.keys for frame in frames if frame.index == 0]

    assert keys[0] == ((),) * 4
    assert {("w",), ("w", "right")} < {keys_ for chunk in keys for keys_ in chunk}
    np.testing.assert_array_equal(images(frames), expected([list(chunk) for chunk in keys])[: len(frames)])
    assert [frame.number for frame in frames] == list(range(len(frames)))


def test_frames_come_at_a_steady_rate_from_a_world_in_time(clock: FakeClock) -> None:
    session, moments = begin(clock), []
    for _ in range(80):
        show(session, clock, 1)
        moments.append(clock.now)
    session.close()
    np.testing.assert_allclose(np.diff(moments), 1 / FPS)


def test_a_tap_between_two_chunks_moves_the_camera(clock: FakeClock) -> None:
    session = begin(clock)
    show(session, clock, 3)
    session.press("a")
    clock.now += 0.01
    session.release("a")
    frames = show(session, clock, 40)
    session.close()
    moved = [keys for frame in frames if frame.index == 0 for keys in frame.record.keys]
    assert moved.count(("a",)) == 1


def test_generation_is_one_chunk_ahead_of_the_picture_at_most(clock: FakeClock) -> None:
    world = GatedTestcard()
    for _ in range(200):
        world.leave.release()
    session = begin(clock, lambda: world)
    until(lambda: world.begun == 1)
    for _ in range(60):
        [frame] = show(session, clock, 1)
        on_show = 1 if frame.number < 13 else 2 + (frame.number - 13) // 16
        assert world.begun <= on_show + 1
    session.close()


def test_a_fast_world_is_asked_late_so_that_keys_are_answered_soon(clock: FakeClock) -> None:
    session = begin(clock)
    show(session, clock, 13 + 16 + 16 + 10)
    session.press("w")  # six frames before the chunk ends: time enough
    frames = show(session, clock, 7)
    session.close()
    assert frames[-1].record.keys == (("w",),) * 4
    assert session.figures().key_to_frame == pytest.approx(7 / FPS, abs=1.1 / FPS)


def test_the_first_frame_is_shown_before_the_rest_is_decoded(clock: FakeClock) -> None:
    world = GatedTestcard()
    session = begin(clock, lambda: world)
    world.leave.release()
    [frame] = show(session, clock, 1)
    assert (frame.number, len(session._playback)) == (0, 0)
    world.leave.release(20)
    session.close()


def test_a_slow_world_makes_the_picture_wait_and_never_jump(clock: FakeClock) -> None:
    world = GatedTestcard()
    session = begin(clock, lambda: world)
    numbers = []
    for _ in range(9):
        world.leave.release()
        until(lambda: len(session._playback) > 0)
        numbers += [frame_number(frame.pictures[0]) for frame in show(session, clock, len(session._playback))]
        clock.now += 2.0
        assert session.advance().frame is None
        assert session.waiting() == pytest.approx(2.0 - 1 / FPS)
        assert session.history.on_show is not None
        assert frame_number(session.history.on_show.pictures[0]) == numbers[-1]
    assert numbers == list(range(1 + 3 * 4 + 5 * 4))
    world.leave.release(20)
    session.close()


def test_starting_over_drops_what_was_made_before(clock: FakeClock) -> None:
    world = GatedTestcard()
    session = begin(clock, lambda: world)
    session.press("d")
    world.leave.release(6)  # a chunk and a half: the rest comes after the restart
    show(session, clock, 13 + 4)
    assert session.restart()
    np.testing.assert_array_equal(session.history.pictures[0], picture())
    assert (session.history.records, session.history.on_show) == ([], None)
    world.leave.release(200)
    frames = show(session, clock, 40)
    session.close()
    keys = [list(frame.record.keys) for frame in frames if frame.index == 0]
    np.testing.assert_array_equal(images(frames), expected(keys)[:40])


def test_going_back_returns_to_the_chunk_that_was_bookmarked(clock: FakeClock) -> None:
    session = begin(clock)
    assert not session.go_back()
    session.press("w")
    before = show(session, clock, 13 + 16 + 7)
    assert session.bookmark()
    away = show(session, clock, 40)
    assert session.go_back()
    assert len(session.history.records) == 2
    np.testing.assert_array_equal(session.history.pictures[0], before[13 + 15].pictures[0])
    again = show(session, clock, 16 + 5)
    session.close()
    assert [frame.number for frame in again] == list(range(13 + 16, 13 + 16 + 21))
    # The same keys lead to the same frames: w was held all the while.
    np.testing.assert_array_equal(images(again), images(before[29:] + away)[: len(again)])


def test_a_prompt_changes_the_running_world(clock: FakeClock) -> None:
    session = begin(clock)
    show(session, clock, 10)
    session.set_prompt("it snows")
    frames = show(session, clock, 40)
    session.close()
    assert {rollout.prompt for frame in frames[-5:] for rollout in frame.before.rollouts} == {"it snows"}
    assert [rollout.prompt for rollout in frames[0].before.rollouts] == [""]


def test_a_pause_stops_the_picture_and_the_world(clock: FakeClock) -> None:
    session = begin(clock)
    show(session, clock, 20)
    session.pause(True)
    for _ in range(50):
        clock.now += 0.1
        assert session.advance().frame is None
    assert session.waiting() == 0
    session.pause(False)
    assert show(session, clock, 1)[0].number == 20
    session.close()


def test_two_seeds_go_the_same_way_side_by_side(clock: FakeClock) -> None:
    session = begin(clock, panels=2)
    session.press("w")
    frames = show(session, clock, 30)
    session.close()
    keys = [list(frame.record.keys) for frame in frames if frame.index == 0]
    for panel in range(2):
        shown = np.stack([frame.pictures[panel] for frame in frames])
        np.testing.assert_array_equal(shown, expected(keys, seed=panel)[:30])
    assert (images(frames) != shown).any()


def test_two_worlds_of_other_sizes_go_side_by_side(clock: FakeClock) -> None:
    panels = [Panel("small", lambda: Testcard(SIZE)), Panel("large", lambda: Testcard((64, 80)))]
    session = Session(panels, Start(picture()), FPS, clock=clock)
    [frame] = show(session, clock, 1)
    session.close()
    assert [image.shape for image in frame.pictures] == [(*SIZE, 3), (64, 80, 3)]


def test_a_world_that_cannot_be_loaded_says_why(clock: FakeClock) -> None:
    def load() -> Testcard:
        raise ValueError("no such world")

    session = begin(clock, load)
    assert (str(session.error), session.loaded, session.history.pictures) == ("no such world", False, None)
    assert session.advance().frame is None
    assert not session.restart()
    session.close()


def test_a_world_that_fails_says_why_and_starts_over(clock: FakeClock) -> None:
    world = GatedTestcard()
    session = begin(clock, lambda: world)
    world.leave.release(6)
    show(session, clock, 13 + 4)
    world.failure = WorldError("out of memory")
    world.leave.release()
    until(lambda: session.error)
    assert session.history.on_show is not None
    world.failure = None
    world.leave.release(200)
    assert session.restart()
    assert session.error is None
    assert len(show(session, clock, 30)) == 30
    session.close()


@pytest.mark.parametrize("state", ["loading", "first chunk", "mid-chunk", "paused", "failed", "in time"])
def test_closing_leaves_no_thread_in_any_state(clock: FakeClock, state: str) -> None:
    world, loaded = GatedTestcard(), threading.Event()
    if state != "loading":
        loaded.set()
    session = Session([Panel("world", lambda: loaded.wait(20) and world)], Start(picture()), FPS, clock=clock)
    if state != "loading":
        until(lambda: world.begun == 1)
    if state not in ("loading", "first chunk"):
        world.leave.release(6)
        show(session, clock, 13 + 4)
        until(lambda: world.asked == 7)
    if state == "paused":
        session.pause(True)
    if state == "failed":
        world.failure = WorldError("out of memory")
        world.leave.release()
        until(lambda: session.error)
    if state == "in time":
        world.leave.release(100)
        until(lambda: session.activity is None)
    blocked = state not in ("failed", "in time")
    # The owner is not held up by what the world is in the middle of ...
    assert session.close(timeout=0.05 if blocked else 5) is not blocked
    begun = world.begun
    loaded.set()
    world.leave.release(100)
    # ... and once that is done, nothing more is begun.
    assert session.close()
    assert world.begun == begun


def replay(path: Path, clock: FakeClock) -> list[np.ndarray]:
    """Play a script to its end without a key, obeying its commands; return the images shown."""
    session, shown = begin(clock, script=read_replay(path)), []
    leaving = False

    def another() -> bool:
        nonlocal leaving
        clock.now += session.until_due() or 0.0
        update = session.advance()
        if update.frame is not None:
            shown.append(update.frame.pictures[0])
        if update.command is Command.RESTART:
            session.restart()
        elif update.command is Command.RETURN:
            session.go_back()
        elif update.command is Command.BOOKMARK:
            session.bookmark()
        leaving |= update.command is Command.LEAVE
        return leaving

    until(another)
    session.close()
    return shown


def test_a_recorded_session_is_replayed_frame_by_frame(clock: FakeClock, tmp_path: Path) -> None:
    recording = Recording(tmp_path / "session.jsonl", {})
    session, shown = begin(clock, recording=recording), []
    for count, act in [
        (3, lambda: session.press("w")),
        (20, lambda: session.press("left")),
        (9, session.bookmark),
        (14, lambda: (session.release("w"), session.press("up"), session.release("up"))),
        (25, lambda: session.set_prompt("it snows")),
        (18, session.go_back),
        (22, session.restart),
        (30, lambda: session.note(Command.LEAVE)),
    ]:
        shown += [frame.pictures[0] for frame in show(session, clock, count)]
        act()
    session.close()
    recording.close()

    again = replay(tmp_path / "session.jsonl", FakeClock())
    np.testing.assert_array_equal(np.stack(again), np.stack(shown))


def test_after_the_script_the_keyboard_takes_over(clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_text('{"keys": ["w"]}\n' * 2)
    session = begin(clock, script=read_replay(path))
    session.press("d")
    frames = show(session, clock, 13 + 16 + 16)
    session.close()
    assert [frame.keys for frame in frames[1::8]] == [("w",)] * 4 + [("d",)] * 2
