"""The presenter without any screen: commands in, states out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from played import FPS, SIZE, picture, until

from worldplay_env.play.keys import Command
from worldplay_env.play.presenter import LONGEST_PROMPT, Presenter
from worldplay_env.play.recorder import Recorder
from worldplay_env.play.replay import ChunkKeys, Replay
from worldplay_env.play.session import Panel, Session
from worldplay_env.worlds.base import Start
from worldplay_env.worlds.testcard import Testcard


@pytest.fixture
def present(tmp_path: Path) -> Iterator[Callable[..., Presenter]]:
    open_ones: list[tuple[Session, Recorder]] = []

    def begin(script: Replay | None = None, load: Any = lambda: Testcard(SIZE), **panel: Any) -> Presenter:
        session = Session([Panel("world", load, **panel)], Start(picture()), 8 * FPS, script=script)
        recorder = Recorder(tmp_path, 8 * FPS)
        open_ones.append((session, recorder))
        return Presenter(session, recorder, ["testcard"], (picture(),))

    yield begin
    for session, recorder in open_ones:
        recorder.close()
        session.close(timeout=10)


def play_until(presenter: Presenter, holds: Callable[[], Any]) -> None:
    def advanced() -> bool:
        presenter.advance()
        return bool(holds())

    until(advanced)


def test_keys_and_commands_show_in_the_state(present: Callable[..., Presenter]) -> None:
    presenter = present()
    assert (presenter.state().pictures[0] == picture()).all()
    play_until(presenter, lambda: presenter.state().walks)
    presenter.session.press("w")
    assert presenter.state().action == "forward"
    presenter.command(Command.PAUSE)
    assert presenter.state().paused
    assert presenter.advance() is None
    presenter.command(Command.HIDE)
    assert not presenter.state().overlay
    presenter.command(Command.RETURN)
    assert presenter.state().notice == "no bookmark yet: B makes one"
    presenter.command(Command.LEAVE)
    assert presenter.over


def test_a_script_decides_where_the_world_goes_until_it_is_over(present: Callable[..., Presenter]) -> None:
    presenter = present(Replay({}, [ChunkKeys((("w",),) * 4), (8, Command.BOOKMARK)]))
    until(lambda: presenter.session.loaded)
    presenter.command(Command.RESTART)
    presenter.set_prompt("snow")
    assert presenter.state().notice == "a script is playing: it decides where the world goes"
    play_until(presenter, lambda: not presenter.session.scripted)
    play_until(presenter, lambda: presenter.state().notice == "the script is over: the keys are yours")
    assert presenter.session.history.bookmark is not None
    presenter.command(Command.RESTART)
    assert presenter.session.history.on_show is None


def test_a_script_that_leaves_ends_it_before_another_frame(present: Callable[..., Presenter]) -> None:
    presenter = present(Replay({}, [ChunkKeys(((),) * 4), (3, Command.LEAVE)]))
    play_until(presenter, lambda: presenter.over)
    assert presenter.session.frames_shown == 3


def test_a_prompt_is_trimmed_and_bounded_and_refused_where_nothing_follows_it(
    present: Callable[..., Presenter],
) -> None:
    presenter = present()
    presenter.set_prompt("   ")
    assert presenter.state().notice == ""
    presenter.set_prompt(" snow " + "x" * 2 * LONGEST_PROMPT)
    assert presenter.state().notice == "from the next second on: snow " + "x" * (LONGEST_PROMPT - 5)
    deaf = present(uses_prompt=False)
    assert not deaf.may_prompt()
    assert deaf.state().notice == "world takes no new prompt"


def test_worlds_that_cannot_be_loaded_end_it(present: Callable[..., Presenter]) -> None:
    def load() -> Testcard:
        raise RuntimeError("out of memory")

    presenter = present(load=load)
    play_until(presenter, lambda: presenter.over)
    assert presenter.state().error == "The world stopped: out of memory (Enter starts over)"
