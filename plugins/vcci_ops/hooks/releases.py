"""What runs that change the platform leave in the history database: steps done, releases, incidents, changes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from vcci_ops.exceptions import NoData
from vcci_ops.hooks.history import History


@dataclasses.dataclass(frozen=True)
class Journal:
    """What one run has done, so that a repeated task finds it and does not do it twice.

    The first writer wins: of two processes that note the same step, both go on with what the first one noted.
    """

    environment: str
    dag_id: str
    run_id: str
    conn_id: str = "vcci_ops_db"

    @property
    def source(self) -> str:
        """How other tables name the run."""
        return f"{self.dag_id}/{self.run_id}"

    def recall(self, step: str) -> dict[str, Any] | None:
        """Return what was noted under a step, or None.

        :raises MeasurementError: when the database does not answer; "not done" would be a guess.
        """
        query = "SELECT detail FROM step WHERE environment = %s AND dag_id = %s AND run_id = %s AND step = %s"
        with History(self.conn_id).connect() as connection:
            row = connection.execute(query, (self.environment, self.dag_id, self.run_id, step)).fetchone()
        return row[0] if row else None

    def remember(self, step: str, detail: Mapping[str, Any]) -> dict[str, Any]:
        """Note a step once and return what stands under it: this detail, or an earlier one."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO step (environment, dag_id, run_id, step, detail) VALUES (%s, %s, %s, %s, %s) "
                "ON CONFLICT (environment, dag_id, run_id, step) DO NOTHING",
                (self.environment, self.dag_id, self.run_id, step, json.dumps(detail)),
            )
            row = connection.execute(
                "SELECT detail FROM step WHERE environment = %s AND dag_id = %s AND run_id = %s AND step = %s",
                (self.environment, self.dag_id, self.run_id, step),
            ).fetchone()
        return dict(row[0]) if row else {}

    def steps(self) -> dict[str, tuple[dt.datetime, dict[str, Any]]]:
        """Return every step of the run with its time, in the order in which they were noted."""
        query = "SELECT step, at, detail FROM step WHERE environment = %s AND dag_id = %s AND run_id = %s ORDER BY at"
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(query, (self.environment, self.dag_id, self.run_id)).fetchall()
        return {step: (at, detail) for step, at, detail in rows}

    def changed(self, kind: str, actor: str, summary: str, detail: Mapping[str, Any] | None = None) -> None:
        """Mark on every trend that this run changed the platform; the same change is marked once.

        :param kind: deploy, rollback, scale, restart, lock-broken.
        """
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO change_event (environment, kind, actor, source, summary, detail) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT ON CONSTRAINT change_event_once DO NOTHING",
                (self.environment, kind, actor, self.source, summary, json.dumps(detail or {})),
            )

    def open_incident(self, severity: str, title: str, detail: Mapping[str, Any] | None = None) -> str:
        """Open an incident record and return its id, such as ``INC-2026-11-24-001``; the same one is opened once.

        :param severity: P0 to P3, as the runbook defines them.
        """
        with History(self.conn_id).connect() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('vcci-ops incident'))")
            row = connection.execute(
                """
                WITH today AS (SELECT 'INC-' || to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD-') AS prefix)
                INSERT INTO incident (id, environment, severity, title, source, detail)
                SELECT prefix || lpad((1 + n)::text, 3, '0'), %s, %s, %s, %s, %s
                FROM today, LATERAL (SELECT count(*) FROM incident WHERE starts_with(id, prefix)) AS before (n)
                ON CONFLICT ON CONSTRAINT incident_once DO UPDATE SET detail = excluded.detail RETURNING id
                """,
                (self.environment, severity, title, self.source, json.dumps(detail or {})),
            ).fetchone()
        return str(row[0]) if row else ""


@dataclasses.dataclass(frozen=True)
class Releases:
    """The record of releases and rollbacks of an environment."""

    environment: str
    conn_id: str = "vcci_ops_db"

    def begin(self, journal: Journal, kind: str, plan: Mapping[str, Any], digest: str, by: Mapping[str, Any]) -> None:
        """Record that a release or rollback begins; once.

        :param by: requested_by, approved_by and reason.
        """
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO release (environment, dag_id, run_id, kind, version, from_version, outcome, requested_by, "
                "approved_by, reason, plan_hash, plan) VALUES (%s, %s, %s, %s, %s, %s, 'running', %s, %s, %s, %s, %s) "
                "ON CONFLICT (environment, dag_id, run_id) DO NOTHING",
                (
                    self.environment,
                    journal.dag_id,
                    journal.run_id,
                    kind,
                    plan["version"],
                    plan["from_version"],
                    by.get("requested_by") or "unknown",
                    by.get("approved_by"),
                    by.get("reason") or "",
                    digest,
                    json.dumps(plan),
                ),
            )

    def end(self, journal: Journal, outcome: str, detail: Mapping[str, Any]) -> None:
        """Record how it ended; writing it again replaces it."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "UPDATE release SET outcome = %s, ended_at = now(), detail = %s "
                "WHERE environment = %s AND dag_id = %s AND run_id = %s",
                (outcome, json.dumps(detail), self.environment, journal.dag_id, journal.run_id),
            )

    def latest(self, most: int = 20) -> list[dict[str, Any]]:
        """Return the newest releases and rollbacks, newest first."""
        columns = (
            "dag_id",
            "run_id",
            "kind",
            "version",
            "from_version",
            "outcome",
            "requested_by",
            "approved_by",
            "at",
        )
        query = (
            "SELECT dag_id, run_id, kind, version, from_version, outcome, requested_by, approved_by, started_at "
            "FROM release WHERE environment = %s ORDER BY started_at DESC LIMIT %s"
        )
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(query, (self.environment, most)).fetchall()
        return [{**dict(zip(columns, row, strict=True)), "at": row[-1].isoformat()} for row in rows]

    def image_that_migrated(self, revision: str, repository: str) -> str | None:
        """Return the image of the newest release that brought the schema to a revision: it has the scripts.

        :param repository: of the image that the Jobs run.
        """
        query = (
            "SELECT plan #>> ARRAY['images', %s, 'reference'] FROM release WHERE environment = %s AND kind = 'deploy' "
            "AND plan #>> '{schema,to}' = %s AND plan #> '{schema,apply}' = 'true' ORDER BY started_at DESC LIMIT 1"
        )
        with History(self.conn_id).connect() as connection:
            row = connection.execute(query, (repository, self.environment, revision)).fetchone()
        return str(row[0]) if row and row[0] else None

    def close_incident(self, number: str, by: str, reason: str) -> str:
        """Close an incident and return its title; one that is closed already stays as it was closed.

        :param number: such as ``INC-2026-11-24-001``.
        :raises NoData: when there is none of this number.
        """
        closing = json.dumps({"closed_by": by, "closed_because": reason})
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "UPDATE incident SET closed_at = now(), detail = detail || %s::jsonb "
                "WHERE id = %s AND environment = %s AND closed_at IS NULL",
                (closing, number, self.environment),
            )
            row = connection.execute(
                "SELECT title FROM incident WHERE id = %s AND environment = %s", (number, self.environment)
            ).fetchone()
        if row is None:
            raise NoData(f"there is no incident {number} in {self.environment}")
        return str(row[0])

    def open_incidents(self) -> list[dict[str, Any]]:
        """Return the incidents that nobody has closed, gravest first."""
        query = (
            "SELECT id, severity, title FROM incident WHERE environment = %s AND closed_at IS NULL ORDER BY severity"
        )
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(query, (self.environment,)).fetchall()
        return [dict(zip(("id", "severity", "title"), row, strict=True)) for row in rows]
