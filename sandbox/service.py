"""What a part of the sandbox is: a :class:`Service` with its start, probe, stop, and the faults it knows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox.state import ROOT, State


class SandboxError(Exception):
    """Something a person has to know; the text says what to do."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """A way the platform can go wrong, made by one command and healed by one.

    :param name: as typed after ``break``.
    :param summary: what goes wrong.
    :param shows_as: what the daily health check says of it: check id(s) and status.
    :param apply: makes it so; gets the sandbox and the fault's options. None: the stand-in concerned
        reads the active faults by itself (:class:`sandbox.state.ActiveFaults`).
    :param heal: undoes it, and is safe to call twice.
    :param options: names of options with their defaults, given as ``name=value`` after the fault.
    """

    name: str
    summary: str
    shows_as: str
    apply: Callable[[Sandbox, dict[str, Any]], None] | None = None
    heal: Callable[[Sandbox, dict[str, Any]], None] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Service:
    """A server of the sandbox. Subclasses live in sandbox/services/, one module each."""

    name: str = ""
    needs: tuple[str, ...] = ()
    """Services that must be ready before this one starts."""
    ports: tuple[str, ...] = ()
    """Names of the ports it listens on (:meth:`State.port`)."""
    programs: Mapping[str, str] = {}
    """Programs it runs → the Debian package that has them."""
    faults: tuple[Fault, ...] = ()
    patience: float = 30.0
    """Seconds it may take to answer."""

    def start(self, sandbox: Sandbox) -> None:
        """Prepare and spawn; returns before the server is ready. Safe when it already runs."""
        raise NotImplementedError

    def ready(self, sandbox: Sandbox) -> bool:
        """Whether it answers; called until it does."""
        return all(listening(sandbox.port(name)) for name in self.ports)

    def prepare(self, sandbox: Sandbox) -> None:
        """Fill it, once it is ready: schema, data, buckets. Must be quick when already done."""

    def stop(self, sandbox: Sandbox) -> None:
        """Stop it cleanly."""
        sandbox.end(self.name)

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return Airflow connections by id, in Airflow's JSON form (conn_type, host, password ...)."""
        return {}

    def pages(self, sandbox: Sandbox) -> dict[str, str]:
        """Return pages worth opening in a browser: title → URL."""
        return {}


class Sandbox:
    """What services get to work with: state, processes, programs."""

    def __init__(self, folder: Path | None = None, *, scale: int = 1) -> None:
        self.state = State(folder)
        self.folder = self.state.folder
        self.scale = int(self.state.read().get("scale", scale))

    def port(self, name: str) -> int:
        """Return the loopback port of this name."""
        return self.state.port(name)

    def secret(self, name: str, prefix: str = "") -> str:
        """Return the generated secret of this name."""
        return self.state.secret(name, prefix)

    def data(self, name: str) -> Path:
        """Return a folder for a service's data, made if missing."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        """Return the file a process's output goes to."""
        return self.data("logs") / f"{name}.log"

    # Processes ----------------------------------------------------------------------------------

    def spawn(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> int:
        """Start a process of its own session, its output in the log folder; remember its pid.

        Returns the pid; one that already runs under this name is left alone.
        """
        running = self.pid(name)
        if running:
            return running
        with open(self.log(name), "ab") as out:
            process = subprocess.Popen(
                list(argv),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "VCCI_SANDBOX_HOME": str(self.folder), **(env or {})},
                cwd=cwd or ROOT,
                start_new_session=True,
            )
        with self.state.change() as data:
            data.setdefault("pids", {})[name] = [process.pid, _started(process.pid)]
        return process.pid

    def python(self, name: str, module: str, *args: str, env: Mapping[str, str] | None = None) -> int:
        """Start ``python -m module args`` as :meth:`spawn` does."""
        return self.spawn(name, [sys.executable, "-m", module, *args], env=env)

    def pid(self, name: str) -> int | None:
        """Return the pid of a process we started, if it still runs (and is that very process)."""
        entry = self.state.read().get("pids", {}).get(name)
        if not entry:
            return None
        pid, started = int(entry[0]), entry[1]
        return pid if started is not None and _started(pid) == started else None

    def end(self, name: str, *, how: int = signal.SIGTERM, patience: float = 10.0) -> None:
        """End a process we started: asked first, killed after ``patience`` seconds."""
        pid = self.pid(name)
        if pid:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, how)
            until = time.monotonic() + patience
            while self.pid(name) and time.monotonic() < until:
                _reap(pid)
                time.sleep(0.02)
            if self.pid(name):
                os.kill(pid, signal.SIGKILL)
                _reap(pid)
        with self.state.change() as data:
            data.get("pids", {}).pop(name, None)

    # Programs -----------------------------------------------------------------------------------

    def program(self, name: str, package: str) -> str:
        """Return the path of a program.

        :raises SandboxError: when it is missing; says which package has it.
        """
        found = find_program(name)
        if not found:
            raise SandboxError(f"the program {name} is missing: apt-get install {package}")
        return found

    def unprivileged(self, argv: Sequence[str]) -> list[str]:
        """Wrap a command that refuses to run as root (PostgreSQL's servers).

        As root it runs as the system user ``postgres``, keeping just the capability to pass folders
        that are closed to others, as a checkout below /root is.
        """
        if os.geteuid() != 0:
            return list(argv)
        drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        return [*drop, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--", *argv]


def find_program(name: str) -> str | None:
    """Find a program on PATH, beside this Python, or where Debian keeps PostgreSQL's."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def listening(port: int, timeout: float = 0.5) -> bool:
    """Whether something accepts connections on the loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout):
            return True
    except OSError:
        return False


def wait_until(what: str, probe: Callable[[], bool], *, seconds: float = 30.0, every: float = 0.1) -> None:
    """Poll a probe until it is true.

    :raises SandboxError: when it is not true in time; names ``what``.
    """
    until = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > until:
            raise SandboxError(f"{what}: not so within {seconds:.0f} s")
        time.sleep(every)


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks, which with the pid names it for good; None for a zombie or none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
