"""A line to a server on this machine that can be slow, and cut."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

PIECE = 4096


class Tunnel:
    """Forwards connections to a port, as `ssh -L` does.

    Args:
        port: Where it leads.
        rate: Bytes a second towards the client; None for as fast as it goes.
    """

    def __init__(self, port: int, rate: float | None = None) -> None:
        self._far, self._rate = port, rate
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def cut(self) -> None:
        """Break all connections; new ones are forwarded."""
        for end in [*self._open]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break all connections and take no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._far))
                if self._rate is not None:  # a slow line holds little, or it would hide how slow it is
                    for end, option in ((near, socket.SO_SNDBUF), (far, socket.SO_RCVBUF)):
                        end.setsockopt(socket.SOL_SOCKET, option, 4 * PIECE)
                self._open += [near, far]
                for source, sink, rate in ((near, far, None), (far, near, self._rate)):
                    threading.Thread(target=self._forward, args=(source, sink, rate), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, rate: float | None) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE):
                sink.sendall(data)
                if rate is not None:
                    time.sleep(len(data) / rate)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
