"""The task of a session: it stands still at the goal or without steps left, and Enter goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from played import SIZE, FakeClock, begin, picture, show, until

from worldplay_env.control.actions import action_label
from worldplay_env.envs.tasks.reach import Reach
from worldplay_env.play.goals import Goals
from worldplay_env.play.keys import Command
from worldplay_env.play.replay import ChunkKeys, Recording, Replay, read_replay
from worldplay_env.play.session import Session
from worldplay_env.worlds.base import CHUNK_LATENTS, Control, Start, WorldError
from worldplay_env.worlds.testcard import Testcard

W, STILL = ChunkKeys((("w",),) * CHUNK_LATENTS), ChunkKeys(((),) * CHUNK_LATENTS)
AHEAD = Reach(actions=(action_label(1, 0),), chunks=(2, 2))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("worldplay")])


def stands_still(session: Session, clock: FakeClock) -> bool:
    """Return whether a session shows nothing more, however long one waits."""
    for _ in range(50):
        clock.now += 1.0
        if session.advance().frame is not None:
            return False
    return session.until_due() is None and session._unseen == 0


def test_a_walk_ends_at_the_goal_which_gives_way_to_the_next(clock: FakeClock) -> None:
    goals = Goals(Reach(), limit=12, seed=3)
    session = begin(clock, goals=goals)
    aim = session.aim
    assert aim is not None
    assert (aim.steps, aim.left, aim.over) == (0, 12, False)
    first = goals.goal
    assert first is not None
    assert aim.picture is first.picture
    session.close()

    lines = [W, W, STILL, (45, Command.RESTART), STILL]
    goals = Goals(AHEAD, limit=12, seed=3)
    session = begin(clock, goals=goals, script=Replay({}, lines))
    show(session, clock, 28)
    assert session.aim is not None
    assert (session.aim.steps, session.aim.left, session.aim.reached) == (1, 11, False)
    show(session, clock, 1)
    assert (session.aim.steps, session.aim.left, session.aim.reached) == (2, 10, True)
    assert session.aim.distance < 1e-6
    before = goals.goal
    assert session.advance().command is Command.RESTART  # no frame of the script's third chunk is to be waited for
    assert session.restart()
    until(lambda: goals.goal is not None and goals.goal is not before)
    assert (session.aim.steps, session.aim.reached) == (0, False)
    show(session, clock, 13)
    assert session.aim.left == 11
    session.close()


def test_what_the_goal_shows_is_what_the_world_shows_there(clock: FakeClock) -> None:
    goals = Goals(AHEAD, limit=12, seed=0)
    session = begin(clock, goals=goals)
    session.close()
    world = Testcard(SIZE)
    rollout = world.start(Start(picture()), 0)
    for _ in range(2):
        [chunk] = world.step([rollout], [Control.of_labels(rollout.pose, [9] * 4, first=not rollout.chunks)])
    assert goals.goal is not None
    np.testing.assert_array_equal(goals.goal.picture, chunk.frames[-1])  # type: ignore[index]
    np.testing.assert_allclose(goals.goal.pose, rollout.pose)


def test_without_steps_left_it_stands_still_and_enter_tries_the_same_goal_again(clock: FakeClock) -> None:
    goals = Goals(AHEAD, limit=3, seed=0)
    session = begin(clock, goals=goals)
    session.press("s")
    show(session, clock, 45)
    assert session.aim is not None
    assert (session.aim.steps, session.aim.left, session.aim.reached, session.aim.over) == (3, 0, False, True)
    assert session.aim.distance == pytest.approx((7 + 11) * 0.08)
    assert stands_still(session, clock)
    goal = goals.goal
    assert session.restart()
    show(session, clock, 20)
    session.release("s")
    assert goals.goal is goal
    assert session.aim.left == 2
    session.close()


def test_the_world_waits_for_keys_so_that_every_step_is_meant(clock: FakeClock) -> None:
    session = begin(clock, goals=Goals(AHEAD, limit=12, seed=0))
    assert session.awaits_keys
    assert stands_still(session, clock)
    session.press("w")
    show(session, clock, 20)
    assert not session.awaits_keys
    session.release("w")
    show(session, clock, 9)
    assert stands_still(session, clock)
    assert session.aim is not None
    assert session.aim.reached
    session.close()


def test_a_script_that_goes_on_where_the_world_does_not_still_ends(clock: FakeClock) -> None:
    script = Replay({}, [*[STILL] * 5, (60, Command.PICTURE), (2000, Command.LEAVE)])
    session = begin(clock, goals=Goals(AHEAD, limit=2, seed=0), script=script)
    show(session, clock, 29)
    commands = []
    until(lambda: ((command := session.advance().command) and commands.append(command)) or len(commands) == 2)
    assert commands == [Command.PICTURE, Command.LEAVE]
    assert not session.scripted
    session.close()


def test_the_same_seed_gives_the_same_goals_and_another_others(clock: FakeClock) -> None:
    def drawn(seed: int) -> list[np.ndarray]:
        goals, world = Goals(Reach(), limit=12, seed=seed), Testcard(SIZE)
        rollout, poses = world.start(Start(picture()), 0), []
        for _ in range(4):
            goals.draw(world, rollout)
            assert goals.goal is not None
            poses.append(goals.goal.pose)
            goals.next()
            assert goals.goal is None
        assert rollout.chunks == 0
        return poses

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert (np.stack(drawn(1)) != np.stack(drawn(2))).any()
    assert len({pose.tobytes() for pose in drawn(1)}) > 1


def test_a_goal_that_cannot_be_found_is_said_and_enter_looks_for_another(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    goals = Goals(AHEAD, limit=12, seed=0)
    session = begin(clock, goals=goals, script=Replay({}, [W, W]))
    show(session, clock, 29)
    with monkeypatch.context() as patch:
        patch.setattr(Testcard, "step", lambda *arguments, **options: (_ for _ in ()).throw(WorldError("no memory")))
        session.restart()
        until(lambda: session.error is not None)
    assert session.aim is not None
    assert session.aim.picture is None
    session.restart()
    until(lambda: goals.goal is not None)
    assert session.error is None
    session.press("w")
    show(session, clock, 14)
    session.close()


def test_going_back_to_a_bookmark_gives_the_steps_back(clock: FakeClock) -> None:
    session = begin(clock, goals=Goals(AHEAD, limit=12, seed=0), script=Replay({}, [STILL] * 3))
    show(session, clock, 20)
    session.bookmark()
    show(session, clock, 25)
    assert session.aim is not None
    assert session.aim.steps == 3
    session.go_back()
    assert session.aim.steps == 1
    session.close()


def test_a_recorded_walk_to_a_goal_comes_to_it_again(clock: FakeClock, tmp_path: Path) -> None:
    recording = Recording(tmp_path / "session.jsonl", {"task": "reach"})
    session = begin(clock, goals=Goals(AHEAD, limit=12, seed=0), recording=recording)
    session.press("w")
    seen = []
    until(lambda: seen.extend(show(session, clock, 1)) or (session.aim is not None and session.aim.reached))
    session.close()
    recording.close()
    script = read_replay(tmp_path / "session.jsonl")
    assert script.settings == {"task": "reach"}
    again = begin(clock, goals=Goals(AHEAD, limit=12, seed=0), script=script)
    frames = show(again, clock, len(seen))
    again.close()
    assert again.aim is not None
    assert again.aim.reached
    assert [frame.keys for frame in frames] == [frame.keys for frame in seen]
