"""A way to a server that can be narrowed: a stream that stalls, one that is cut, requests that are refused."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_BUFFER = 64 * 1024
_FORBIDDEN = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Valve:
    """Listens on a port of its own and passes everything on.

    :param port: of the server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._stall_after: int | None = None
        self._cut_after: int | None = None
        self._refused: tuple[bytes, ...] = ()
        self._open = threading.Event()
        self.reached = threading.Event()
        """Set when a stream has come to where it is stalled or cut."""
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def stalling(self, after: int) -> Iterator[Valve]:
        """Take so many bytes from clients, then no more until the block ends."""
        self._stall_after, self._open, self.reached = after, threading.Event(), threading.Event()
        try:
            yield self
        finally:
            self._stall_after = None
            self._open.set()

    @contextmanager
    def cutting(self, after: int) -> Iterator[Valve]:
        """Pass on so many bytes of an answer, then cut the connection; each of them."""
        self._cut_after, self.reached = after, threading.Event()
        try:
            yield self
        finally:
            self._cut_after = None

    @contextmanager
    def refusing(self, *requests: bytes) -> Iterator[Valve]:
        """Answer requests that begin like these with 403, in the server's place."""
        self._refused = requests
        try:
            yield self
        finally:
            self._refused = ()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for move in (self._up, self._down):
                threading.Thread(target=move, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError), closing_both(client, server):
            while data := client.recv(_BUFFER):
                if self._refused and data.startswith(self._refused):
                    head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(_FORBIDDEN)}\r\nConnection: close\r\n\r\n"
                    client.sendall(head.encode() + _FORBIDDEN)
                    return
                passed += len(data)
                if self._stall_after is not None and passed > self._stall_after:
                    self.reached.set()
                    self._open.wait(60)
                server.sendall(data)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError), closing_both(client, server):
            while data := server.recv(_BUFFER):
                passed += len(data)
                if self._cut_after is not None and passed > self._cut_after:
                    client.sendall(data[: max(0, len(data) - (passed - self._cut_after))])
                    self.reached.set()
                    return
                client.sendall(data)


@contextmanager
def closing_both(*ends: socket.socket) -> Iterator[None]:
    """Close both ends of a connection, so that whoever waits at one of them wakes up."""
    try:
        yield
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
