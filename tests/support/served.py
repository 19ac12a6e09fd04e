"""The player's page, served on this machine for a test, and pages that speak its protocol."""

from __future__ import annotations

import functools
import http.client
import io
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from played import PATIENCE, until
from websockets.sync.client import ClientConnection, connect

from worldplay_env.play.__main__ import begin
from worldplay_env.play.plan import Args, Plan, make_plan
from worldplay_env.play.presenter import Presenter
from worldplay_env.play.recorder import Recorder
from worldplay_env.play.web.access import COOKIE
from worldplay_env.play.web.protocol import HEADER, Picture
from worldplay_env.play.web.server import Page

_names = itertools.count()


class Served:
    """A page that is being served."""

    def __init__(self, folder: Path, **options: Any) -> None:
        options = {"world": "testcard", "fps": 60, "port": 0, "web": True, "out": folder} | options
        args = Args(**options)
        plan = make_plan(args)
        self.recorder = Recorder(folder, plan.fps, 1)
        self.presenters: list[Presenter] = []
        self._stack = ExitStack()
        self.page = Page(args, plan, self._begin(args))
        self._begin(args)(plan)
        self.thread = threading.Thread(target=self.page.show, args=(self.presenters[0],))
        self.thread.start()

    def _begin(self, args: Args) -> Callable[[Plan], Presenter]:
        start = functools.partial(begin, args, self.recorder, None)

        def remembered(plan: Plan) -> Presenter:
            self.presenters.append(start(plan))
            return self.presenters[-1]

        return remembered

    @property
    def presenter(self) -> Presenter:
        """What is played."""
        return self.presenters[-1]

    def request(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers of an answer; the cookie is sent unless another is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=PATIENCE)
        own = {"Cookie": f"{COOKIE}={self.page.token}", "Origin": self.origin}
        connection.request(method, path, body, {**own, **headers})
        answer = connection.getresponse()
        result = answer.status, answer.read(), dict(answer.getheaders())
        connection.close()
        return result

    @property
    def origin(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.page.port}"

    def connect(
        self,
        client: str | None = None,
        *,
        token: str | None = None,
        origin: str | None = None,
        port: int | None = None,
    ) -> Client:
        """Open a socket as a page does, through a tunnel if the port of one is given."""
        port = port or self.page.port
        client = client or f"page-{next(_names)}"
        opening = connect(
            f"ws://127.0.0.1:{port}/socket?client={client.replace(' ', '+')}",
            additional_headers={"Cookie": f"{COOKIE}={self.page.token if token is None else token}"},
            origin=origin or f"http://127.0.0.1:{port}",  # type: ignore[arg-type]
            proxy=None,
            ping_interval=None,
            close_timeout=1,
        )
        return Client(self._stack.enter_context(opening), client)

    def close(self) -> None:
        """Stop serving."""
        self.presenter.leaving = True
        self.thread.join(PATIENCE)
        self._stack.close()
        self.recorder.close()
        for presenter in self.presenters:
            presenter.session.close(timeout=PATIENCE)
        assert not self.thread.is_alive()


class Client:
    """A page, in so far as the server notices."""

    def __init__(self, socket: ClientConnection, name: str) -> None:
        self.socket, self.name = socket, name
        self.hello: dict[str, Any] = json.loads(socket.recv(timeout=PATIENCE))
        self.state: dict[str, Any] = {}
        self.picture: Picture | None = None
        self.answers: float | None = None
        """Milliseconds of the page's clock at which the key went down that the newest answering frame answers."""
        self.numbers: list[int] = []

    def say(self, kind: str, **fields: Any) -> None:
        """Send a message."""
        self.socket.send(json.dumps({"type": kind, **fields}))

    def take(self, *, acknowledge: bool = True, timeout: float = PATIENCE) -> None:
        """Take one message from the server."""
        message = self.socket.recv(timeout=timeout)
        if isinstance(message, str):
            self.state = json.loads(message)
            return
        number, chunk, index, shown_at, pressed_at = HEADER.unpack_from(message)
        self.picture = Picture(number, chunk, index, shown_at / 1000, None, message[HEADER.size :])
        self.answers = self.answers if np.isnan(pressed_at) else pressed_at
        self.numbers.append(number)
        if acknowledge:
            self.say("ack", frame=number)

    def until(self, holds: Callable[[], Any]) -> None:
        """Take messages until something holds."""

        def held() -> bool:
            self.take()
            return bool(holds())

        until(held)

    @property
    def image(self) -> np.ndarray:
        """The newest frame, uint8 [height, width, 3]."""
        assert self.picture is not None
        return np.asarray(Image.open(io.BytesIO(self.picture.jpeg)))


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Served]:
    """Serve a page while the context is open."""
    server = Served(folder, **options)
    try:
        yield server
    finally:
        server.close()
