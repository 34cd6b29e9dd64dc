"""PostgreSQL's own programs as child processes: no shell, passwords in the environment, no orphans."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from psycopg.conninfo import make_conninfo

from vcci_ops.exceptions import OpsError, Refused, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.postgres import ReadOnlyPostgresHook

CHUNK = 1 << 20
_LINES, _LINE = 40, 300
"""Of what a program says: so many lines, so many characters of each."""
_PATIENCE = 5.0
"""Seconds in which a program that is told to end does so."""
PASSED_ON = ("PATH", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH")
"""Variables that a program gets of ours: no credential is among them."""


class ProgramFailed(Unreachable):
    """A program ended with an error; the text has its own words. Often the network or a lock: worth another try."""

    def __init__(self, name: str, code: int, said: str) -> None:
        OpsError.__init__(self, f"{name} ended with {code}: {said or 'it says nothing'}")
        self.system = name


class Address(NamedTuple):
    """How a program reaches a server.

    :param conninfo: libpq's connection string, without the password.
    """

    conninfo: str
    password: str

    @property
    def environment(self) -> dict[str, str]:
        """Return what the program needs to log in."""
        return {"PGPASSWORD": self.password} if self.password else {}


class _AddressHook(ReadOnlyPostgresHook):
    """Tells where it would connect to, and does not."""

    def _create_connection(self, conn_args: dict[str, Any]) -> Any:
        return self._known(conn_args)


def address(conn_id: str) -> Address:
    """Return how programs reach the server of a connection, with the same TLS as everything else.

    :raises MeasurementError: when there is no such connection.
    """
    known: dict[str, Any] = dict(_AddressHook(conn_id).get_conn())  # type: ignore[call-overload]
    password = str(known.pop("password", ""))
    return Address(make_conninfo(**known), password)


def find(name: str) -> str:
    """Return the path of a program of PostgreSQL.

    :raises Refused: when this worker has none.
    """
    path = shutil.which(name)
    if path is None:
        raise Refused(f"there is no {name} on this worker: its image lacks the package postgresql-client")
    return path


def version(name: str) -> str:
    """Return a program's version, e.g. ``15.18``.

    :raises Refused: when this worker has none.
    """
    said = subprocess.run([find(name), "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    found = re.search(r"\(PostgreSQL\) (\S+)", said)
    if not found:
        raise UnexpectedAnswer(name, f"--version says {said[:80]!r}")
    return found.group(1)


class Program:
    """A program that runs.

    :param process: its standard streams are pipes, where they were asked for.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True, name=f"{name}-says")
        self._listener.start()

    def chunks(self) -> Iterator[bytes]:
        """Yield what it writes.

        :raises ProgramFailed: when it has not come to a good end: what it wrote is worth nothing then.
        """
        out = _open(self.process.stdout)
        with contextlib.suppress(OSError):  # fewer switches between the two; where it may not grow, it stays small
            fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, CHUNK)
        while chunk := os.read(out.fileno(), CHUNK):
            yield chunk
        self.wait()

    def feed(self, chunk: bytes) -> bool:
        """Write to it; return whether it still listens."""
        into, rest = _open(self.process.stdin), memoryview(chunk)
        try:
            while rest:
                rest = rest[into.write(rest) :]
        except BrokenPipeError:
            return False
        return True

    def close_input(self) -> None:
        """Tell it that no more comes."""
        with contextlib.suppress(BrokenPipeError):
            _open(self.process.stdin).close()

    def wait(self) -> None:
        """Wait for its end.

        :raises ProgramFailed: when that is not a good one.
        """
        code = self.process.wait()
        self._listener.join(_PATIENCE)
        if code:
            raise ProgramFailed(self.name, code, self.said)

    @property
    def said(self) -> str:
        """Return what it said on standard error, in one line."""
        return "; ".join(self._said)

    def end(self) -> None:
        """End it, if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def _listen(self) -> None:
        for line in _open(self.process.stderr):
            if len(self._said) < _LINES:
                self._said.append(line.decode("utf-8", "replace").strip()[:_LINE])


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("this stream was not asked for")
    return stream


@contextmanager
def running(
    name: str, arguments: Sequence[str], at: Address | None = None, *, reads: bool = False
) -> Iterator[Program]:
    """Yield a program that runs; leaving the block ends it.

    It ends, too, when this process is killed: the kernel tells it so. Start it in the task's main thread, for it is
    that thread's end that counts. https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html

    :param arguments: after the program's name.
    :param at: the server it talks to; its password goes into the environment.
    :param reads: whether it reads from standard input.
    :raises Refused: when this worker has no such program.
    """
    argv = [find(name), *arguments]
    if at:
        argv.append(f"--dbname={at.conninfo}")
    if tied := shutil.which("setpriv"):
        argv = [tied, "--pdeathsig", "TERM", "--", *argv]
    environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**environment, "LC_ALL": "C", **(at.environment if at else {})},
    )
    program = Program(name, process)
    try:
        yield program
    finally:
        program.end()
