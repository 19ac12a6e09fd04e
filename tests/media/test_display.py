"""What windows look like from outside, and how their letters are spaced."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import pygame
import pytest

from worldplay_env.media.display import NAME, open_display, open_window
from worldplay_env.media.lettering import Lettering

CLASSES = ("SDL_VIDEO_X11_WMCLASS", "SDL_VIDEO_WAYLAND_WMCLASS")
TEXT = "key to picture 0.77 s, forward + yaw right"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    pygame.font.quit()
    pygame.display.quit()


@pytest.mark.parametrize("before", [None, os.path.basename(sys.argv[0]), "mine"])
def test_windows_are_of_the_project_s_class_unless_the_user_gave_another(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CLASSES:
        monkeypatch.setenv(name, before or "")
        if before is None:
            monkeypatch.delenv(name)
    open_display()
    assert [os.environ[name] for name in CLASSES] == ["mine" if before == "mine" else NAME] * 2


def test_windows_have_an_icon(monkeypatch: pytest.MonkeyPatch) -> None:
    icons: list[pygame.Surface] = []
    monkeypatch.setattr(pygame.display, "set_icon", icons.append)
    assert open_window("a title", (64, 48)).get_size() == (64, 48)
    assert pygame.display.get_caption()[0] == "a title"
    [icon] = icons
    assert len(np.unique(pygame.surfarray.array3d(icon).reshape(-1, 3), axis=0)) > 8
    open_window("another", (80, 48))  # the same window: it has its icon
    assert len(icons) == 1


@pytest.mark.parametrize("height", [13, 14, 16, 18, 24])
def test_letters_keep_the_spacing_of_their_font_at_small_sizes(height: int) -> None:
    pygame.font.init()
    ideal = pygame.font.Font(None, 32 * height)
    letters = Lettering(height)
    drawn = pygame.surfarray.array_alpha(letters.render(TEXT, (255, 255, 255))).max(axis=1)  # of each column
    assert drawn.shape == (letters.size(TEXT)[0],)
    large = pygame.surfarray.array_alpha(ideal.render(TEXT, True, (255, 255, 255))).max(axis=1)
    for letter in range(1, len(TEXT)):
        assert letters.size(TEXT[:letter])[0] == pytest.approx(ideal.size(TEXT[:letter])[0] / 32, abs=2.5)
    assert np.flatnonzero(drawn > 64).max() == pytest.approx(np.flatnonzero(large).max() / 32, abs=3)


def test_a_text_is_drawn_once_and_in_its_colour() -> None:
    pygame.font.init()
    letters = Lettering(18)
    red = letters.render("W", (255, 0, 0))
    assert letters.render("W", (255, 0, 0)) is red
    pixels, alpha = pygame.surfarray.array3d(red), pygame.surfarray.array_alpha(red)
    assert alpha.max() == 255
    assert alpha.min() == 0
    assert (pixels[alpha > 0] == (255, 0, 0)).all()
