"""The viewers of a page's server: each gets the newest frame and state, as fast as its own line takes them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.websockets import WebSocket, WebSocketDisconnect

from worldplay_env.play.web.protocol import Ack, KeyEdge, Message, Picture, ProtocolError, read_message

IN_FLIGHT = 6
"""Frames that may be on their way to a viewer, at most."""
LATE_SECONDS, EARLY_SECONDS = 0.15, 0.05
"""How much longer than the fastest of late a frame's way there and back takes, if there are too many of them on their
way, and if there may be more."""
MESSAGES_PER_SECOND, BURST = 100.0, 300.0
"""How many messages a viewer may send, on average and at once."""
SEND_SECONDS = 10.0
"""A viewer that takes nothing for so long is disconnected."""
ROUND_TRIPS = 64
"""Frames whose way there and back the fastest is found among."""
CLOCK_SAMPLES = 64
"""Messages that the offset of a page's clock is estimated from."""


class Close:
    """Why a connection is closed, as codes of the WebSocket protocol (those from 4000 on are this server's own)."""

    BAD_MESSAGE = 1008
    REPLACED = 4000
    OCCUPIED = 4001
    IDLE = 4002
    TOO_FAST = 4003
    OVER = 4004


@dataclass(frozen=True)
class Joined:
    """Somebody plays."""


@dataclass(frozen=True)
class Left:
    """Nobody plays any more."""


@dataclass(frozen=True)
class Timed:
    """A message of the player, and the difference of the clocks then.

    Attributes:
        message: What was said.
        at: Seconds of the server's clock when it was said, as well as is known.
    """

    message: Message
    at: float


class Way:
    """The frames on their way to a viewer: on a slow line fewer of them, so that none waits for those before it."""

    def __init__(self) -> None:
        self._sent: deque[tuple[int, float]] = deque()  # number and time
        self._took: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._window = 2.0

    @property
    def is_free(self) -> bool:
        """Whether another frame may be sent."""
        return len(self._sent) < int(self._window)

    def send(self, number: int, now: float) -> None:
        """Note that a frame is sent."""
        self._sent.append((number, now))

    def arrive(self, number: int, now: float) -> None:
        """Note that a frame has arrived, and those before it."""
        while self._sent and self._sent[0][0] <= number:
            took = now - self._sent.popleft()[1]
            self._took.append(took)
            waited = took - min(self._took)
            if waited > LATE_SECONDS:
                self._window = max(1.0, self._window / 2)
            elif waited < EARLY_SECONDS:
                self._window = min(IN_FLIGHT, self._window + 1 / self._window)


@dataclass(eq=False)
class Viewer:
    """One connection.

    Attributes:
        socket: Where it leads.
        client: What the page calls itself; the same after it has lost its line.
        plays: Whether its keys count.
        text: The newest state, if it has not been sent yet.
        picture: The newest frame, likewise.
        way: The frames that are on their way.
        wake: Set when there is something to send.
        offsets: Seconds from a message's time by the page's clock to its arrival by the server's.
    """

    socket: WebSocket
    client: str
    plays: bool
    text: str = ""
    picture: Picture | None = None
    way: Way = field(default_factory=Way)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    offsets: deque[float] = field(default_factory=lambda: deque(maxlen=CLOCK_SAMPLES))

    @property
    def clock_offset(self) -> float | None:
        """Seconds by which the server's clock is ahead of the page's, less the fastest message's way; or None."""
        return min(self.offsets, default=None)


class Hub:
    """Connects one player and a number of watchers to what is played.

    Args:
        inbox: Takes what the player says; called in the event loop.
        hello: Returns the first message to a viewer of some role.
        watchers: How many may watch.
        idle: Seconds without a word after which the player is disconnected.
    """

    def __init__(
        self, inbox: Callable[[Joined | Left | Timed], None], hello: Callable[[str], str], watchers: int, idle: float
    ) -> None:
        self._inbox, self._hello, self._watchers, self._idle = inbox, hello, watchers, idle
        self._viewers: list[Viewer] = []
        self._state = ""
        self._picture: Picture | None = None

    def is_player(self, client: str) -> bool:
        """Return whether the page of that name plays."""
        return any(viewer.plays and viewer.client == client for viewer in self._viewers)

    def show_state(self, message: str) -> None:
        """Send a state to all; one that has not been sent yet is forgotten."""
        self._state = message
        for viewer in self._viewers:
            viewer.text = message
            viewer.wake.set()

    def show_picture(self, picture: Picture) -> None:
        """Send a frame to all whose line is free; to the others, the newest one once it is."""
        self._picture = picture
        for viewer in self._viewers:
            viewer.picture = picture
            viewer.wake.set()

    async def close(self) -> None:
        """Say goodbye to all."""
        for viewer in [*self._viewers]:
            await self._end(viewer, Close.OVER)

    async def attend(self, socket: WebSocket, client: str) -> None:
        """Serve a connection until it ends."""
        before = next((viewer for viewer in self._viewers if viewer.client == client), None)
        if before is not None:  # its line was cut, and the server has not noticed yet
            await self._end(before, Close.REPLACED)
        plays = not any(viewer.plays for viewer in self._viewers)
        await socket.accept()
        if not plays and sum(not viewer.plays for viewer in self._viewers) >= self._watchers:
            await socket.close(Close.OCCUPIED)
            return
        viewer = Viewer(socket, client, plays, picture=self._picture)
        viewer.text = self._state
        viewer.wake.set()
        self._viewers.append(viewer)
        if plays:
            self._inbox(Joined())
        tasks = [asyncio.create_task(self._send(viewer)), asyncio.create_task(self._receive(viewer))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code = next((task.result() for task in done if task.exception() is None), None)
            if code is not None:
                await self._end(viewer, code)
        finally:
            for task in tasks:
                task.cancel()
            self._forget(viewer)
            await asyncio.gather(*tasks, return_exceptions=True)  # a line that breaks is no error of the server's

    def _forget(self, viewer: Viewer) -> None:
        if viewer in self._viewers:
            self._viewers.remove(viewer)
            if viewer.plays:
                self._inbox(Left())

    async def _end(self, viewer: Viewer, code: int) -> None:
        self._forget(viewer)
        with suppress(RuntimeError, WebSocketDisconnect, asyncio.TimeoutError):
            await asyncio.wait_for(viewer.socket.close(code), 1.0)

    async def _send(self, viewer: Viewer) -> None:
        await viewer.socket.send_text(self._hello("player" if viewer.plays else "watcher"))
        while True:
            await viewer.wake.wait()
            viewer.wake.clear()
            if viewer.text:
                text, viewer.text = viewer.text, ""
                await asyncio.wait_for(viewer.socket.send_text(text), SEND_SECONDS)
            picture = viewer.picture
            if picture is not None and viewer.way.is_free:
                viewer.picture = None
                viewer.way.send(picture.number, time.monotonic())
                offset = viewer.clock_offset if viewer.plays else None
                await asyncio.wait_for(viewer.socket.send_bytes(picture.pack(offset)), SEND_SECONDS)

    async def _receive(self, viewer: Viewer) -> int | None:
        """Take what a viewer says until it goes; return why it has to, or None if it went by itself."""
        allowance, counted_at = BURST, time.monotonic()
        heard = counted_at
        while True:
            left = heard + self._idle - time.monotonic() if viewer.plays else None
            try:
                text = await asyncio.wait_for(viewer.socket.receive_text(), left if left is None else max(0.0, left))
            except TimeoutError:
                return Close.IDLE
            except (WebSocketDisconnect, KeyError):  # gone, or bytes in place of text
                return None if viewer.socket.client_state.name == "DISCONNECTED" else Close.BAD_MESSAGE
            now = time.monotonic()
            allowance = min(BURST, allowance + (now - counted_at) * MESSAGES_PER_SECOND) - 1
            counted_at = now
            if allowance < 0:
                return Close.TOO_FAST
            try:
                message = read_message(text)
            except ProtocolError:
                return Close.BAD_MESSAGE
            if isinstance(message, Ack):
                viewer.way.arrive(message.frame, now)
                viewer.wake.set()
            elif viewer.plays:
                heard = now
                self._inbox(Timed(message, self._moment(viewer, message, now)))

    @staticmethod
    def _moment(viewer: Viewer, message: Message, now: float) -> float:
        """Return when a message was said: the page's own time for a key, else the time that it came."""
        if not isinstance(message, KeyEdge):
            return now
        viewer.offsets.append(now - message.at / 1000)
        return min(now, max(now - 1.0, message.at / 1000 + min(viewer.offsets)))
