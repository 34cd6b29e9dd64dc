"""The certificate of a deletion: what was deleted, on whose word, how that is known, and what still holds the tenant.

Two files say the same. The JSON is canonical, so that its SHA-256, which is recorded, can be computed again from what
it says; the page is for people and for paper. Neither names anybody of the tenant: only the tenant itself, by name,
slug and id, and those who asked for the deletion and approved it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

from vcci_ops.domain.pages import environment as templates
from vcci_ops.domain.plans import SHORT, canonical, plan_hash
from vcci_ops.domain.results import Status
from vcci_ops.domain.tenant_graph import quoted
from vcci_ops.domain.units import duration, humanize
from vcci_ops.settings import INCLUDE

VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """Everything a certificate says; JSON-safe through :meth:`to_dict`.

    :param deletion: id of the deletion, ``dag_id/run_id``.
    :param tenant: id, slug and name.
    :param begun_at: the first row was about to be deleted; ``proven_at``: nothing was found left.
    :param places: what was deleted, in that order: table, rows, and reasons (how they were known to be the tenant's).
    :param kept: what stays in the database by law or by a setting: table, rows.
    :param cleared: rows of nobody that lost a reference: table, rows.
    :param documents: bucket, prefix, count, bytes.
    :param keys: ``db pattern`` → cached keys deleted.
    :param export: as :meth:`vcci_ops.domain.tenant_export.Export.to_dict` gives it; empty: none was made.
    :param export_due_at: when the export is to be deleted.
    :param backups_until: when the last backup expires that still holds the tenant.
    :param searched: places in which nothing was found left: tables and other stores, in words or by name.
    :param findings: mentions of the tenant elsewhere, which no key leads to, in words.
    :param others: what cannot be shown to be untouched of other tenants, in words; empty: all of it is.
    :param withheld: columns that were deleted and are not in the export, for they are secrets.
    """

    environment: str
    deletion: str
    tenant: Mapping[str, str]
    reason: str
    legal_basis: str
    requested_by: str
    approved_by: tuple[str, ...]
    plan_hash: str
    planned_at: dt.datetime
    approved_at: dt.datetime | None
    due_at: dt.datetime | None
    begun_at: dt.datetime | None
    proven_at: dt.datetime
    places: tuple[Mapping[str, Any], ...]
    documents: Mapping[str, Any]
    keys: Mapping[str, int]
    export: Mapping[str, Any]
    export_due_at: dt.datetime | None
    backups_until: dt.datetime
    searched: tuple[str, ...]
    findings: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    kept: tuple[Mapping[str, Any], ...] = ()
    cleared: tuple[Mapping[str, Any], ...] = ()
    withheld: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows were deleted."""
        return sum(int(place["rows"]) for place in self.places)

    @property
    def filled(self) -> tuple[Mapping[str, Any], ...]:
        """The places that held rows of the tenant."""
        return tuple(place for place in self.places if place["rows"])

    @property
    def empty(self) -> tuple[str, ...]:
        """Tables that were looked at and held nothing of the tenant."""
        return tuple(str(place["table"]) for place in self.places if not place["rows"])

    @property
    def status(self) -> Status:
        """Green; yellow when a person still has to look at something."""
        return Status.WARNING if self.findings else Status.OK

    @property
    def verdict(self) -> str:
        """The certificate in one line."""
        if not self.findings:
            return f"{self.tenant['name']} is deleted, and nothing of it was found left"
        count = len(self.findings)
        return f"{self.tenant['name']} is deleted; {count} mention{'s'[: count > 1]} of it elsewhere must be looked at"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, times in RFC 3339."""
        told = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {
            "schema_version": VERSION,
            "kind": "certificate of deletion",
            **told,
            "rows": self.rows,
            "status": str(self.status),
            "verdict": self.verdict,
        }

    def document(self) -> bytes:
        """Return the JSON file: sorted keys, no blanks, UTF-8; equal certificates are equal byte for byte."""
        return canonical(self.to_dict())

    @property
    def sha256(self) -> str:
        """The SHA-256 of the JSON file, in hex."""
        return plan_hash(self.to_dict())


def certificate_of(
    record: Mapping[str, Any], *, environment: str, export_keep: float, backups_kept: float
) -> Certificate:
    """Make the certificate of a deletion's record alone, so that a repeated task makes the same one.

    :param record: a :class:`~vcci_ops.hooks.tenants.Deletion` as dict, its ``detail`` with ``proof``.
    :param export_keep: seconds that the export is kept from its snapshot on.
    :param backups_kept: seconds that a backup may be kept which holds the tenant; from the proof on.
    """
    plan, detail = record["plan"], record["detail"]
    proof, export = detail["proof"], record["export"].get("export") or {}
    deleted = _deleted(plan["graph"], record["export"].get("baseline") or {})
    proven_at = _moment(proof["at"])
    made_at = _moment(export["snapshot_at"]) if export else None
    return Certificate(
        environment=environment,
        deletion=record["id"],
        tenant={"id": record["tenant_id"], "slug": record["slug"], "name": record["name"]},
        **{name: record[name] for name in ("reason", "legal_basis", "requested_by", "plan_hash")},
        approved_by=tuple(record["approved_by"]),
        **{name: record[name] for name in ("planned_at", "approved_at", "due_at", "begun_at")},
        proven_at=proven_at,
        places=tuple(deleted),
        documents={**plan["documents"], **(record["export"].get("baseline") or {}).get("documents", {})},
        keys=plan["keys"],
        export={key: value for key, value in export.items() if key != "tables"},
        export_due_at=made_at + dt.timedelta(seconds=export_keep) if made_at else None,
        backups_until=proven_at + dt.timedelta(seconds=backups_kept),
        searched=tuple(proof["tables"]),
        findings=tuple(proof["findings"]),
        others=tuple(proof["others"]),
        kept=tuple({"table": table, "rows": rows} for table, rows in (proof.get("kept") or {}).items()),
        cleared=tuple(
            {"table": link["child"], "rows": link["clears"]} for link in plan["graph"]["links"] if link["clears"]
        ),
        withheld=tuple(sorted({_column(place, c) for place in plan["graph"]["places"] for c in place["withheld"]})),
    )


def _deleted(graph: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was deleted: the plan's places with the rows that were there when they were exported."""
    counted = baseline.get("tables") or {}
    found = []
    for place in graph["places"]:
        table = quoted(place["schema"], place["table"])
        rows = int((counted.get(table) or place)["rows"])
        found.append({"table": table, "rows": rows, "reasons": list(place["reasons"])})
    return found


def _column(place: Mapping[str, Any], column: str) -> str:
    return quoted(place["schema"], place["table"], column)


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(timespec="seconds")
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def render(certificate: Certificate) -> str:
    """Return the page: one file without scripts, for the screen and for A4."""
    helpers = {"humanize": humanize, "duration": duration, "short": SHORT, "utc": dt.UTC}
    page = templates(INCLUDE / "templates").get_template("certificate.html.j2")
    return page.render(certificate=certificate, **helpers)
