"""The page's server on its real protocol: who gets in, what is shown, and what a player can do."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from films import read_film
from PIL import Image
from served import Client, Served, served
from websockets.exceptions import InvalidStatus

from worldplay_env.play.__main__ import main
from worldplay_env.play.web import server
from worldplay_env.play.web.access import COOKIE


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, watch=1) as site:
        yield site


def playing(client: Client) -> Client:
    """Wait until frames come."""
    client.until(lambda: client.state.get("walks") and client.picture)
    return client


def heading(client: Client) -> list[float]:
    return client.state["walks"][0]["heading"]


def png(colour: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), colour, np.uint8)).save(file, "PNG")
    return file.getvalue()


# ---- who gets in


def test_the_token_opens_the_page_and_a_cookie_the_rest(site: Served) -> None:
    status, body, headers = site.request(f"/?token={site.page.token}", Cookie="")
    assert (status, b"<canvas" in body) == (200, True)
    assert headers["set-cookie"] == f"{COOKIE}={site.page.token}; HttpOnly; SameSite=Strict; Path=/"
    assert "default-src 'none'" in headers["content-security-policy"]
    for path, kind in (("/page.js", "text/javascript"), ("/page.css", "text/css"), ("/icon.svg", "image/svg+xml")):
        status, body, headers = site.request(path)
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
    assert Image.open(io.BytesIO(site.request("/starts/snow")[1])).size[0] > 0


@pytest.mark.parametrize("path", ["/", "/page.js", "/files/0", "/?token=wrong", "/?token=%C3%A9"])
def test_without_the_token_there_is_nothing(site: Served, path: str) -> None:
    for cookie in ("", f"{COOKIE}=wrong", "=;=;="):
        status, body, headers = site.request(path, Cookie=cookie)
        assert (status, body.startswith(b"open the address")) == (403, True)
        assert "set-cookie" not in headers


def test_other_names_and_other_sites_are_refused(site: Served) -> None:
    assert site.request("/", Host="evil.example")[0] == 403
    assert site.request("/", Host=f"localhost:{site.page.port}")[0] == 200
    assert site.request("/", Host="localhost:9000")[0] == 200  # the near end of a tunnel
    client = playing(site.connect())
    for origin in ("http://evil.example", "null", f"http://localhost:{site.page.port}"):
        assert site.request(f"/picture?client={client.name}", "POST", png(9), Origin=origin)[0] == 403
        with pytest.raises(InvalidStatus):
            site.connect(origin=origin)
    with pytest.raises(InvalidStatus):
        site.connect(token="wrong")
    playing(client)


@pytest.mark.parametrize("path", ["/files/../page.js", "/files/0", "/starts/..%2Fstarts.json", "/page.html"])
def test_no_path_of_a_client_is_opened(site: Served, path: str) -> None:
    assert site.request(path)[0] == 404


# ---- playing


def test_frames_come_numbered_and_keys_turn_the_camera(site: Served) -> None:
    client = playing(site.connect())
    assert client.hello["role"] == "player"
    assert "snow" in client.hello["starts"]
    before, said_at = client.image, 1000 * time.monotonic()
    client.say("key", key="right", down=True, at=said_at)
    client.until(lambda: client.state["held"] == ["right"])
    client.until(lambda: heading(client)[0] > 0.1)
    assert (client.image != before).any()
    assert client.answers == pytest.approx(said_at, abs=0.01)
    client.say("release")
    client.until(lambda: client.state["held"] == [])
    assert client.numbers == sorted(set(client.numbers))


def test_commands_do_as_they_say_and_the_film_can_be_downloaded(site: Served) -> None:
    client = playing(site.connect())
    client.say("command", command="film")
    client.until(lambda: (client.state["filming"] or 0) > 0.2)
    client.say("command", command="film")
    client.say("command", command="picture")
    client.until(lambda: client.state["files"] == ["film-001.mp4", "picture-001.png"])
    status, body, headers = site.request("/files/0")
    assert status == 200
    assert 'filename="film-001.mp4"' in headers["content-disposition"]
    (site.recorder.folder / "download.mp4").write_bytes(body)
    assert len(read_film(site.recorder.folder / "download.mp4").frames) > 10

    client.say("command", command="bookmark")
    client.until(lambda: client.state["walks"] and client.state["walks"][0]["bookmark"])
    client.say("prompt", text=" it snows ")
    client.until(lambda: client.state["notice"] == "from the next second on: it snows" or client.state["notice"])
    client.say("command", command="pause")
    client.until(lambda: client.state["paused"])
    shown = site.presenter.session.frames_shown
    client.say("command", command="pause")
    client.until(lambda: site.presenter.session.frames_shown > shown)


def test_another_way_is_taken_from_an_earlier_chunk(site: Served) -> None:
    client = playing(site.connect())
    client.say("key", key="w", down=True, at=1000 * time.monotonic())
    client.until(lambda: client.picture.chunk >= 3)
    client.say("rewind", chunk=1)
    client.until(lambda: client.picture.chunk == 1)
    client.say("rewind", chunk=10**6)
    client.until(lambda: client.state["notice"] == "that is too long ago to go back to")


def test_a_world_begins_from_a_picture_of_one_s_own_or_a_bundled_one(site: Served) -> None:
    client = playing(site.connect())
    path = f"/picture?client={client.name.replace(' ', '+')}&prompt=fog"
    assert site.request(path, "POST", png(200))[0] == 204
    client.until(lambda: site.presenter is not site.presenters[0])
    assert site.presenter.session.panels[0].start.prompt == "fog"
    client.until(lambda: np.abs(client.image[5:-5].astype(int) - 200).mean() < 60)
    client.say("start", name="snow")
    client.until(lambda: site.presenter.session.panels[0].start.name == "snow")
    client.say("start", name="../../etc/passwd")
    client.until(lambda: "there is no bundled picture" in client.state["notice"])
    playing(client)


def test_what_is_no_picture_is_refused_in_words(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = playing(site.connect())
    path = f"/picture?client={client.name.replace(' ', '+')}"
    for body in (b"", b"GIF89a", b"<svg/>", png(9)[:60]):
        status, said, _ = site.request(path, "POST", body)
        assert status == 422
        assert said.endswith(b"\n")
    assert site.request(path.replace("page", "other"), "POST", png(9))[0] == 403
    assert site.request(path, "POST", bytes(server.LARGEST_UPLOAD + 1))[0] == 413
    assert len(site.presenters) == 1
    playing(client)


def test_a_port_that_is_taken_is_one_line(site: Served, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["--world", "testcard", "--web", "--port", str(site.page.port)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: cannot serve on 127.0.0.1, port {site.page.port}: Address already in use\n"
    )


@pytest.mark.parametrize("option", [["--port", "70000"], ["--watch", "65"], ["--idle", "0"], ["--idle", "nan"]])
def test_what_cannot_be_served_is_one_line(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--world", "testcard", "--web", *option]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option[0]} is a ")
