"""Measure the player's page in Chromium: `python tests/support/page_timings.py [--seconds 20]`.

Prints how steadily frames are drawn, how long a key takes beyond the world's own time, how late frames come over a
line of 2 Mbit/s, and the share of a core that the server takes beside the world.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from playwright.sync_api import Browser, Page, sync_playwright
from served import Served, served
from tunnel import Tunnel

import worldplay_env
from worldplay_env.worlds.testcard import Testcard

SLOW = 2e6 / 8
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SIZES = {"testcard": None, "testcard-704x1280": (704, 1280)}
WATCH_DRAWING = """
    window.drawn = [];
    const draw = CanvasRenderingContext2D.prototype.drawImage;
    CanvasRenderingContext2D.prototype.drawImage = function (...given) {
      drawn.push(document.timeline.currentTime);
      return draw.apply(this, given);
    };
"""
"""Notes when the page draws a frame."""


@dataclass(frozen=True)
class Args:
    """Measure the player's page in Chromium."""

    seconds: float = 20.0
    """How long each measurement takes."""


def opened(browser: Browser, site: Served) -> Page:
    """Open the page and wait until it shows the world."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(WATCH_DRAWING)
    page.goto(site.page.address)
    page.locator("#map").wait_for()
    return page


def steadiness(page: Page, site: Served, seconds: float) -> str:
    """Return what the intervals between drawn frames are."""
    time.sleep(2)
    page.evaluate("drawn.length = 0")
    time.sleep(seconds)
    intervals = np.diff(page.evaluate("drawn"))
    nominal = 1000 / site.presenter.session.fps
    # A display of 60 Hz has intervals of 50 and 66.7 ms, give or take its own jitter: 50 is 20 % less than 62.5.
    steady = np.mean(np.abs(intervals - nominal) <= 0.2 * nominal + 0.5)
    return f"{steady:.1%} of {len(intervals)} intervals within 20 % of {nominal:.1f} ms, longest {max(intervals):.0f}"


def key_to_picture(page: Page, site: Served, seconds: float) -> str:
    """Return how much longer a key takes on the page than in the session."""
    beyond = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        page.keyboard.press("ArrowRight", delay=60)
        time.sleep(2)
        words = page.locator("#figures li", has_text="key to picture").text_content() or ""
        on_page, in_session = float(words.split()[3]), site.presenter.session.figures().key_to_frame
        beyond.append(1000 * (on_page - (in_session or 0)))
    return f"{np.median(beyond):.0f} ms beyond the session's, median of {len(beyond)} keys, most {max(beyond):.0f}"


def lateness(site: Served, seconds: float) -> str:
    """Return how old frames are that come over a slow line."""
    line = Tunnel(site.page.port, SLOW)
    client = site.connect(port=line.port)
    lags: list[float] = []
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        known = len(client.numbers)
        client.take()
        if len(client.numbers) > known and client.picture is not None:
            lags.append(time.monotonic() - client.picture.shown_at)
    client.socket.close()
    line.close()
    late = lags[len(lags) // 4 :]
    rate, size = len(lags) / seconds, len(client.picture.jpeg) / 1000 if client.picture else 0
    ages = f"{np.median(late):.2f} s old (median), {max(late):.2f} s (most)"
    return f"{rate:.1f} frames of {size:.0f} kB a second, {ages}"


def server_share(site: Served, seconds: float) -> str:
    """Return which share of a core the threads of player and server take."""
    names = {site.thread.native_id: "player"}
    names |= {one.native_id: "server" for one in threading.enumerate() if one.name == "worldplay-server"}

    def used() -> float:
        ticks = 0
        for thread in names:
            fields = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(seconds)
    return f"{(used() - before) / seconds:.1%} of a core, for encoding and serving"


def main() -> None:
    """Run the program."""
    args = tyro.cli(Args)
    chromium = shutil.which("chromium") or sys.exit("no Chromium is installed")
    for name, size in SIZES.items():
        if size is not None:
            worldplay_env.register_world(name, functools.partial(Testcard, size), spec=Testcard(size).spec)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for world in SIZES:
            with tempfile.TemporaryDirectory() as folder, served(Path(folder), world=world, fps=16) as site:
                page = opened(browser, site)
                measures: list[Callable[[], str]] = [
                    functools.partial(steadiness, page, site, args.seconds),
                    functools.partial(key_to_picture, page, site, args.seconds),
                    functools.partial(server_share, site, args.seconds),
                ]
                for measure in measures:
                    print(f"{world}: {measure()}; load {os.getloadavg()[0]:.1f}", flush=True)
                page.close()
            with tempfile.TemporaryDirectory() as folder, served(Path(folder), world=world, fps=16) as site:
                print(f"{world}, 2 Mbit/s: {lateness(site, args.seconds)}", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
