"""Restore drills in the history: what was asserted, how it ended, the compliance register, and what came before."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Any

from vcci_ops.domain.drill import Assertion
from vcci_ops.domain.drill_choice import Recorded
from vcci_ops.hooks.history import History

CONTROL = "backup-restore-test"
"""What the compliance register calls a drill."""
SCRATCH = "scratch"
"""Step of the journal under which a run notes what its database is called, before it makes it."""


@dataclasses.dataclass(frozen=True)
class Past:
    """An earlier drill."""

    drill: str
    outcome: str
    started_at: dt.datetime
    backup: str
    rto: float | None
    rpo: float | None
    bytes: int | None
    phases: Mapping[str, float]
    detail: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Drills:
    """The drills of an environment."""

    environment: str
    conn_id: str = "vcci_ops_db"

    def begin(self, drill: str, started_at: dt.datetime) -> None:
        """Record that a drill began; once."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO drill (id, environment, backup, outcome, started_at) VALUES (%s, %s, '', 'running', %s) "
                "ON CONFLICT (id) DO NOTHING",
                (drill, self.environment, started_at),
            )

    def chosen(self, drill: str, backup: str, size: int) -> None:
        """Record which backup it restores."""
        with History(self.conn_id).connect() as connection:
            connection.execute("UPDATE drill SET backup = %s, bytes = %s WHERE id = %s", (backup, size, drill))

    def note(self, drill: str, detail: Mapping[str, Any]) -> None:
        """Keep something with a drill; of two of a name the later one stays."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "UPDATE drill SET detail = detail || %s::jsonb WHERE id = %s", (json.dumps(detail), drill)
            )

    def detail(self, drill: str) -> dict[str, Any]:
        """Return what was kept with a drill."""
        with History(self.conn_id).connect() as connection:
            row = connection.execute("SELECT detail FROM drill WHERE id = %s", (drill,)).fetchone()
        return dict(row[0]) if row else {}

    def took(self, drill: str, phase: str, seconds: float) -> None:
        """Record how long a phase took; a phase that is done again replaces it."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "UPDATE drill SET phases = phases || jsonb_build_object(%s::text, %s::float8) WHERE id = %s",
                (phase, seconds, drill),
            )

    def asserted(self, drill: str, part: str, assertions: Iterable[Assertion]) -> None:
        """Record what a part of a drill asserts, in place of what that part asserted before.

        :param part: what the ids begin with: tables, constraints, ...; or a whole id.
        """
        with History(self.conn_id).connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM drill_assertion WHERE drill_id = %s AND (assertion = %s OR starts_with(assertion, %s))",
                (drill, part, f"{part}."),
            )
            cursor.executemany(
                "INSERT INTO drill_assertion (drill_id, assertion, status, expected, found, detail) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (drill_id, assertion) DO UPDATE SET "
                "status = excluded.status, expected = excluded.expected, found = excluded.found, "
                "detail = excluded.detail",
                [(drill, a.id, str(a.status), a.expected, a.found, json.dumps(a.to_dict())) for a in assertions],
            )

    def assertions(self, drill: str) -> list[Assertion]:
        """Return what a drill asserted, in the order of its ids."""
        query = "SELECT detail FROM drill_assertion WHERE drill_id = %s ORDER BY assertion"
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(query, (drill,)).fetchall()
        return [Assertion.from_dict(row[0]) for row in rows]

    def end(self, drill: str, outcome: str, rto: float | None, rpo: float | None) -> None:
        """Record how it ended; writing it again replaces it."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "UPDATE drill SET outcome = %s, ended_at = now(), rto_seconds = %s, rpo_seconds = %s WHERE id = %s",
                (outcome, rto, rpo, drill),
            )
            if outcome == "passed":
                connection.execute(
                    "UPDATE backup SET restored_at = now() WHERE environment = %s "
                    "AND key = (SELECT backup FROM drill WHERE id = %s)",
                    (self.environment, drill),
                )

    def get(self, drill: str) -> Past | None:
        """Return a drill, or None."""
        return next(iter(self._pasts("id = %s", drill, 1)), None)

    def past(self, drill: str, most: int = 12) -> list[Past]:
        """Return the drills before one that measured a recovery time, newest first."""
        where = "id <> %s AND rto_seconds IS NOT NULL AND detail ->> 'sabotage' IS NULL"
        return self._pasts(where, drill, most)

    def _pasts(self, where: str, drill: str, most: int) -> list[Past]:
        columns = "id, outcome, started_at, backup, rto_seconds, rpo_seconds, bytes, phases, detail"
        query = f"SELECT {columns} FROM drill WHERE environment = %s AND {where} "  # noqa: S608 - fixed text
        query += "ORDER BY started_at DESC LIMIT %s"
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(query, (self.environment, drill, most)).fetchall()
        return [Past(*row) for row in rows]

    def register(self, drill: str, status: str, evidence: str, sha256: str, detail: Mapping[str, Any]) -> None:
        """Write the row of the compliance register; writing it again replaces it.

        :param status: met, failed or unknown.
        :param evidence: key in the report bucket; ``sha256``: of what lies there.
        """
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO compliance_register (environment, control, at, status, source, evidence, "
                "evidence_sha256, detail) VALUES (%s, %s, now(), %s, %s, %s, %s, %s) "
                "ON CONFLICT ON CONSTRAINT compliance_register_once DO UPDATE SET at = excluded.at, "
                "status = excluded.status, evidence = excluded.evidence, evidence_sha256 = excluded.evidence_sha256, "
                "detail = excluded.detail",
                (self.environment, CONTROL, status, drill, evidence, sha256, json.dumps(detail)),
            )

    # What others have recorded ---------------------------------------------------------------------

    def recorded(self, keys: Iterable[str]) -> dict[str, Recorded]:
        """Return what is known of backups, by key; one that vcci-ops did not make is not among them."""
        query = (
            "SELECT key, state, sha256, coalesce(detail ->> 'manifest_sha256', '') FROM backup "
            "WHERE environment = %s AND key = ANY(%s)"
        )
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(query, (self.environment, list(keys))).fetchall()
        return {key: Recorded(state, sha256, manifest or None) for key, state, sha256, manifest in rows}

    def tombstones(self) -> dict[str, dt.datetime]:
        """Return the tenants that were deleted and must stay so: id → when."""
        query = "SELECT tenant_id, deleted_at FROM tombstone WHERE environment = %s"
        with History(self.conn_id).connect() as connection:
            return dict(connection.execute(query, (self.environment,)).fetchall())

    def run_of(self, database: str) -> str | None:
        """Return which run noted that it is about to make this database, ``dag_id/run_id``, or None."""
        query = "SELECT dag_id || '/' || run_id FROM step WHERE step = %s AND detail ->> 'database' = %s"
        with History(self.conn_id).connect() as connection:
            row = connection.execute(query, (SCRATCH, database)).fetchone()
        return str(row[0]) if row else None
