"""The command: `python -m worldplay_env.play`."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import tyro

from worldplay_env.cli import fail, in_words
from worldplay_env.play.chunk_job import Panel
from worldplay_env.play.plan import Args, Plan, lane_names, make_plan
from worldplay_env.play.presenter import Presenter
from worldplay_env.play.recorder import Recorder
from worldplay_env.play.replay import Recording
from worldplay_env.play.session import Session
from worldplay_env.worlds.registry import load

CLOSING_SECONDS = 1.0
"""How long to wait for the piece of work at hand when the window is closed."""

Show = Callable[[Presenter], Presenter]
"""Plays on some screen until somebody leaves, closes the screen, and returns the presenter that was played last."""


def begin(args: Args, recorder: Recorder, recording: Recording | None, plan: Plan) -> Presenter:
    """Begin a session of a plan; its worlds are loaded in a thread of its own."""
    panels = [
        Panel(title, functools.partial(load, name, **args.load_options()), seed, start, spec.uses_prompt)
        for title, name, seed, start, spec in zip(
            lane_names(plan.worlds, plan.seeds), plan.worlds, plan.seeds, plan.starts, plan.specs, strict=True
        )
    ]
    session = Session(panels, plan.start, plan.fps, script=plan.script, recording=recording, goals=plan.goals)
    presenter = Presenter(session, recorder, plan.worlds, plan.first_pictures)
    if plan.notes:
        presenter.say("; ".join(plan.notes))
    return presenter


def play(presenter: Presenter, recorder: Recorder, show: Show, recording: Recording | None) -> int:
    """Play on a screen, and close everything; return the exit code."""
    code = 0
    try:
        presenter = show(presenter)
    except KeyboardInterrupt:
        code = 130
    finally:
        recorder.close()
        session = presenter.session
        session.close(timeout=CLOSING_SECONDS)
    for path in recorder.written:
        print(path)
    failures = [*recorder.failures]
    if recording is not None and recording.error is not None:
        failures.append(f"writing {recording.path} failed: {in_words(recording.error)}")
    if session.error is not None:
        failures.append(in_words(session.error))
        code = 1 if session.loaded else 2
    return max([code, *(fail(failure, 1) for failure in failures)])


def open_window(plan: Plan) -> tuple[Show, Callable[[], None]]:
    """Open a window; return what plays in it, and what closes it.

    Raises:
        NoDisplay: There is no display.
    """
    # pygame greets on stdout when it is imported, unless told not to.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from worldplay_env.play.screen import Screen
    from worldplay_env.play.window_player import WindowPlayer

    screen = Screen(f"WorldPlay: {plan.title}", plan.size)

    def show(presenter: Presenter) -> Presenter:
        try:
            WindowPlayer(presenter, screen).run()
        finally:
            # The window first: it should be gone at once, whatever the world is in the middle of.
            screen.close()
        return presenter

    return show, screen.close


def open_page(args: Args, plan: Plan, begin_again: Callable[[Plan], Presenter]) -> tuple[Show, Callable[[], None]]:
    """Serve the page; return what plays on it, and what ends serving it.

    Raises:
        ImportError: The extra `web` is not installed.
        OSError: The port is taken, or the address is not this machine's.
    """
    try:
        from worldplay_env.play.web.server import Page
    except ImportError as error:
        raise ImportError(f"--web needs the extra web: pip install 'worldplay-env[web]' ({error})") from error

    page = Page(args, plan, begin_again)
    return page.show, page.close


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, 2 for what was asked for, 1 for what went wrong, 130 for Ctrl-C."""
    args = tyro.cli(Args, prog="python -m worldplay_env.play", args=arguments)
    from worldplay_env.media.display import NoDisplay

    close = None
    try:
        plan = make_plan(args)
        recorder = Recorder(args.out, plan.fps, args.scale)
        start = functools.partial(begin, args, recorder, None)
        show, close = open_page(args, plan, start) if args.web else open_window(plan)
        recording = None if args.record is None else Recording(args.record, plan.settings)
    except (ValueError, OSError, NoDisplay, ImportError) as error:
        if close is not None:
            close()
        return fail(error, 2)
    for note in plan.notes:
        print(note, file=sys.stderr)
    try:
        return play(begin(args, recorder, recording, plan), recorder, show, recording)
    finally:
        if recording is not None:
            recording.close()


if __name__ == "__main__":
    exit_code = main()
    if any(thread.name == "worldplay-session" for thread in threading.enumerate()):
        # A chunk or a download that cannot be broken off: everything is written, so the process need not wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
