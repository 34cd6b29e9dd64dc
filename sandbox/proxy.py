"""The delay proxy: one process in front of the real servers, for the fault ``slow``.

``python -m sandbox.proxy`` listens on the ports ``postgres``, ``redis``, ``s3`` and ``prometheus`` and
passes everything on to ``<name>-direct``. While the fault is active each *answer* comes N seconds
later: the first bytes that a server sends after its client has spoken are held back. Opening a
session counts as one answer (PostgreSQL) or none (Redis), however many turns its handshake takes:
what is played is a slow system, not a distant one. When the server is down, the client's
connection ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from sandbox.state import ActiveFaults, State

_BUFFER = 256 * 1024
_SSL_REQUESTS = (80877103, 80877104)
"""The codes of PostgreSQL's SSLRequest and GSSENCRequest, which carry no length of their own to tell them by."""
_REDIS_OPENING = (b"AUTH", b"HELLO", b"CLIENT", b"SELECT")


def postgres_opening(data: bytes) -> bool:
    """Whether these bytes of a client belong to a handshake, the StartupMessage excepted.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    if data[:1] == b"p":  # PasswordMessage, SASLInitialResponse, SASLResponse
        return True
    return len(data) == 8 and int.from_bytes(data[4:8], "big") in _SSL_REQUESTS


def redis_opening(data: bytes) -> bool:
    """Whether these bytes of a client begin with a command of its handshake."""
    if data[:1] != b"*":
        return False
    parts = data[:40].split(b"\r\n", 3)
    return len(parts) > 2 and parts[2].upper() in _REDIS_OPENING


def never(_data: bytes) -> bool:
    """HTTP has no handshake."""
    return False


FRONTS: dict[str, Callable[[bytes], bool]] = {
    "postgres": postgres_opening,
    "redis": redis_opening,
    "s3": never,
    "prometheus": never,
}


class Side(asyncio.BufferedProtocol):
    """One end of a proxied connection; what it receives goes to its peer, no faster than that takes it."""

    def __init__(self) -> None:
        self.peer: Side | None = None
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray(_BUFFER)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive."""
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what came."""
        self.passed(self._buffer[:nbytes])

    def passed(self, data: bytearray) -> None:
        """Write to the other end."""
        if self.peer and self.peer.transport:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        """Pass on that no more will come; the other direction may go on."""
        self.ended()
        return True

    def ended(self) -> None:
        """Tell the other end that this one says no more."""
        peer = self.peer.transport if self.peer else None
        if peer and not peer.is_closing() and peer.can_write_eof():
            peer.write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        """Close the other end, once what was written to it is out."""
        self.transport = None
        if self.peer and self.peer.transport:
            self.peer.transport.close()

    def pause_writing(self) -> None:
        """Stop receiving at the other end: this one is slow to take it."""
        if self.peer and self.peer.transport:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Receive again."""
        if self.peer and self.peer.transport and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()


class ClientSide(Side):
    """The end at the client: connects to the server, and notes when the client asks something."""

    def __init__(self, state: State, name: str, delay: Callable[[], float]) -> None:
        super().__init__()
        self._state, self._name, self._opening = state, name, FRONTS[name]
        self._server = ServerSide(delay)
        self._early: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server; what the client says meanwhile is kept.

        Not reading until then would do, but Python before 3.11.4 forgets a pause that is made here.
        """
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        port = self._state.port(f"{self._name}-direct")
        try:
            await asyncio.get_running_loop().create_connection(lambda: self._server, "127.0.0.1", port)
        except OSError:
            if self.transport:
                self.transport.abort()
            return
        self.peer, self._server.peer = self._server, self
        if self.transport:
            for act in self._early:
                act()
        elif self._server.transport:
            self._server.transport.close()

    def passed(self, data: bytearray) -> None:
        """Pass on; the server's next bytes are an answer to this."""
        if self.peer is None:
            self._early.append(lambda: self.passed(data))
            return
        if not self._opening(bytes(data[:64]) if len(data) > 8 else bytes(data)):
            self._server.asked = True
        super().passed(data)

    def ended(self) -> None:
        """Tell the server, after what the client said before."""
        if self.peer is None:
            self._early.append(self.ended)
        else:
            super().ended()


class ServerSide(Side):
    """The end at the server: holds back the beginning of each answer while the fault is active."""

    def __init__(self, delay: Callable[[], float]) -> None:
        super().__init__()
        self.asked = False
        self._delay = delay
        self._held: list[Callable[[], None]] | None = None

    def passed(self, data: bytearray) -> None:
        """Pass on at once, or later when this begins an answer."""
        if data[:12] == b"HTTP/1.1 100":  # "go on with your upload" is no answer yet
            super().passed(data)
            return
        seconds = self._delay() if self.asked and self._held is None else 0.0
        self.asked = self.asked and self._held is not None
        if seconds > 0 and self.transport:
            self._held = []
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(seconds, self._release)
        self._now_or_later(lambda: super(ServerSide, self).passed(data))

    def ended(self) -> None:
        """Tell the client, after what is held back."""
        self._now_or_later(super().ended)

    def connection_lost(self, error: Exception | None) -> None:
        """Close the client's end, after what is held back."""
        self._now_or_later(lambda: super(ServerSide, self).connection_lost(error))

    def _now_or_later(self, act: Callable[[], None]) -> None:
        if self._held is None:
            act()
        else:
            self._held.append(act)

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for act in held:
            act()
        if self.transport and not self.transport.is_closing():
            self.transport.resume_reading()


async def serve() -> None:
    """Listen on every front until told to stop."""
    state, faults = State(), ActiveFaults()

    def delay() -> float:
        slow = faults.get("slow")
        return float(slow.get("seconds", 3.0)) if slow is not None else 0.0

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        for name in FRONTS:
            server = await loop.create_server(
                lambda name=name: ClientSide(state, name, delay),  # type: ignore[misc]
                "127.0.0.1",
                state.port(name),
                backlog=512,
            )
            stack.callback(server.close)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(serve())
