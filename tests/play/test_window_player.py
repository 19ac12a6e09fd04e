"""The player: events become keys and commands, and the window answers whatever the world does."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pygame
import pytest
from played import FPS, PATIENCE, SIZE, GatedTestcard, picture

from worldplay_env.envs.tasks.reach import Reach
from worldplay_env.play import overlay
from worldplay_env.play.goals import Goals
from worldplay_env.play.overlay import Type
from worldplay_env.play.presenter import Presenter
from worldplay_env.play.recorder import Recorder
from worldplay_env.play.screen import Screen
from worldplay_env.play.screen_state import ScreenState
from worldplay_env.play.session import Panel, Session
from worldplay_env.play.window_player import WindowPlayer
from worldplay_env.worlds.base import Start, World
from worldplay_env.worlds.testcard import Testcard

RESIZED = [(640, 400), (1920, 1080), (400, 700), (330, 210), (641, 399)]


def down(key: int) -> pygame.event.Event:
    return pygame.event.Event(pygame.KEYDOWN, key=key, mod=0, unicode="", scancode=0)


def up(key: int) -> pygame.event.Event:
    return pygame.event.Event(pygame.KEYUP, key=key, mod=0, unicode="", scancode=0)


def text(typed: str) -> list[pygame.event.Event]:
    return [pygame.event.Event(pygame.TEXTINPUT, text=letter) for letter in typed]


class Stage:
    """A player whose person acts at each view, as a list of steps: when a view fits, the next events are sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.views: list[ScreenState] = []
        self.goals: Goals | None = None
        self.panels: list[Panel] = []
        """The worlds; by default one, loaded as `play` is told."""

    def play(
        self,
        steps: list[tuple[Callable[[ScreenState], bool], list[pygame.event.Event]]],
        load: Callable[[], World] = lambda: Testcard(SIZE),
        fps: float = 8 * FPS,
        leave: pygame.event.Event | None = None,
    ) -> Session:
        """Play until the steps are done, and leave, by Esc unless another event is given."""
        screen = Screen("test", (320, 200))
        pygame.event.clear()
        recorder = Recorder(self.folder, fps)
        session = Session(self.panels or [Panel("world", load)], Start(picture()), fps, goals=self.goals)
        remaining = [*steps, (lambda view: True, [leave or down(pygame.K_ESCAPE)])]
        draw, give_up = screen.draw, time.monotonic() + 3 * PATIENCE

        def act(view: ScreenState) -> None:
            draw(view)
            assert time.monotonic() < give_up, "waited in vain"
            self.views.append(view)
            if remaining and remaining[0][0](view):
                for event in remaining.pop(0)[1]:
                    pygame.event.post(event)

        screen.draw = act  # type: ignore[method-assign]
        presenter = Presenter(session, recorder, ["testcard"], (picture(),) * len(session.panels))
        self.session = session
        try:
            WindowPlayer(presenter, screen).run()
        finally:
            screen.close()
            recorder.close()
            self.closed = session.close(timeout=10)
        assert not remaining
        return session


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def plays(view: ScreenState) -> bool:
    return bool(view.walks)


def after(frames: int) -> Callable[[ScreenState], bool]:
    """Return a condition that holds once so many views were drawn since it was first asked."""
    count = 0

    def holds(view: ScreenState) -> bool:
        nonlocal count
        count += 1
        return count > frames

    return holds


def test_keys_move_the_camera_and_light_up(stage: Stage) -> None:
    session = stage.play(
        [
            (plays, [down(pygame.K_w), down(pygame.K_RIGHT)]),
            (lambda view: session_moved(view), [up(pygame.K_w), up(pygame.K_RIGHT)]),
            (lambda view: not view.held, []),
        ]
    )
    assert {view.action for view in stage.views} >= {"stand still", "forward + yaw right"}
    assert frozenset({"w", "right"}) in {view.held for view in stage.views}
    assert stage.closed
    assert session.frames_shown > 13


def session_moved(view: ScreenState) -> bool:
    return bool(view.walks) and abs(view.walks[0].path[-1]).max() > 0.1


def test_the_first_picture_is_there_while_the_world_loads(stage: Stage) -> None:
    loaded = threading.Event()

    def load() -> World:
        assert loaded.wait(20)
        return Testcard(SIZE)

    def loading(view: ScreenState) -> bool:
        assert view.progress is not None
        loaded.set()
        return True

    stage.play([(loading, []), (plays, [])], load)
    assert (stage.views[0].pictures[0] == picture()).all()
    assert "Loading world" in stage.views[0].progress.text
    assert stage.views[-1].progress is None


def test_leaving_does_not_wait_for_the_world(stage: Stage) -> None:
    world = GatedTestcard()
    begun = lambda view: world.begun == 1  # noqa: E731
    # The world holds its first frame back until the window is gone: run() must end all the same.
    close = Screen.close

    def closed(screen: Screen) -> None:
        close(screen)
        world.leave.release(100)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Screen, "close", closed)
        stage.play([(begun, [])], lambda: world)
    assert stage.closed


def test_a_window_of_another_size_is_laid_out_anew_and_closes_while_a_chunk_is_made(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = GatedTestcard()
    world.leave.release(9)  # two chunks and a quarter: the rest of the third is held back until the window is gone
    close = Screen.close
    seen: list[tuple[ScreenState, np.ndarray]] = []

    def closed(screen: Screen) -> None:
        close(screen)
        world.leave.release(100)

    def resize(size: tuple[int, int]) -> bool:
        pygame.display.set_mode(size, pygame.RESIZABLE)
        return True

    def remember(view: ScreenState) -> bool:
        seen.append((view, on_screen()))
        return True

    steps: list[tuple[Callable[[ScreenState], bool], list[pygame.event.Event]]] = [
        (plays, [down(pygame.K_w)]),
        (lambda view: world.begun == 3 and view.sign != "" and "w" in view.held, []),
    ]
    for size in RESIZED:
        resized = pygame.event.Event(pygame.VIDEORESIZE, size=size, w=size[0], h=size[1])
        steps += [(lambda view, size=size: resize(size), [resized]), (remember, [])]  # type: ignore[misc]
    with monkeypatch.context() as patch:
        patch.setattr(Screen, "close", closed)
        stage.play(steps, lambda: world, leave=pygame.event.Event(pygame.QUIT))

    assert stage.closed
    assert world.begun == 3
    for size, (view, image) in zip(RESIZED, seen, strict=True):
        # Nothing is left of how it was laid out before: a new window of that size looks the same.
        screen = Screen("test", size)
        screen.draw(view)
        np.testing.assert_array_equal(image, on_screen())
        screen.draw(dataclasses.replace(view, overlay=False))
        drawn_over = (image != on_screen()).any(axis=2)
        kind = Type(size)
        screen.close()
        keys = np.argwhere(drawn_over & has_colour(image, overlay.LIT))  # W, in the lower left corner
        assert keys[:, 0].min() > size[1] - kind.px(110)
        assert keys[:, 1].max() < kind.px(95)
        heading = np.argwhere((drawn_over & has_colour(image, overlay.INK))[: size[1] // 2, size[0] // 2 :])
        assert heading[:, 0].max() < kind.px(130)  # on the map, in the upper right one
        assert heading[:, 1].min() > size[0] - size[0] // 2 - kind.px(130)


def on_screen() -> np.ndarray:
    """Return what the window shows, uint8 [height, width, 3]."""
    return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)


def has_colour(image: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    """Return which pixels have nearly that colour, bool [height, width]."""
    return (np.abs(image.astype(int) - colour) < 20).all(axis=2)


def test_a_prompt_is_typed_edited_and_sent(stage: Stage) -> None:
    backspace, enter = down(pygame.K_BACKSPACE), down(pygame.K_RETURN)
    stage.play(
        [
            (plays, [down(pygame.K_t), *text("tit snowss"), backspace]),
            (lambda view: view.typing == "it snows", [down(pygame.K_w), down(pygame.K_p), enter]),
            (lambda view: view.typing is None, []),
            (lambda view: stage.session._rollouts[0].prompt == "it snows", []),
        ]
    )
    assert not any(view.held or view.paused for view in stage.views)


def test_a_world_that_takes_no_new_prompt_says_so(stage: Stage) -> None:
    stage.panels = [Panel("deaf", lambda: Testcard(SIZE), uses_prompt=False)]
    stage.play([(plays, [down(pygame.K_t)]), (lambda view: view.notice == "deaf takes no new prompt", [])])
    assert all(view.typing is None for view in stage.views)

    stage.panels.append(Panel("world", lambda: Testcard(SIZE)))
    stage.play(
        [
            (plays, [down(pygame.K_t), *text("tsnow"), down(pygame.K_RETURN)]),
            (lambda view: view.notice == "from the next second on: snow (deaf takes no new prompt)", []),
        ]
    )


def test_escape_while_typing_cancels_the_prompt_and_not_the_game(stage: Stage) -> None:
    session = stage.play(
        [
            (plays, [down(pygame.K_t), *text("tsnow"), down(pygame.K_ESCAPE)]),
            (after(30), []),
        ]
    )
    assert session._rollouts[0].prompt == ""
    assert len(stage.views) > 30


def test_pause_hide_film_picture_bookmark_and_restart_do_as_they_say(stage: Stage) -> None:
    stage.play(
        [
            (plays, [down(pygame.K_f), down(pygame.K_w)]),
            (session_moved, [down(pygame.K_b), down(pygame.K_c)]),
            (lambda view: view.walks and view.walks[0].bookmark is not None, [down(pygame.K_p)]),
            (lambda view: view.paused, [down(pygame.K_h)]),
            (lambda view: not view.overlay, [down(pygame.K_h), down(pygame.K_p), down(pygame.K_RETURN)]),
            (lambda view: "age 0.1 s" in view.figures, [down(pygame.K_n)]),
            (lambda view: session_moved(view), [down(pygame.K_f)]),
            (lambda view: "saved" in view.notice and "film" in view.notice, []),
        ]
    )
    assert sorted(path.name for path in stage.folder.iterdir()) == ["film-001.mp4", "picture-001.png"]


def test_going_back_without_a_bookmark_is_said(stage: Stage) -> None:
    stage.play([(plays, [down(pygame.K_n)]), (lambda view: view.notice == "no bookmark yet: B makes one", [])])


def test_a_task_shows_its_goal_beside_the_view_and_says_how_it_ends(stage: Stage) -> None:
    stage.goals = Goals(Reach(actions=(9,), chunks=(2, 2)), limit=4, seed=0)
    at_goal: list[ScreenState] = []
    stage.play(
        [
            (lambda view: len(view.pictures) == 2, [down(pygame.K_w)]),
            (lambda view: bool(view.verdict), [up(pygame.K_w)]),
            (lambda view: not view.held and at_goal.append(view) is None, [down(pygame.K_RETURN)]),
            (lambda view: view.sign == "the next step waits for your keys", [down(pygame.K_s)]),
            (lambda view: view.verdict.startswith("No steps left"), []),
        ]
    )
    assert {view.captions for view in stage.views} > {("world", f"goal, steps left: {left}") for left in (4, 3, 1)}
    assert all(len(view.pictures) == 2 for view in stage.views if plays(view))
    assert at_goal[0].verdict.startswith("Goal reached! Steps: ")
    assert at_goal[0].captions == ("world", "goal")
    assert not any(view.sign for view in stage.views if view.verdict)


def test_a_window_that_loses_the_keyboard_lets_go_of_the_keys(stage: Stage) -> None:
    stage.play(
        [
            (plays, [down(pygame.K_w)]),
            (lambda view: bool(view.held), [pygame.event.Event(pygame.WINDOWFOCUSLOST)]),
            (lambda view: not view.held, []),
        ]
    )


def test_while_the_world_is_slow_the_window_answers_and_says_what_for(stage: Stage) -> None:
    world = GatedTestcard()
    world.leave.release()
    stage.play(
        [
            (plays, [down(pygame.K_w)]),
            (lambda view: "w" in view.held and view.sign != "", [down(pygame.K_h)]),
            (lambda view: not view.overlay and "making the next second" in view.sign, []),
            (lambda view: bool(world.leave.release(100)) or True, []),
        ],
        lambda: world,
    )


def test_a_world_that_fails_is_shown_and_enter_starts_over(stage: Stage) -> None:
    world = GatedTestcard()
    world.leave.release(2)
    world.failure = None

    def break_off(view: ScreenState) -> bool:
        world.failure = RuntimeError("out of memory")
        world.leave.release()
        return True

    def mend(view: ScreenState) -> bool:
        if not view.error:
            return False
        world.failure = None
        world.leave.release(100)
        return True

    stage.play(
        [
            (plays, []),
            (break_off, []),
            (mend, [down(pygame.K_RETURN)]),
            (lambda view: not view.error and len(view.walks) > 0, []),
        ],
        lambda: world,
    )
    assert "The world stopped: out of memory (Enter starts over)" in {view.error for view in stage.views}
