"""Assertions about the platform's data that anybody can add: one SQL file each, in include/sql/assertions/."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Final

from vcci_ops.domain.drill import Assertion, shown
from vcci_ops.domain.results import Status
from vcci_ops.exceptions import InvalidInput

_HEADER: Final = re.compile(r"--\s*(title|owner|severity|why):\s*(.+?)\s*")
_REQUIRED: Final = ("title", "owner", "severity")
_SEVERITIES: Final = {"critical": Status.CRITICAL, "warning": Status.WARNING}
MOST: Final = 20
"""Findings that are fetched and shown."""


@dataclasses.dataclass(frozen=True)
class BusinessAssertion:
    """A statement whose every row is a finding."""

    name: str
    title: str
    owner: str
    severity: Status
    why: str
    sql: str

    @property
    def id(self) -> str:
        """Return how a drill names it."""
        return f"business.{self.name}"

    def held(self, findings: list[str], more: bool) -> Assertion:
        """Return what it found.

        :param more: whether there are more findings than these.
        """
        if not findings:
            return Assertion(self.id, self.title, Status.OK, "no finding", "none", owner=self.owner)
        number = f"more than {len(findings)}" if more else str(len(findings))
        found = f"{number} finding{'s' if number != '1' else ''}: {'; '.join(findings[:3])}"
        return Assertion(
            self.id, self.title, self.severity, "no finding", found, self.why, shown(findings), owner=self.owner
        )

    def unmeasured(self, why: str) -> Assertion:
        """Return that it could not be asked."""
        return Assertion(self.id, self.title, Status.UNKNOWN, "no finding", why, self.why, owner=self.owner)


def read_assertions(folder: Path) -> list[BusinessAssertion]:
    """Read all files of a folder.

    :raises InvalidInput: when a header is missing; names file and key.
    """
    return [_read(file) for file in sorted(folder.glob("*.sql"))]


def _read(file: Path) -> BusinessAssertion:
    text = file.read_text(encoding="utf-8")
    header: dict[str, str] = {m[1]: m[2] for line in text.splitlines() if (m := _HEADER.fullmatch(line))}
    for key in _REQUIRED:
        if key not in header:
            raise InvalidInput(f"{file.name}: {key}", None, f"a line such as `-- {key}: ...` at its beginning")
    severity = _SEVERITIES.get(header["severity"])
    if severity is None:
        raise InvalidInput(f"{file.name}: severity", header["severity"], " or ".join(_SEVERITIES))
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", file.stem):
        raise InvalidInput("assertions", file.name, "lower-case letters, digits and _ before .sql")
    return BusinessAssertion(file.stem, header["title"], header["owner"], severity, header.get("why", ""), text)
