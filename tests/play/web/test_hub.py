"""Viewers who come and go, watch, fall silent or misbehave: the player goes on."""

from __future__ import annotations

import gc
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from played import PATIENCE, until
from served import Client, Served, served
from tunnel import Tunnel
from websockets.exceptions import ConnectionClosed

from worldplay_env.play.web.hub import BURST, IN_FLIGHT, Close, Viewer
from worldplay_env.play.web.protocol import LONGEST_MESSAGE

TOO_BIG = 1009
"""The WebSocket protocol's code for a message that is too long."""


def playing(client: Client) -> Client:
    client.until(lambda: client.state.get("walks") and client.picture)
    return client


def closed_with(client: Client) -> int:
    """Return why the server closes a connection."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        try:
            client.take(acknowledge=False)
        except ConnectionClosed as closed:
            return 0 if closed.rcvd is None else closed.rcvd.code
    raise AssertionError("the connection stayed open")


def test_the_world_waits_while_nobody_plays_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        until(lambda: site.presenter.session.loaded)
        session = site.presenter.session
        assert (session.paused, session.frames_shown) == (True, 0)
        client = playing(site.connect("me"))
        client.say("key", key="w", down=True, at=1.0)
        client.until(lambda: session.held == {"w"})
        client.socket.close()
        until(lambda: session.paused)
        assert session.held == frozenset()
        shown = session.frames_shown
        again = site.connect("me")
        again.until(lambda: session.frames_shown > shown)
        assert not session.paused


def test_the_same_page_on_a_new_line_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        before = playing(site.connect("me"))
        after = playing(site.connect("me"))
        assert closed_with(before) == Close.REPLACED
        assert after.hello["role"] == "player"


def test_others_watch_if_they_may_and_their_keys_do_not_count(tmp_path: Path) -> None:
    with served(tmp_path, watch=1) as site:
        player, watcher = playing(site.connect()), playing(site.connect())
        assert [client.hello["role"] for client in (player, watcher)] == ["player", "watcher"]
        watcher.say("key", key="w", down=True, at=1.0)
        watcher.say("command", command="restart")
        player.say("key", key="left", down=True, at=1.0)
        watcher.until(lambda: watcher.state["held"] == ["left"])
        with pytest.raises(ConnectionClosed) as caught:
            site.connect()
        assert caught.value.rcvd.code == Close.OCCUPIED


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("garbage", Close.BAD_MESSAGE),
        ('{"type": "key", "key": "q", "down": true, "at": 0}', Close.BAD_MESSAGE),
        (b"bytes", Close.BAD_MESSAGE),
        ("x" * (LONGEST_MESSAGE + 1), TOO_BIG),
        ("x" * 2_000_000, TOO_BIG),
    ],
)
def test_who_breaks_the_protocol_is_disconnected_and_can_come_again(
    tmp_path: Path, message: str | bytes, code: int
) -> None:
    with served(tmp_path) as site:
        client = playing(site.connect())
        client.socket.send(message)
        assert closed_with(client) == code
        playing(site.connect())


def test_a_flood_is_cut_off(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        client = playing(site.connect())
        for _ in range(2 * int(BURST)):
            client.say("release")
        assert closed_with(client) == Close.TOO_FAST
        playing(site.connect())


def test_who_does_nothing_is_disconnected_but_may_watch(tmp_path: Path) -> None:
    with served(tmp_path, idle=0.5 / 60, watch=1) as site:
        player, watcher = site.connect(), site.connect()
        assert closed_with(player) == Close.IDLE
        watcher.take()
        until(lambda: site.presenter.session.paused)


def test_a_viewer_that_takes_nothing_holds_up_nobody(tmp_path: Path) -> None:
    with served(tmp_path, watch=2) as site:
        player, deaf = playing(site.connect()), site.connect()
        newest = player.numbers[-1]
        player.until(lambda: player.numbers[-1] > newest + 90)
        for _ in range(2 * IN_FLIGHT + 6):
            deaf.take(acknowledge=False)
        assert len(deaf.numbers) <= IN_FLIGHT


def test_a_viewer_on_a_slow_line_gets_the_newest_frame_once_it_has_taken_the_others(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        client = playing(site.connect())
        session, known = site.presenter.session, len(client.numbers)
        later = session.frames_shown + 60
        while session.frames_shown < later:
            client.take(acknowledge=False)
        held_back = client.numbers[known:]
        assert len(held_back) <= IN_FLIGHT
        client.say("ack", frame=client.numbers[-1])
        client.until(lambda: len(client.numbers) > known + len(held_back))
        assert client.numbers[known + len(held_back)] > held_back[-1] + 30
        client.until(lambda: client.numbers[-1] == client.numbers[-2] + 1)


def test_a_slow_line_carries_fewer_frames_and_none_of_them_late(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        line = Tunnel(site.page.port, rate=30_000)
        client = playing(site.connect(port=line.port))
        lags: list[float] = []
        for _ in range(36):
            known = len(client.numbers)
            client.take()
            if len(client.numbers) > known:
                lags.append(time.monotonic() - client.picture.shown_at)
        line.close()
        assert client.numbers[-1] - client.numbers[0] > 2 * len(client.numbers)
        assert np.median(lags[len(lags) // 2 :]) < 1


def test_connections_that_never_ask_for_anything_leave_the_player_alone(tmp_path: Path) -> None:
    with served(tmp_path) as site, ExitStack() as half_open:
        player = playing(site.connect())
        for begun in (b"", b"GET / HT", b"POST /picture HTTP/1.1\r\nContent-Length: 9999\r\n\r\nxx", b"\0" * 5000):
            for _ in range(8):
                peer = half_open.enter_context(socket.create_connection(("127.0.0.1", site.page.port)))
                peer.sendall(begun)
        newest = player.numbers[-1]
        player.until(lambda: player.numbers[-1] > newest + 30)
        assert site.request("/")[0] == 200


def test_nothing_stays_of_who_has_left(tmp_path: Path) -> None:
    with served(tmp_path, watch=30) as site:
        player = playing(site.connect())
        for _ in range(30):
            site.connect().socket.close()

        def left() -> bool:
            player.take()
            gc.collect()
            return sum(type(one) is Viewer for one in gc.get_objects()) == 1

        until(left)


def test_two_hundred_connections_leave_the_player_alone(tmp_path: Path) -> None:
    with served(tmp_path, watch=3) as site:
        player = playing(site.connect())
        watchers: list[Client] = []
        refused = 0
        for _ in range(200):
            try:
                watchers.append(site.connect())
            except ConnectionClosed:
                refused += 1
        assert (len(watchers), refused) == (3, 197)
        newest = player.numbers[-1]
        player.until(lambda: player.numbers[-1] > newest + 5)


def test_the_end_of_the_program_is_told(tmp_path: Path) -> None:
    site = Served(tmp_path)
    client = playing(site.connect())
    site.close()
    assert closed_with(client) == Close.OVER
