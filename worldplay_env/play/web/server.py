"""Serves the page, its socket, and the films and pictures of the session."""

from __future__ import annotations

import asyncio
import io
import os
import queue
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from worldplay_env.envs.starts import bundled_starts
from worldplay_env.media.image import FORMATS, ImageError, read_image
from worldplay_env.play.plan import Args, Plan, begin_elsewhere
from worldplay_env.play.presenter import LONGEST_PROMPT, Presenter
from worldplay_env.play.web.access import ANY_HOST, Access, new_token
from worldplay_env.play.web.hub import Hub, Joined, Left, Timed
from worldplay_env.play.web.player import WebPlayer
from worldplay_env.play.web.protocol import LONGEST_MESSAGE, Picture, hello_message

PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/keys.js": ("keys.js", "text/javascript"),
    "/map.js": ("map.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""What the browser loads, by its path on the server."""
LARGEST_UPLOAD = 32_000_000
"""Bytes of a picture."""
LONGEST_NAME = 64
"""Characters of what a page calls itself."""
MOST_CONNECTIONS = 128
"""Of all kinds at once; more are refused."""
PING_SECONDS = 5.0
"""How often a connection is asked for a sign of life; one that gives none for as long is closed."""


class Page:
    """Serves a session's page until it is closed.

    Args:
        args: What was asked for: address, port, watchers, idle time.
        plan: What is played first.
        begin: Begins a session of another plan.

    Raises:
        OSError: The port is taken, or the address is not this machine's.
    """

    def __init__(self, args: Args, plan: Plan, begin: Callable[[Plan], Presenter]) -> None:
        self._plan, self._begin, self._host = plan, begin, args.host
        self._inbox: queue.Queue[Joined | Left | Timed | Plan] = queue.Queue()
        self._files: Callable[[], list[Path]] = list
        self.hub = Hub(self._inbox.put, self._hello, args.watch, 60 * args.idle)
        self.token = new_token()
        self._socket = _listen(args.host, args.port)
        self.port: int = self._socket.getsockname()[1]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._server = uvicorn.Server(
            uvicorn.Config(
                Access(self._app(), self.token, args.host),
                log_level="critical",
                lifespan="off",
                ws_max_size=LONGEST_MESSAGE,
                ws_max_queue=16,
                ws_ping_interval=PING_SECONDS,
                ws_ping_timeout=PING_SECONDS,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="worldplay-server", daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host = "127.0.0.1" if self._host in ANY_HOST else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/?token={self.token}"

    def show(self, presenter: Presenter) -> Presenter:
        """Play until a script leaves or the program is interrupted; return the presenter that was played last."""
        print(f"open {self.address}", flush=True)
        if self._host not in ("127.0.0.1", "localhost", "::1"):
            print(
                "note: others in the network can reach this, and nothing is encrypted. Safer: leave out --host, and "
                f"run on the other machine: ssh -L {self.port}:127.0.0.1:{self.port} THIS-MACHINE",
                file=sys.stderr,
            )
        if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            webbrowser.open(self.address)
        self._files = presenter.files
        player = WebPlayer(presenter, self._plan, self._begin, self, self._inbox, presenter.files)
        try:
            player.run()
        finally:
            self.close()
        return player.presenter

    def close(self) -> None:
        """Stop serving; a second time does nothing."""
        if self._loop is not None and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self.hub.close(), self._loop)
            self._server.should_exit = True
            self._thread.join(timeout=5)
        self._socket.close()

    def show_state(self, message: str) -> None:
        """Send a state to the viewers; for any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.hub.show_state, message)

    def show_picture(self, picture: Picture) -> None:
        """Send a frame to the viewers; for any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.hub.show_picture, picture)

    def _serve(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._ready.set()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())

    def _hello(self, role: str) -> str:
        return hello_message(role, self._plan.title, self._plan.fps, list(bundled_starts()))

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                *(Route(path, self._page) for path in PAGE),
                Route("/starts/{name}", self._start),
                Route("/files/{number:int}", self._file),
                Route("/picture", self._upload, methods=["POST"]),
                WebSocketRoute("/socket", self._attend),
            ]
        )

    async def _page(self, request: Request) -> Response:
        name, kind = PAGE[request.url.path]
        text = resources.files("worldplay_env.play.web").joinpath("page", name).read_text(encoding="utf-8")
        return Response(text, media_type=kind)

    async def _start(self, request: Request) -> Response:
        found = bundled_starts().get(request.path_params["name"])
        return PlainTextResponse("no such picture\n", 404) if found is None else FileResponse(str(found[0]))

    async def _file(self, request: Request) -> Response:
        """Send a film or picture by its place in the list of those that are complete."""
        files, number = self._files(), request.path_params["number"]
        if number >= len(files):
            return PlainTextResponse("no such file\n", 404)
        return FileResponse(files[number], filename=files[number].name)

    async def _upload(self, request: Request) -> Response:
        """Begin from the picture in the body, if it comes from the one who plays."""
        if not self.hub.is_player(request.query_params.get("client", "")):
            return PlainTextResponse("only the one who plays can begin from a picture\n", 403)
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > LARGEST_UPLOAD:
                return PlainTextResponse(f"a picture has at most {LARGEST_UPLOAD // 10**6} MB\n", 413)
        prompt = request.query_params.get("prompt", "")[:LONGEST_PROMPT]
        try:
            picture = await run_in_threadpool(_read_upload, bytes(data))
            self._inbox.put(begin_elsewhere(self._plan, picture, prompt))
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 422)
        return Response(status_code=204)

    async def _attend(self, websocket: WebSocket) -> None:
        await self.hub.attend(websocket, websocket.query_params.get("client", "")[:LONGEST_NAME])


def _read_upload(data: bytes) -> np.ndarray:
    try:
        return read_image(Image.open(io.BytesIO(data), formats=FORMATS))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"that is not a picture of a known kind: expected {', '.join(FORMATS)}") from error


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"cannot serve on {host}, port {port}: {reason}") from error
