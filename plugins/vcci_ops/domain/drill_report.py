"""The page of a restore drill: what an auditor accepts as evidence that backups can be restored."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from vcci_ops.domain.drill import PHASES, Assertion, outcome
from vcci_ops.domain.mrkdwn import EMOJI, escape, link
from vcci_ops.domain.pages import environment
from vcci_ops.domain.results import Result, Status, worst
from vcci_ops.domain.units import duration, humanize
from vcci_ops.settings import INCLUDE

SECTIONS = {
    "choice": "The backup",
    "backup": "The backup",
    "restore": "The backup",
    "tables": "Rows, against the manifest",
    "sequences": "Rows, against the manifest",
    "freshness": "Rows, against the manifest",
    "constraints": "Integrity",
    "storage": "Integrity",
    "schema": "Schema and rights",
    "extensions": "Schema and rights",
    "grants": "Schema and rights",
    "business": "What must be true of the business",
    "tombstones": "What must be true of the business",
    "application": "The platform's own programs, on the copy",
    "measure": "Recovery time and data loss",
}
"""Where assertions stand, by the first part of their id; in this order."""
_NOT_RESTORED = ("backup.sha256", "backup.database", "restore.complete")
_BESIDE_THE_COPY = (
    ({"measure"}, "The backup can be restored, and is good, but NOT within the targets"),
    ({"choice", "measure"}, "A backup can NOT be used; the one restored instead is good"),
    ({"application", "measure"}, "The data is good, but the release that runs does NOT work on it"),
)
"""What may fail → the headline when nothing else did."""
PHASE_WORDS = {
    "choose": "choose",
    "scratch": "scratch database",
    "read": "read and check",
    "schema": "tables",
    "data": "rows",
    "indexes": "indexes, keys",
    "verify": "verify",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrillReport:
    """Everything that the page shows, and JSON-safe by :meth:`to_dict`.

    :param backup: key, size, sha256, taken_at, manifest, manifest_version; empty: none was chosen.
    :param measured: what :meth:`vcci_ops.domain.drill_measure.Measured.to_dict` gave; empty: nothing was.
    :param facts: server, room, scratch, collected and so on, as the tasks kept them.
    :param failures: tasks that failed without an assertion of their own, in words.
    :param due: when what failed is to be put right: status → day.
    """

    environment: str
    dag_id: str
    run_id: str
    requested_by: str
    started_at: dt.datetime
    finished_at: dt.datetime
    parameters: Mapping[str, Any]
    owner: str
    backup: Mapping[str, Any]
    assertions: tuple[Assertion, ...]
    measured: Mapping[str, Any]
    facts: Mapping[str, Any]
    targets: Mapping[str, float]
    failures: tuple[str, ...] = ()
    due: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def status(self) -> Status:
        """Return the gravest status; unknown when a task failed that asserted nothing."""
        statuses = [made.status for made in self.assertions] + [Status.UNKNOWN for _ in self.failures]
        return worst(statuses)

    @property
    def outcome(self) -> str:
        """Return passed, failed or unknown."""
        if self.failures and self.status == Status.UNKNOWN:
            return "unknown"
        return outcome(self.assertions)

    @property
    def compliance(self) -> str:
        """Return what the register says: met, failed or unknown."""
        return {"passed": "met", "failed": "failed"}.get(self.outcome, "unknown")

    @property
    def verdict(self) -> str:
        """Return the headline."""
        if self.outcome == "passed":
            return "The backup can be restored, and is good"
        if self.outcome == "unknown":
            return "It is not known whether the backup can be restored"
        if any(made.id in _NOT_RESTORED for made in self.failed):
            return "The backup can NOT be restored"
        parts = {made.part for made in self.failed}
        if "choice" in parts and not self.backup:
            return "No backup can be restored"
        for among, words in _BESIDE_THE_COPY:
            if parts <= among:
                return words
        bad = len(self.failed)
        return f"The restored copy is NOT good: {bad} assertion{'s do' if bad != 1 else ' does'} not hold"

    @property
    def failed(self) -> list[Assertion]:
        """Return what does not hold or could not be asserted."""
        return [made for made in self.assertions if made.status.fails_run]

    @property
    def issues(self) -> list[Assertion]:
        """Return everything that is to be put right, gravest first."""
        found = [made for made in self.assertions if made.status != Status.OK]
        return sorted(found, key=lambda made: -made.status.rank)

    @property
    def sections(self) -> dict[str, list[Assertion]]:
        """Return all assertions by section."""
        found: dict[str, list[Assertion]] = {}
        for part, title in SECTIONS.items():
            for made in self.assertions:
                if made.part == part:
                    found.setdefault(title, []).append(made)
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Return how many assertions there are of each status."""
        return {str(status): sum(1 for made in self.assertions if made.status == status) for status in Status}

    def due_of(self, made: Assertion) -> str:
        """Return until when it is to be put right."""
        return self.due.get("critical" if made.status.fails_run else "warning", "")

    @property
    def results(self) -> tuple[Result, ...]:
        """Return the assertions as results, for the history."""
        return tuple(
            Result(
                check=f"drill.{made.id}",
                status=made.status,
                summary=f"expected {made.expected}; found {made.found}",
                title=made.title,
                section=SECTIONS.get(made.part, ""),
                action=made.why,
                details=made.lines[:20],
            )
            for made in self.assertions
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "kind": "restore-drill",
            "verdict": self.verdict,
            "outcome": self.outcome,
            "status": str(self.status),
            "environment": self.environment,
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "requested_by": self.requested_by,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "parameters": dict(self.parameters),
            "owner": self.owner,
            "backup": dict(self.backup),
            "targets": dict(self.targets),
            "measured": dict(self.measured),
            "facts": dict(self.facts),
            "failures": list(self.failures),
            "due": dict(self.due),
            "assertions": [made.to_dict() for made in self.assertions],
        }

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of report.json as it is stored: ``sha256sum report.json`` gives the same."""
        return hashlib.sha256(json.dumps(self.to_dict(), indent=1).encode()).hexdigest()

    @property
    def phases(self) -> list[tuple[str, float, float]]:
        """Return each phase with its seconds and its share of them all, in percent."""
        taken = self.measured.get("phases") or {}
        total = sum(taken.values()) or 1.0
        return [(PHASE_WORDS[p], taken[p], 100 * taken[p] / total) for p in PHASES if p in taken]

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Return recovery times of the drills before and of this one, oldest first, with their height in percent."""
        before = [
            {"at": b["at"], "seconds": b["rto_seconds"], "outcome": b["outcome"]}
            for b in reversed(self.measured.get("before") or [])
        ]
        own = self.measured.get("rto_seconds")
        if own is not None:
            before.append({"at": self.started_at.isoformat(), "seconds": own, "outcome": self.outcome})
        highest = max([column["seconds"] for column in before] or [1.0]) or 1.0
        return [{**column, "height": max(2.0, 100 * column["seconds"] / highest)} for column in before]


def render(report: DrillReport) -> str:
    """Return the page."""
    page = environment(INCLUDE / "templates").get_template("drill.html.j2")
    return page.render(report=report, humanize=humanize, duration=duration)


def slack_root(report: DrillReport, url: str) -> str:
    """Return the headline, with the numbers that matter."""
    lines = [
        f"{EMOJI[report.status]} *Restore drill: {escape(report.verdict)}* · {escape(report.environment)}",
        _numbers(report),
    ]
    if report.backup:
        by = report.requested_by
        asked = "on schedule" if by in ("", "unknown") else f"asked for by {escape(by)}"
        lines.append(f"`{escape(str(report.backup['key']))}`, {asked}")
    return "\n".join([*filter(None, lines), link(url, "Report")])


def slack_final(report: DrillReport, url: str) -> str:
    """Return what is to be put right."""
    lines = [
        f"• {EMOJI[made.status]} *{escape(made.title)}*: expected {escape(made.expected)}; found {escape(made.found)}"
        for made in report.issues[:10]
    ]
    lines += [f"• {escape(failure)}" for failure in report.failures[:5]]
    if len(report.issues) > 10:
        lines.append(f"and {len(report.issues) - 10} more")
    said = "\n".join(lines) or "Every assertion holds."
    return f"{said}\n{link(url, 'Page for the auditor')} · SHA-256 of report.json `{report.digest}`"


def _numbers(report: DrillReport) -> str:
    measured, said = report.measured, []
    if measured.get("rto_seconds") is not None:
        said.append(f"RTO {duration(measured['rto_seconds'])} (target {duration(report.targets['rto'])})")
    if measured.get("rpo_seconds") is not None:
        said.append(f"RPO {duration(measured['rpo_seconds'])} (target {duration(report.targets['rpo'])})")
    counts = {name: number for name, number in report.counts.items() if number}
    said.append(", ".join(f"{number} {name}" for name, number in counts.items()))
    return " · ".join(filter(None, said))


def words(failed: Sequence[Assertion], failures: Sequence[str]) -> str:
    """Return in a line why a drill did not pass."""
    said = [f"{made.title}: expected {made.expected}, found {made.found}" for made in failed[:3]]
    return "; ".join([*said, *failures[:2]])
