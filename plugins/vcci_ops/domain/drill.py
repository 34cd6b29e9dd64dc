"""A restore drill: what is asked for, what it asserts, and what becomes of it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vcci_ops.domain.results import Status, worst
from vcci_ops.exceptions import InvalidInput

LATEST, DATE, RANDOM, KEY = "latest", "date", "random", "key"
"""Which backup."""
FULL, DATA = "full", "data"
"""How deep: everything; all but the platform's own programs against the copy."""
PHASES = ("choose", "scratch", "read", "schema", "data", "indexes", "verify")
"""What the recovery time is made of."""
SHOWN = 50
"""Lines of an assertion that are kept: the rest is counted."""


@dataclasses.dataclass(frozen=True)
class Assertion:
    """Something that a drill asserts, with what was expected and what was found."""

    id: str
    """``part.what``, e.g. ``tables.rows``; once in a drill."""
    title: str
    status: Status
    expected: str
    found: str
    why: str = ""
    """What it means when it does not hold, and what to do; empty when all is well."""
    lines: tuple[str, ...] = ()
    """One by one: tables, constraints, ... Never a value of a row."""
    owner: str = ""

    @property
    def part(self) -> str:
        """Return what it belongs to: tables, constraints, ..."""
        return self.id.partition(".")[0]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**dataclasses.asdict(self), "status": str(self.status), "lines": list(self.lines)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Assertion:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**data, "status": Status(data["status"]), "lines": tuple(data["lines"])})


def asserted(id_: str, title: str, bad: Sequence[str], *, expected: str, well: str, why: str, **more: Any) -> Assertion:
    """Return an assertion that holds when nothing bad was found.

    :param bad: what was found, one by one.
    :param well: what was found when nothing is bad.
    :param more: ``status`` when it is bad (default critical), ``noun`` of what is counted, ``owner``, ``lines``.
    """
    noun, status = more.pop("noun", "deviation"), more.pop("status", Status.CRITICAL)
    if not bad:
        return Assertion(id_, title, Status.OK, expected, well, lines=tuple(more.pop("lines", ())), **more)
    more.pop("lines", None)
    few = "; ".join(bad[:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
    found = few if len(bad) <= 3 else f"{len(bad)} {noun}s: {few}"
    return Assertion(id_, title, status, expected, found, why, shown(bad), **more)


def not_provable(id_: str, title: str, expected: str, because: str, instead: str = "") -> Assertion:
    """Return an assertion that cannot be made, for the backup does not say what it takes: a warning with the reason.

    Unknown is kept for what should have been measured and could not be: an old manifest would otherwise end every
    drill red, and red would mean nothing.
    """
    return Assertion(id_, title, Status.WARNING, expected, f"not provable: {because}", instead)


def shown(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the first lines, and how many there are more."""
    if len(lines) <= SHOWN:
        return tuple(lines)
    return (*lines[:SHOWN], f"and {len(lines) - SHOWN} more")


def outcome(assertions: Iterable[Assertion]) -> str:
    """Return passed, failed or unknown."""
    found = worst([a.status for a in assertions] or [Status.UNKNOWN])
    return {Status.CRITICAL: "failed", Status.UNKNOWN: "unknown"}.get(found, "passed")


@dataclasses.dataclass(frozen=True)
class Request:
    """What a person, or the schedule, asked for."""

    which: str = LATEST
    date: dt.date | None = None
    days: int = 30
    key: str = ""
    depth: str = FULL
    keep_on_failure: bool = False
    rto: float = 0.0
    rpo: float = 0.0
    """Targets, in seconds."""
    sabotage: str = ""


def read_request(params: Mapping[str, Any], defaults: Request, sabotages: Sequence[str] = ()) -> Request:
    """Read the form.

    :param defaults: targets and days of the settings.
    :param sabotages: what may be asked for here: nothing outside of a sandbox.
    :raises InvalidInput: naming the field, its value, and what would be accepted.
    """
    which = _one_of("which", params.get("which") or defaults.which, (LATEST, DATE, RANDOM, KEY))
    sabotage = str(params.get("sabotage") or "")
    if sabotage and sabotage not in sabotages:
        raise InvalidInput("sabotage", sabotage, f"one of {', '.join(sabotages)}" if sabotages else "nothing here")
    return Request(
        which=which,
        date=_date(params.get("date")) if which == DATE else None,
        days=_whole("days", params.get("days"), defaults.days, 1, 365),
        key=_key(params.get("key")) if which == KEY else "",
        depth=_one_of("depth", params.get("depth") or defaults.depth, (FULL, DATA)),
        keep_on_failure=_flag("keep_on_failure", params.get("keep_on_failure", False)),
        rto=60.0 * _whole("rto_minutes", params.get("rto_minutes"), round(defaults.rto / 60), 1, 100_000),
        rpo=60.0 * _whole("rpo_minutes", params.get("rpo_minutes"), round(defaults.rpo / 60), 1, 1_000_000),
        sabotage=sabotage,
    )


def _one_of(field: str, value: Any, accepted: Sequence[str]) -> str:
    if value not in accepted:
        raise InvalidInput(field, value, f"one of {', '.join(accepted)}")
    return str(value)


def _date(value: Any) -> dt.date:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    raise InvalidInput("date", value, "a date such as 2026-11-24")


def _key(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9!_.*'()/=+:@-]{1,1024}", value):
        return value
    raise InvalidInput("key", value, "the key of a backup in the bucket of the settings")


def _whole(field: str, value: Any, default: int, least: int, most: int) -> int:
    if value is None or value == "":
        return default
    if not (re.fullmatch(r"\d{1,9}", str(value)) and least <= int(value) <= most):
        raise InvalidInput(field, value, f"a whole number from {least} to {most}")
    return int(value)


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(field, value, "true or false")
    return value
