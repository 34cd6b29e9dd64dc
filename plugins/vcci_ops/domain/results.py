"""What a check says: a :class:`Result` with one of four statuses."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable, Mapping
from typing import Any


class Status(enum.StrEnum):
    """The four statuses. What could not be measured is ``UNKNOWN``, never ``OK``."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def rank(self) -> int:
        """Severity for sorting, 0 (ok) to 3 (critical)."""
        return _RANK[self]

    @property
    def fails_run(self) -> bool:
        """Whether a run with such a result ends failed."""
        return self in (Status.CRITICAL, Status.UNKNOWN)


_RANK = {Status.OK: 0, Status.WARNING: 1, Status.UNKNOWN: 2, Status.CRITICAL: 3}


def worst(statuses: Iterable[Status]) -> Status:
    """Return the gravest status; ``UNKNOWN`` when there is none, for nothing was measured."""
    return max(statuses, key=lambda s: s.rank, default=Status.UNKNOWN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of one check on one subject; everything a report needs, and JSON-safe.

    :param check: id of the check in the settings, e.g. ``queues.depth``.
    :param subject: which one, where a check looks at several (a queue, a Deployment); else "".
    :param status: the verdict.
    :param summary: one sentence, what was found.
    :param value: the measured number in ``unit``; None when there is none.
    :param display: the value as people read it, e.g. ``1.34 GB``.
    :param unit: unit of ``value``, e.g. ``bytes``, ``s``, ``percent``, ``pods``.
    :param threshold: the limits in words, e.g. ``warning above 80, critical above 95 percent``.
    :param reason: machine word behind an unknown (``unreachable``, ``no_data``, ``forbidden`` ...).
    :param details: further lines for the report and the Slack thread; keep under some 20.
    :param query: what was asked, resolved (PromQL, SQL, API path); never a credential.
    :param title: what the check is called.
    :param section: the report's section, one of the runbook's.
    :param meaning: what a bad value means.
    :param action: what to do about it.
    :param runbook: the step of the runbook that it comes from.
    :param link: where a person would look next (URL), or "".
    :param observed_at: when it was measured, ISO 8601 in UTC.
    """

    check: str
    status: Status
    summary: str
    subject: str = ""
    value: float | None = None
    display: str = ""
    unit: str = ""
    threshold: str = ""
    reason: str = ""
    details: tuple[str, ...] = ()
    query: str = ""
    title: str = ""
    section: str = ""
    meaning: str = ""
    action: str = ""
    runbook: str = ""
    link: str = ""
    observed_at: str = dataclasses.field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the same check on the same subject across runs."""
        return (self.check, self.subject)

    @property
    def name(self) -> str:
        """What it is about, for people: ``Queue depth [calculator]``."""
        return f"{self.title or self.check}{f' [{self.subject}]' if self.subject else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` is the inverse."""
        return {**dataclasses.asdict(self), "status": str(self.status), "details": list(self.details)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """Read what :meth:`to_dict` wrote; unknown keys are ignored, so old records stay readable."""
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in data.items() if name in names}
        known["status"] = Status(known["status"])
        known["details"] = tuple(known.get("details") or ())
        return cls(**known)
