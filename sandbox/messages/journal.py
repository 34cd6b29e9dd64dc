"""A file of JSON lines: what a stand-in received, so that it is still there after a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Entries in order of arrival.

    :param path: the file; made when the first entry comes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.version = 0
        """Grows with each change, for pages that follow."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with open(self._path, encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):  # a killed process may have left half a line
                    yield json.loads(line)

    def append(self, entry: dict[str, Any]) -> None:
        """Write one entry."""
        self._mend()
        with open(self._path, "a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")
        self.version += 1

    def clear(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)
        self.version += 1

    def _mend(self) -> None:
        """Cut off half a line that a killed process left, once, before the first write."""
        if self.version or not self._path.exists():
            return
        whole = self._path.read_bytes()
        if not whole.endswith(b"\n"):
            self._path.write_bytes(whole[: whole.rfind(b"\n") + 1])
