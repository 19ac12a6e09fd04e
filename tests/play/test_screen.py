"""The window, without a display: everything is inside it at every size, and where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pygame
import pytest

from worldplay_env.cli import in_words
from worldplay_env.media.display import NoDisplay
from worldplay_env.play import overlay
from worldplay_env.play.loading import Progress
from worldplay_env.play.overlay import Type
from worldplay_env.play.screen import BACKGROUND, Screen
from worldplay_env.play.screen_state import ScreenState, Walk

SIZES = [(640, 400), (1920, 1080), (320, 200), (500, 900)]
GREEN = np.full((96, 160, 3), (0, 160, 0), dtype=np.uint8)
BLUE = np.full((96, 160, 3), (0, 0, 160), dtype=np.uint8)
WALK = Walk(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.5]]), np.array([1.0, 0.0]), np.array([[0.0, 1.0]]))


@pytest.fixture
def open_screen() -> Iterator[Callable[[tuple[int, int]], Screen]]:
    opened: list[Screen] = []

    def open_one(size: tuple[int, int]) -> Screen:
        opened.append(Screen("test", size))
        return opened[-1]

    yield open_one
    for screen in opened:
        screen.close()


def drawn(screen: Screen, view: ScreenState) -> np.ndarray:
    """Return what the window shows, uint8 [height, width, 3]."""
    screen.draw(view)
    return pygame.surfarray.array3d(screen.surface).swapaxes(0, 1)


def full_view(**changes: object) -> ScreenState:
    settings = {
        "pictures": (GREEN,),
        "held": frozenset({"w", "right"}),
        "action": "forward + right + yaw right + pitch down",
        "figures": (
            "16.0 frames/s shown, 400 made",
            "key to picture 0.77 s",
            "prefill 0.20  denoise 0.30  decode 0.20",
        ),
        "walks": (WALK,),
        "notice": "saved outputs/a-rather-long-folder-name/film-001.mp4 (12.3 s)",
        "sign": "making the next second (usually 2.0 s), 3 s ...",
        "progress": Progress("Loading wan-5b: downloaded 3.2 of about 30 GB, 12 min left", 0.4),
        "filming": 12.3,
        "error": "The world stopped: out of memory on cuda; no rollout was changed (Enter starts over)",
    }
    return ScreenState(**(settings | changes))  # type: ignore[arg-type]


def watch(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> list[pygame.Rect]:
    """Have the window drawn on a canvas of some size; return where panels are put on it, as it goes on."""
    placed: list[pygame.Rect] = []

    class Watched(pygame.Surface):
        def blit(self, source: pygame.Surface, place: object, *rest: object) -> pygame.Rect:
            rect = place if isinstance(place, pygame.Rect) else pygame.Rect(place, source.get_size())
            placed.append(rect)
            return super().blit(source, place, *rest)

    canvas = Watched(size)
    monkeypatch.setattr(pygame.display, "get_surface", lambda: canvas)
    return placed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("typing", [None, "snow " * 60])
def test_nothing_is_cut_off(
    size: tuple[int, int], typing: str | None, open_screen: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = watch(monkeypatch, size)
    open_screen(size).draw(full_view(typing=typing))
    window = pygame.Rect((0, 0), size)
    assert len(placed) >= 8
    assert [rect for rect in placed if not window.contains(rect)] == []


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (1, 300), (2000, 1)])
def test_a_window_that_is_too_small_for_anything_is_drawn_all_the_same(
    size: tuple[int, int], open_screen: Callable
) -> None:
    panels = {"pictures": (GREEN, BLUE), "captions": ("one", "two"), "walks": (WALK, WALK)}
    assert drawn(open_screen(size), full_view(typing="snow", **panels)).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("size", SIZES[:2])
def test_the_panels_of_a_usual_moment_do_not_cover_one_another(size: tuple[int, int], open_screen: Callable) -> None:
    screen = open_screen(size)
    kind = Type(size)
    width, height = size
    image = drawn(screen, full_view(notice="", sign="", progress=None, filming=None, error=""))
    bare = drawn(screen, ScreenState((GREEN,), overlay=False))
    changed = (image != bare).any(axis=2)
    for corner in (changed[: height // 3, : width // 2], changed[: height // 3, width // 2 :]):
        assert corner.any()
    # Between the corner panels, and between the clusters and what is above them, the picture is free.
    assert not changed[height // 3 : height - kind.px(90)].any()
    assert not changed[: height // 3, width // 2 + kind.px(30) : width - kind.px(140)].any()


@pytest.mark.parametrize("size", [(640, 400), (960, 600), (1920, 1080), (600, 900)])
def test_the_names_of_two_worlds_are_covered_by_no_panel(
    size: tuple[int, int], open_screen: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = full_view(
        pictures=(GREEN, BLUE),
        captions=("testcard, seed 12", "testcard, seed 345678"),
        walks=(WALK, WALK),
        notice="",
        sign="",
        progress=None,
        filming=None,
        error="",
    )
    placed = watch(monkeypatch, size)
    open_screen(size).draw(view)
    for index, rect in enumerate(placed):
        assert rect.collidelist(placed[:index]) < 0


def test_keys_light_up_in_their_cluster(open_screen: Callable) -> None:
    screen = open_screen((640, 400))

    def lit(*held: str) -> np.ndarray:
        image = drawn(screen, ScreenState((GREEN,), held=frozenset(held)))
        return np.argwhere((np.abs(image.astype(int) - overlay.LIT) < 30).all(axis=2))

    assert len(lit()) == 0
    centres = {key: lit(key).mean(axis=0) for key in ("w", "a", "s", "d", "up", "left", "down", "right")}
    for up, left, down, right in (("w", "a", "s", "d"), ("up", "left", "down", "right")):
        assert centres[up][0] < centres[left][0]
        assert centres[left][1] < centres[down][1] < centres[right][1]
        assert abs(centres[up][1] - centres[down][1]) < 3
    assert centres["d"][1] < 320 < centres["left"][1]
    assert min(centre[0] for centre in centres.values()) > 300


@pytest.mark.parametrize("size", [(640, 400), (1000, 400), (400, 800)])
def test_the_picture_keeps_its_shape_and_fills_the_window(size: tuple[int, int], open_screen: Callable) -> None:
    image = drawn(open_screen(size), ScreenState((GREEN,), overlay=False))
    rows, columns = np.nonzero((image != BACKGROUND).any(axis=2))
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert width / height == pytest.approx(160 / 96, rel=0.02)
    assert width == size[0] or height == size[1]


@pytest.mark.parametrize(("size", "beside"), [((640, 400), True), ((400, 800), False)])
def test_two_pictures_are_beside_or_below_each_other(
    size: tuple[int, int], beside: bool, open_screen: Callable
) -> None:
    image = drawn(open_screen(size), ScreenState((GREEN, BLUE), ("one", "two"), overlay=False))
    green, blue = (np.argwhere(image[:, :, channel] > 120) for channel in (1, 2))
    assert len(green) == pytest.approx(len(blue), rel=0.05)
    axis = 1 if beside else 0
    assert green[:, axis].max() < blue[:, axis].min()


def test_a_hidden_overlay_leaves_the_picture_and_what_cannot_be_missed(open_screen: Callable) -> None:
    screen = open_screen((640, 400))
    bare = drawn(screen, ScreenState((GREEN,), overlay=False))
    hidden = full_view(overlay=False, notice="", sign="", progress=None, filming=None, error="")
    np.testing.assert_array_equal(drawn(screen, hidden), bare)
    for shown in ({"paused": True}, {"error": "the world stopped"}, {"typing": "snow"}, {"sign": "..."}):
        assert (drawn(screen, ScreenState((GREEN,), overlay=False, **shown)) != bare).any()


def test_the_map_turns_with_the_camera_and_marks_memory_and_bookmark() -> None:
    pygame.font.init()
    kind = Type((640, 400))

    def marks(walk: Walk, colour: tuple[int, ...]) -> np.ndarray:
        image = pygame.surfarray.array3d(overlay.draw_map(kind, 200, [walk])).swapaxes(0, 1)
        return np.argwhere((image == colour[:3]).all(axis=2))

    straight = np.array([[0.0, 0.0], [0.0, 4.0]])
    ahead = Walk(straight, np.array([0.0, 1.0]), np.array([[0.0, 2.0]]), np.array([0.0, 0.0]))
    assert len(marks(ahead, overlay.REMEMBERED)) > 5
    middle = marks(ahead, overlay.REMEMBERED).mean(axis=0)
    start, here = marks(ahead, overlay.FAINT).mean(axis=0), marks(ahead, overlay.INK).mean(axis=0)
    assert here[0] < middle[0] < start[0]  # forward is up
    assert len(marks(ahead, overlay.LIT)) > 5
    sideways = Walk(straight, np.array([1.0, 0.0]))
    pointing = marks(sideways, overlay.INK)
    heights = [np.count_nonzero(pointing[:, 1] == column) for column in np.unique(pointing[:, 1])]
    assert heights[0] > heights[-1]  # a triangle that is pointed on the right


def test_the_map_shows_a_bookmark_that_the_walk_does_not_come_near() -> None:
    pygame.font.init()
    walk = Walk(np.zeros((1, 2)), np.array([0.0, 1.0]), bookmark=np.array([30.0, -9.0]))
    image = pygame.surfarray.array3d(overlay.draw_map(Type((640, 400)), 200, [walk]))
    assert (image == overlay.LIT).all(axis=2).sum() > 5


def test_the_map_shows_what_the_first_world_remembers_where_both_went_the_same_way() -> None:
    pygame.font.init()
    path = np.array([[0.0, 0.0], [0.0, 4.0]])
    dreamt = Walk(path, np.array([0.0, 1.0]), np.array([[0.0, 1.0], [0.0, 2.0]]))

    def remembered(*walks: Walk) -> int:
        image = pygame.surfarray.array3d(overlay.draw_map(Type((640, 400)), 200, walks))
        return int((image == overlay.REMEMBERED).all(axis=2).sum())

    assert remembered(dreamt, Walk(path, np.array([0.0, 1.0]))) == remembered(dreamt) > 10


def test_long_texts_are_broken_into_lines_and_cut_with_an_ellipsis() -> None:
    pygame.font.init()
    kind = Type((640, 400))
    lines = kind.wrapped(200, ("word " * 40 + "x" * 200).split(), kind.text)
    assert len(lines) > 5
    assert all(kind.text.size(line)[0] <= 200 for line in lines)
    assert lines[-1].endswith("...")


def test_an_error_keeps_its_lines(open_screen: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    said = in_words(RuntimeError("\nno weights:\n  one.safetensors\n  two.safetensors\n"))
    assert said == "no weights:\n  one.safetensors\n  two.safetensors"
    assert in_words(FileNotFoundError(2, "No such file", "a.png")) == "a.png: No such file"
    assert in_words(KeyboardInterrupt()) == "KeyboardInterrupt"
    placed = watch(monkeypatch, (640, 400))
    screen = open_screen((640, 400))
    heights = []
    for error in (said.replace("\n", " "), said, "line\n" * 6, "line\n" * 60):
        placed.clear()
        screen.draw(ScreenState((GREEN,), overlay=False, error=error))
        heights.append(placed[-1].height)
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_without_a_display_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoDisplay, match="no display to open a window on"):
        Screen("test", (640, 400))


def test_a_display_that_does_not_answer_is_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "no-such-driver")
    with pytest.raises(NoDisplay, match="no display to open a window on"):
        Screen("test", (640, 400))
