"""What became of onboardings and suspensions, in the history database; names no person of the tenant.

Deletions have a record of their own (:mod:`vcci_ops.hooks.tenants`).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from vcci_ops.exceptions import NoData, Refused
from vcci_ops.hooks.history import History

RUNNING, DONE, FAILED, UNDONE = "running", "done", "failed", "undone"


@dataclasses.dataclass(frozen=True)
class Onboarding:
    """How far the onboarding of a slug is."""

    slug: str
    tenant_id: str
    """Chosen before the tenant was created: a row of another id is another's."""
    request_hash: str
    state: str
    source: str
    """``dag_id/run_id`` that worked on it last."""
    detail: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Onboardings:
    """The onboardings of an environment, one for each slug."""

    environment: str
    conn_id: str = "vcci_ops_db"

    def find(self, slug: str) -> Onboarding | None:
        """Return the onboarding of a slug, or None."""
        query = (
            "SELECT slug, tenant_id, request_hash, state, source, detail FROM tenant_onboarding "
            "WHERE environment = %s AND slug = %s"
        )
        with History(self.conn_id).connect() as connection:
            row = connection.execute(query, (self.environment, slug)).fetchone()
        return Onboarding(*row) if row else None

    def begin(self, slug: str, tenant_id: str, request_hash: str, source: str, *, anew: bool) -> Onboarding:
        """Begin an onboarding, or take up the one that is there; return what stands.

        :param tenant_id: for a new one; one that is taken up keeps its own.
        :param source: ``dag_id/run_id`` that works on it from now on.
        :param anew: there is no tenant of an earlier one (any more): replace it.
        :raises Refused: when the slug is that of an onboarding for another request.
        """
        key = (self.environment, slug)
        given: tuple[str, ...] = (tenant_id, request_hash, source)
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO tenant_onboarding (environment, slug, tenant_id, request_hash, state, source) "
                "VALUES (%s, %s, %s, %s, 'running', %s) ON CONFLICT (environment, slug) DO NOTHING",
                (*key, *given),
            )
            where = "WHERE environment = %s AND slug = %s"
            query = f"SELECT request_hash FROM tenant_onboarding {where} FOR UPDATE"  # noqa: S608 - fixed text
            (known,) = connection.execute(query, key).fetchone() or ("",)
            if anew:
                sets = "tenant_id = %s, request_hash = %s, source = %s, started_at = now(), detail = '{}'"
            elif known == request_hash:
                sets, given = "source = %s", (source,)
            else:
                raise Refused(f"the slug {slug} is being onboarded for another request; nothing was changed")
            statement = f"UPDATE tenant_onboarding SET {sets}, state = 'running', ended_at = NULL {where}"  # noqa: S608
            connection.execute(statement, (*given, *key))
        found = self.find(slug)
        if found is None:
            raise NoData(f"the onboarding of {slug} is gone from the history")
        return found

    def end(self, slug: str, source: str, state: str, detail: Mapping[str, Any] | None = None) -> bool:
        """Write how it stands, unless another run has taken it up; return whether it was this run's."""
        with History(self.conn_id).connect() as connection:
            done = connection.execute(
                "UPDATE tenant_onboarding SET state = %s, ended_at = now(), detail = detail || %s::jsonb "
                "WHERE environment = %s AND slug = %s AND source = %s",
                (state, json.dumps(detail or {}), self.environment, slug, source),
            )
        return done.rowcount == 1


@dataclasses.dataclass(frozen=True)
class Suspension:
    """A suspension of a tenant."""

    tenant_id: str
    slug: str
    reason: str
    by: str
    source: str
    at: dt.datetime
    until: dt.datetime | None
    ended_at: dt.datetime | None
    ended_by: str | None
    detail: dict[str, Any]
    """``suspended_at``: as the platform's table had it then."""

    def __str__(self) -> str:
        """Say it in a few words: ``suspended by ines since 2026-11-24 09:00 UTC until …: unpaid``."""
        until = f" until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ""
        return f"suspended by {self.by} since {self.at:%Y-%m-%d %H:%M} UTC{until}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Suspensions:
    """The suspensions of an environment."""

    environment: str
    conn_id: str = "vcci_ops_db"

    def begin(self, tenant: tuple[str, str], reason: str, by: str, source: str, until: dt.datetime | None) -> None:
        """Record that a run suspends a tenant; once.

        :param tenant: id and slug.
        """
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO tenant_suspension (environment, tenant_id, slug, reason, suspended_by, source, until) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT ON CONSTRAINT tenant_suspension_once DO NOTHING",
                (self.environment, *tenant, reason, by, source, until),
            )

    def note(self, source: str, detail: Mapping[str, Any]) -> None:
        """Keep something with a run's suspension; what was noted first stays."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "UPDATE tenant_suspension SET detail = %s::jsonb || detail WHERE environment = %s AND source = %s",
                (json.dumps(detail), self.environment, source),
            )

    def end(self, tenant_id: str, by: str, source: str = "") -> int:
        """End a tenant's open suspensions, or only that of a run; return how many there were.

        :param by: who, in words.
        """
        with History(self.conn_id).connect() as connection:
            done = connection.execute(
                "UPDATE tenant_suspension SET ended_at = now(), ended_by = %s WHERE environment = %s "
                "AND tenant_id = %s AND ended_at IS NULL AND (%s = '' OR source = %s)",
                (by, self.environment, tenant_id, source, source),
            )
        return done.rowcount

    def of_run(self, source: str) -> Suspension | None:
        """Return the suspension that a run has made, or None."""
        return self._one("source = %s", source)

    def open(self, tenant_id: str) -> Suspension | None:
        """Return a tenant's newest suspension that has not ended, or None."""
        return self._one("ended_at IS NULL AND tenant_id = %s", tenant_id)

    def _one(self, where: str, value: str) -> Suspension | None:
        columns = "tenant_id, slug, reason, suspended_by, source, suspended_at, until, ended_at, ended_by, detail"
        query = f"SELECT {columns} FROM tenant_suspension WHERE environment = %s AND {where} "  # noqa: S608 - fixed text
        query += "ORDER BY suspended_at DESC LIMIT 1"
        with History(self.conn_id).connect() as connection:
            row = connection.execute(query, (self.environment, value)).fetchone()
        return Suspension(*row) if row else None
