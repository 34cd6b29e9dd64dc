"""What maintenance did, in the history: one row for each object of a run, and what can be learnt from the past."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from vcci_ops.hooks.history import History

PASSES = "passes"
"""Key of a report: kind → ``whole`` when a pass over the whole database left nothing over."""
WHOLE = "whole"
_SMALL = 1_000_000
"""Bytes below which a work says nothing about speed."""


@dataclasses.dataclass(frozen=True)
class Action:
    """One row of maintenance_action."""

    kind: str
    object: str
    state: str
    started_at: dt.datetime
    ended_at: dt.datetime | None
    detail: dict[str, Any]

    @property
    def seconds(self) -> float:
        """How long it took; 0 while it runs."""
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at else 0.0


@dataclasses.dataclass(frozen=True)
class Actions:
    """The actions of one run, and those of the past.

    :param source: ``dag_id/run_id``.
    """

    environment: str
    source: str
    conn_id: str = "vcci_ops_db"

    def begin(self, kind: str, name: str, detail: Mapping[str, Any]) -> None:
        """Note that a work begins; begun again, it begins anew."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO maintenance_action (environment, source, kind, object, state, started_at, detail) "
                "VALUES (%s, %s, %s, %s, 'running', clock_timestamp(), %s) "
                "ON CONFLICT ON CONSTRAINT maintenance_action_once DO UPDATE SET state = 'running', "
                "started_at = excluded.started_at, ended_at = NULL, detail = excluded.detail",
                (self.environment, self.source, kind, name, json.dumps(detail)),
            )

    def end(self, kind: str, name: str, state: str, detail: Mapping[str, Any]) -> None:
        """Note how a work ended; one that never began has no length."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO maintenance_action AS a (environment, source, kind, object, state, started_at, ended_at, "
                "detail) SELECT %s, %s, %s, %s, %s, at, at, %s FROM clock_timestamp() AS at "
                "ON CONFLICT ON CONSTRAINT maintenance_action_once DO UPDATE SET state = excluded.state, "
                "ended_at = excluded.ended_at, detail = a.detail || excluded.detail",
                (self.environment, self.source, kind, name, state, json.dumps(detail)),
            )

    def all(self) -> list[Action]:
        """Return what this run did, in its order."""
        query = (
            "SELECT kind, object, state, started_at, ended_at, detail FROM maintenance_action "
            "WHERE environment = %s AND source = %s ORDER BY started_at, id"
        )
        with History(self.conn_id).connect() as connection:
            return [Action(*row) for row in connection.execute(query, (self.environment, self.source)).fetchall()]

    def past(self, kind: str) -> list[tuple[float, float]]:
        """Return bytes and seconds of the newest works of a kind that ended well and were large enough to tell."""
        query = (
            "SELECT (detail ->> 'bytes_worked')::float8, extract(epoch FROM ended_at - started_at)::float8 "
            "FROM maintenance_action WHERE environment = %s AND kind = %s AND state = 'done' "
            "AND (detail ->> 'bytes_worked')::float8 >= %s ORDER BY started_at DESC LIMIT 40"
        )
        with History(self.conn_id).connect() as connection:
            return [(b, s) for b, s in connection.execute(query, (self.environment, kind, _SMALL)).fetchall()]

    def last_passes(self, dag_id: str, kinds: tuple[str, ...]) -> dict[str, dt.datetime]:
        """Return when the last pass of each kind began that went over the whole database and left nothing over."""
        query = (
            "SELECT max(started_at) FROM run WHERE environment = %s AND dag_id = %s "
            "AND report #>> ARRAY['passes', %s] = %s AND dag_id || '/' || run_id <> %s"
        )
        found = {}
        with History(self.conn_id).connect() as connection:
            for kind in kinds:
                given = (self.environment, dag_id, kind, WHOLE, self.source)
                row = connection.execute(query, given).fetchone()
                if row and row[0]:
                    found[kind] = row[0]
        return found
