"""What the sandbox remembers between commands: ports, secrets, pids, faults; one ignored folder holds it all."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def home() -> Path:
    """Return the state folder: ``VCCI_SANDBOX_HOME``, else ``.sandbox`` in the project."""
    return Path(os.environ.get("VCCI_SANDBOX_HOME") or ROOT / ".sandbox").resolve()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class State:
    """The state folder's state.json; every change is one locked read-modify-write.

    :param folder: the state folder; default :func:`home`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.folder / "state.json"

    def read(self) -> dict[str, Any]:
        """Return the whole state."""
        try:
            data: dict[str, Any] = json.loads(self._file.read_text())
        except FileNotFoundError:
            data = {}
        return data

    @contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        """Yield the state to change; it is written when the block ends without an error."""
        with open(self.folder / "state.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            data = self.read()
            yield data
            temporary = self._file.with_suffix(".new")
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(data, indent=1, sort_keys=True))
            temporary.replace(self._file)

    def port(self, name: str) -> int:
        """Return the loopback port of this name; a free one is chosen once and kept."""
        known: int | None = self.read().get("ports", {}).get(name)
        if known is not None:
            return known
        with self.change() as data:
            ports = data.setdefault("ports", {})
            while name not in ports:
                candidate = _free_port()
                if candidate not in ports.values():
                    ports[name] = candidate
            return int(ports[name])

    def renew_taken_ports(self, names: list[str]) -> None:
        """Choose new ports for those of ``names`` that another program has taken meanwhile."""
        with self.change() as data:
            ports = data.setdefault("ports", {})
            for name in names:
                if name in ports and not _is_free(ports[name]):
                    ports[name] = _free_port()

    def secret(self, name: str, prefix: str = "") -> str:
        """Return the secret of this name; it is made at random once and kept (state.json is 0600)."""
        known: str | None = self.read().get("secrets", {}).get(name)
        if known is not None:
            return known
        with self.change() as data:
            made: str = data.setdefault("secrets", {}).setdefault(name, prefix + secrets.token_hex(16))
            return made

    # Faults -------------------------------------------------------------------------------------

    def faults(self) -> dict[str, dict[str, Any]]:
        """Return the active faults with their options."""
        try:
            data: dict[str, dict[str, Any]] = json.loads((self.folder / "faults.json").read_text())
        except FileNotFoundError:
            data = {}
        return data

    def set_fault(self, name: str, options: dict[str, Any] | None) -> None:
        """Record a fault as active, or with None as healed."""
        with self.change():
            faults = self.faults()
            faults.pop(name, None)
            if options is not None:
                faults[name] = options
            new = self.folder / "faults.new"
            new.write_text(json.dumps(faults))
            new.replace(self.folder / "faults.json")


class ActiveFaults:
    """The active faults as a running stand-in sees them; reads the file again only when it changed."""

    def __init__(self, folder: Path | None = None) -> None:
        self._state = State(folder)
        self._file = self._state.folder / "faults.json"
        self._changed = (-1, -1)
        self._faults: dict[str, dict[str, Any]] = {}

    def get(self, name: str) -> dict[str, Any] | None:
        """Return the options of the fault if it is active."""
        try:
            seen = self._file.stat()
            changed = (seen.st_mtime_ns, seen.st_ino)  # two writes may fall into one tick of the clock
        except FileNotFoundError:
            changed = (0, 0)
        if changed != self._changed:
            self._faults, self._changed = self._state.faults(), changed
        return self._faults.get(name)
