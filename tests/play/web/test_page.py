"""The page in Chromium: what a person sees and does there."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import read_film
from PIL import Image
from played import PATIENCE, until
from served import Served, served
from tunnel import Tunnel

pytest.importorskip("playwright", reason="Playwright is not installed")

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
DROP = """base64 => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
    document.getElementById("picture").dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
}"""
"""Drops a picture on the view."""
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    context.set_default_timeout(1000 * PATIENCE)
    yield context
    context.close()


def opened(context: BrowserContext, site: Served, port: int | None = None) -> Page:
    """Open the page and wait until it shows the world."""
    page = context.new_page()
    page.goto(site.page.address.replace(str(site.page.port), str(port or site.page.port)))
    page.locator("#map").wait_for()
    return page


def on_canvas(page: Page) -> np.ndarray:
    """Return the picture on the page, uint8 [height, width, 3]."""
    url = page.evaluate("document.getElementById('picture').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def settled(page: Page, site: Served) -> np.ndarray:
    """Pause, and return the picture once it is the one that the server shows."""
    page.get_by_role("button", name="Pause").click()
    picture = on_canvas(page)

    def same() -> bool:
        nonlocal picture
        picture = on_canvas(page)
        truth = site.presenter.session.history.pictures
        return site.presenter.session.paused and bool(truth) and _difference(picture, truth[0]) < 6

    until(same)
    page.get_by_role("button", name="Pause").click()
    return picture


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def shift(before: np.ndarray, after: np.ndarray) -> int:
    """Return by how many pixels a picture moved to the right."""
    width, reach = before.shape[1], before.shape[1] // 3
    middle = before[:, reach : width - reach].astype(float)
    return min(
        range(-reach + 1, reach), key=lambda by: _difference(middle, after[:, reach + by : width - reach + by])
    )


def walked(site: Served, key: str) -> int:
    """Return how many latent frames of the chunks on the way were made from a key."""
    return sum(key in keys for record in site.presenter.session.history.whole for keys in record.keys)


def test_the_video_moves_as_the_keys_say_and_they_light_up(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, world="scene", fps=32) as site:
        page = opened(context, site)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        before = settled(page, site)
        page.keyboard.down("ArrowRight")
        expect(page.get_by_role("button", name="look right")).to_have_class("lit")
        until(lambda: walked(site, "right") >= 3)
        page.keyboard.up("ArrowRight")
        expect(page.get_by_role("button", name="look right")).not_to_have_class("lit")
        assert shift(before, settled(page, site)) < -3
        expect(page.locator("#figures")).to_contain_text("key to picture")
        assert said == []


def test_what_the_keyboard_and_buttons_do(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path) as site:
        page = opened(context, site)
        history = site.presenter.session.history
        page.keyboard.press("b")
        expect(page.locator("#notice")).to_have_text("bookmarked: N comes back here")
        page.get_by_role("button", name="Film").click()
        expect(page.locator("#filming")).to_contain_text("film 0.")
        until(lambda: len(history.records) > len(history.bookmark.records) + 2)
        # A busy machine shows fewer pictures of a chunk: wait for 15, at 60 a second of film.
        expect(page.locator("#filming")).to_contain_text(re.compile(r"film (0\.[3-9]|[1-9])"))
        page.get_by_role("button", name="Film").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="film-001.mp4").click()
        download.value.save_as(tmp_path / "film.mp4")
        assert len(read_film(tmp_path / "film.mp4").frames) > 10
        page.get_by_role("button", name="Go back").click()
        until(lambda: len(history.records) <= len(history.bookmark.records) + 1)
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()


def test_another_way_is_taken_from_the_past(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path) as site:
        page = opened(context, site)
        history = site.presenter.session.history
        until(lambda: len(history.records) > 3)
        slider = page.get_by_role("slider", name="Back in time")
        slider.fill("0")
        until(lambda: site.presenter.session.paused)
        chunks = len(history.records)
        page.get_by_role("button", name="Another way from here").click()
        until(lambda: len(history.records) < chunks and not site.presenter.session.paused)
        expect(page.get_by_role("button", name="Another way from here")).to_be_disabled()


def test_worlds_begin_from_a_picture_with_a_prompt_or_from_the_gallery(
    context: BrowserContext, tmp_path: Path
) -> None:
    Image.new("RGB", (60, 40), (200, 40, 40)).save(tmp_path / "red.png")
    with served(tmp_path) as site:
        page = opened(context, site)
        page.locator("#file").set_input_files(tmp_path / "red.png")
        until(lambda: site.presenter.session.panels[0].start.name == "picture")
        expect(page.get_by_role("textbox", name="Prompt")).to_be_disabled()  # a test picture takes none
        page.get_by_role("button", name="snow").click()
        until(lambda: site.presenter.session.panels[0].start.name == "snow")
        page.evaluate(DROP, base64.b64encode((tmp_path / "red.png").read_bytes()).decode())
        until(lambda: site.presenter.session.panels[0].start.name == "picture")
        (tmp_path / "text.png").write_text("no picture")
        page.locator("#file").set_input_files(tmp_path / "text.png")
        expect(page.locator("#line")).to_contain_text("not a picture of a known kind")


def test_a_page_whose_line_was_cut_goes_on_where_it_was(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path) as site:
        tunnel = Tunnel(site.page.port)
        page = opened(context, site, tunnel.port)
        session = site.presenter.session
        page.keyboard.down("w")
        until(lambda: session.held == {"w"})
        tunnel.cut()
        until(lambda: session.held == frozenset())  # nobody holds it any more
        shown = session.frames_shown
        until(lambda: not session.paused and session.frames_shown > shown + 5)
        expect(page.locator("#line")).to_be_empty()
        assert site.presenters == [site.presenter]
        tunnel.close()


def test_the_second_tab_watches_and_the_third_is_told_that_there_is_no_place(
    context: BrowserContext, tmp_path: Path
) -> None:
    with served(tmp_path, watch=1) as site:
        player, watcher = opened(context, site), opened(context, site)
        expect(watcher.locator("#line")).to_have_text("watching")
        expect(watcher.get_by_role("button", name="Start over")).to_be_hidden()
        expect(player.get_by_role("button", name="Start over")).to_be_visible()
        third = context.new_page()
        third.goto(site.page.address)
        expect(third.locator("#line")).to_contain_text("somebody plays already")


def test_a_phone_shows_worlds_below_each_other_and_takes_touches(browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 860}, has_touch=True, color_scheme="light")
    with served(tmp_path, compare="1") as site:
        page = opened(context, site)
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        height, width, _ = site.presenter.session.history.pictures[0].shape
        until(lambda: on_canvas(page).shape == (2 * height, width, 3))
        assert page.locator("#captions span").all_text_contents() == ["testcard, seed 0", "testcard, seed 1"]
        page.get_by_role("button", name="forward").tap()
        until(lambda: walked(site, "w"))
        page.set_viewport_size({"width": 1000, "height": 700})
        until(lambda: on_canvas(page).shape == (height, 2 * width, 3))
    context.close()


def test_a_gamepad_s_left_stick_moves_and_its_right_stick_looks(context: BrowserContext, tmp_path: Path) -> None:
    context.add_init_script("navigator.getGamepads = () => [null, {connected: true, axes: window.sticks ?? []}]")
    with served(tmp_path) as site:
        page = opened(context, site)

        def push(*axes: Any) -> None:
            page.evaluate("axes => { window.sticks = axes; }", list(axes))

        push(0, -1, 0.8, 0)
        until(lambda: site.presenter.session.held == {"w", "right"})
        push(0, 0.1, 0, 0)
        until(lambda: site.presenter.session.held == frozenset())
