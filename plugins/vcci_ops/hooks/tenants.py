"""The record of tenants' deletions and the tombstones of those that are gone, both in the history database.

A deletion goes ``exporting`` → ``grace`` → ``deleting`` → ``proving`` → ``deleted``. It ends ``cancelled`` when the
tenant comes back before its first row was deleted, and waits ``stopped`` for a person when something speaks against
going on. Every step is one guarded UPDATE: of two that want different ways on, the first one wins, and a step that
is repeated finds itself done.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from vcci_ops.exceptions import NoData, Refused
from vcci_ops.hooks.history import History

if TYPE_CHECKING:
    from psycopg import Connection

EXPORTING, GRACE, DELETING, PROVING = "exporting", "grace", "deleting", "proving"
DELETED, CANCELLED, STOPPED = "deleted", "cancelled", "stopped"
OPEN = (EXPORTING, GRACE, DELETING, PROVING, STOPPED)
"""States of a deletion that has not come to its end."""
_CANCELLABLE = (EXPORTING, GRACE, STOPPED)
_COLUMNS = (
    "id, tenant_id, slug, name, state, reason, legal_basis, requested_by, approved_by, plan_hash, plan, export, "
    "planned_at, approved_at, due_at, begun_at, ended_at, detail"
)


@dataclasses.dataclass(frozen=True)
class Deletion:
    """One approved deletion, and how far it is."""

    id: str
    """``dag_id/run_id`` that planned it."""
    tenant_id: str
    slug: str
    name: str
    state: str
    reason: str
    legal_basis: str
    requested_by: str
    approved_by: list[str]
    plan_hash: str
    plan: dict[str, Any]
    """As approved."""
    export: dict[str, Any]
    """What was exported, and what was counted then; empty before that."""
    planned_at: dt.datetime
    approved_at: dt.datetime | None
    due_at: dt.datetime | None
    begun_at: dt.datetime | None
    """When the first row was about to be deleted; None: nothing is deleted yet."""
    ended_at: dt.datetime | None
    detail: dict[str, Any]
    """What was noted on the way: ``why`` it stopped, ``by`` and ``because`` it was cancelled, ``others`` before."""

    @property
    def begun(self) -> bool:
        """Whether rows may be gone: from here on there is no way back."""
        return self.begun_at is not None

    def __str__(self) -> str:
        """Say it in a few words: ``the deletion of acme (grace, due 2026-12-24), asked for by ines``."""
        due = f", due {self.due_at:%Y-%m-%d %H:%M} UTC" if self.state == GRACE and self.due_at else ""
        why = f": {self.detail['why']}" if self.state == STOPPED and self.detail.get("why") else ""
        return f"the deletion of {self.slug} ({self.state}{due}), asked for by {self.requested_by}{why}"


@dataclasses.dataclass(frozen=True)
class Deletions:
    """The deletions of an environment."""

    environment: str
    conn_id: str = "vcci_ops_db"

    # Asking -----------------------------------------------------------------------------------------

    def get(self, id_: str) -> Deletion:
        """Return one deletion.

        :raises NoData: when there is none of this id.
        """
        if found := self._select("id = %s", (id_,)):
            return found[0]
        raise NoData(f"there is no deletion {id_} in {self.environment}")

    def known(self, id_: str) -> Deletion | None:
        """Return one deletion, or None when there is none of this id."""
        return next(iter(self._select("id = %s", (id_,))), None)

    def of_tenant(self, tenant_id: str) -> Deletion | None:
        """Return the deletion of a tenant that has not come to its end, or None."""
        return next(iter(self._select("tenant_id = %s AND state = ANY(%s)", (tenant_id, list(OPEN)))), None)

    def due(self, now: dt.datetime, slug: str = "") -> list[Deletion]:
        """Return what is to be deleted now, the longest due first.

        Begun and unfinished: always. What stopped after its first row only when it is asked for by its slug, for a
        person had to look first.

        :param slug: only this tenant's; empty: all.
        """
        where = "(state = %s AND due_at <= %s OR state = ANY(%s) OR %s <> '' AND state = %s AND begun_at IS NOT NULL)"
        given: tuple[Any, ...] = (GRACE, now, [DELETING, PROVING], slug, STOPPED)
        return self._select(f"{where} AND (%s = '' OR slug = %s)", (*given, slug, slug))

    def latest(self, slug: str) -> Deletion | None:
        """Return the newest deletion of a tenant of this slug, whatever became of it, or None."""
        return next(iter(self._select("slug = %s", (slug,), order="planned_at DESC")), None)

    # Going on ---------------------------------------------------------------------------------------

    def begin(self, id_: str, plan: Mapping[str, Any], digest: str, approval: Mapping[str, Any]) -> Deletion:
        """Record an approved plan, once; what stopped before its first row gives way to it.

        One that stopped before its own grace begins again, so that its run can be cleared.

        :param id_: ``dag_id/run_id``.
        :param plan: JSON-safe; with ``tenant`` (id, slug, name), ``reason``, ``legal_basis``, ``requested_by``.
        :param digest: the plan's hash.
        :param approval: ``by``, a list of names, and ``at``, RFC 3339.
        :raises Refused: when the tenant is in another deletion, or this one was cancelled meanwhile.
        """
        tenant = plan["tenant"]
        values = (
            *(id_, self.environment, tenant["id"], tenant["slug"], tenant["name"], EXPORTING),
            *(plan["reason"], plan["legal_basis"], plan["requested_by"], json.dumps(list(approval["by"]))),
            *(digest, json.dumps(plan), approval["at"]),
        )
        with History(self.conn_id).connect() as connection:
            self._give_way(connection, tenant["id"], id_)
            connection.execute(
                "INSERT INTO tenant_deletion (id, environment, tenant_id, slug, name, state, reason, legal_basis, "
                "requested_by, approved_by, plan_hash, plan, approved_at) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                values,
            )
            connection.execute(
                "UPDATE tenant_deletion SET state = %s WHERE environment = %s AND id = %s AND plan_hash = %s "
                "AND state = %s AND begun_at IS NULL AND due_at IS NULL",
                (EXPORTING, self.environment, id_, digest, STOPPED),
            )
        mine, open_ = self.known(id_), self.of_tenant(tenant["id"])
        if mine is None:
            raise Refused(f"{open_ or 'another deletion of ' + tenant['slug']} is under way; nothing was changed")
        if mine.state == CANCELLED or mine.plan_hash != digest:
            raise Refused(f"{mine} was {mine.state} meanwhile; nothing was changed. Start a new run")
        return mine

    def await_end_of_grace(self, id_: str, export: Mapping[str, Any], due_at: dt.datetime) -> Deletion:
        """Begin the days of grace: the export is proven.

        :param export: what the purge compares with and the certificate tells.
        """
        given = (json.dumps(export), due_at)
        passed = (DELETING, PROVING, DELETED)
        return self._move(id_, GRACE, (EXPORTING,), sets=", export = %s, due_at = %s", given=given, passed=passed)

    def take(self, id_: str, now: dt.datetime) -> Deletion:
        """Take a due deletion to delete it: from here on nobody cancels it. Exactly one of this and a cancel wins.

        :raises Refused: when it is cancelled, not due, or stopped before its first row.
        """
        where = "(state = %s AND due_at <= %s OR state = %s AND begun_at IS NOT NULL)"
        self._update(id_, "state = %s", where, (DELETING,), (GRACE, now, STOPPED))
        found = self.get(id_)
        if found.state not in (DELETING, PROVING, DELETED):
            raise Refused(f"{found} is not to be deleted now; nothing was deleted")
        return found

    def mark_begun(self, id_: str, detail: Mapping[str, Any]) -> Deletion:
        """Note that the first row is about to be deleted, and what was so before; what was noted first stays.

        :param detail: JSON-safe.
        """
        sets = "begun_at = coalesce(begun_at, now()), detail = %s::jsonb || detail"
        self._update(id_, sets, "state = %s", (json.dumps(detail),), (DELETING,))
        found = self.get(id_)
        if found.state not in (DELETING, PROVING) or not found.begun:
            raise Refused(f"{found} is not to be deleted now; nothing was deleted")
        return found

    def note(self, id_: str, detail: Mapping[str, Any]) -> Deletion:
        """Keep something under names that are not taken yet; what was noted first stays."""
        self._update(id_, "detail = %s::jsonb || detail", "true", (json.dumps(detail),), ())
        return self.get(id_)

    def prove(self, id_: str) -> Deletion:
        """Go on to the proof: all that was found is deleted."""
        return self._move(id_, PROVING, (DELETING,), passed=(DELETED,))

    def finish(self, id_: str, detail: Mapping[str, Any]) -> Deletion:
        """End it: proven, told, and a tombstone put."""
        return self._move(id_, DELETED, (PROVING,), detail, sets=", ended_at = now()")

    def stop(self, id_: str, why: str) -> Deletion:
        """Let it wait for a person; repeated, the newest reason stands.

        :param why: one sentence; no personal data.
        """
        return self._move(id_, STOPPED, OPEN, {"why": why})

    def cancel(self, tenant_id: str, by: str, reason: str) -> Deletion | None:
        """Cancel the open deletion of a tenant that comes back; return it, or None when there is none.

        :param by: who reactivates it.
        :param reason: why.
        :raises Refused: when rows may have been deleted, or are about to be: the purge has won.
        """
        detail = {"cancelled_by": by, "because": reason}
        with History(self.conn_id).connect() as connection:
            row = connection.execute(
                "UPDATE tenant_deletion SET state = %s, ended_at = now(), detail = detail || %s::jsonb "
                "WHERE environment = %s AND tenant_id = %s AND state = ANY(%s) AND begun_at IS NULL RETURNING id",
                (CANCELLED, json.dumps(detail), self.environment, tenant_id, list(_CANCELLABLE)),
            ).fetchone()
        if row:
            return self.get(row[0])
        if open_ := self.of_tenant(tenant_id):
            raise Refused(f"{open_} has begun and cannot be cancelled: what is deleted does not come back by itself")
        return None

    # How --------------------------------------------------------------------------------------------

    def _move(
        self,
        id_: str,
        state: str,
        before: Iterable[str],
        detail: Mapping[str, Any] | None = None,
        *,
        sets: LiteralString = "",
        given: Iterable[Any] = (),
        passed: Iterable[str] = (),
    ) -> Deletion:
        """Move it on from one of the states before; one that is there or has passed already stays as it is."""
        values = (state, json.dumps(detail or {}), *given)
        self._update(id_, f"state = %s, detail = detail || %s::jsonb{sets}", "state = ANY(%s)", values, (list(before),))
        found = self.get(id_)
        if found.state not in (state, *passed):
            raise Refused(f"{found} cannot become {state}; nothing was changed by this step")
        return found

    def _update(
        self, id_: str, sets: LiteralString, where: LiteralString, given: Iterable[Any], when: Iterable[Any]
    ) -> None:
        """Run one guarded UPDATE; the texts are this module's own, every value is bound."""
        statement = sql.SQL("UPDATE tenant_deletion SET {} WHERE environment = %s AND id = %s AND {}")
        with History(self.conn_id).connect() as connection:
            connection.execute(statement.format(sql.SQL(sets), sql.SQL(where)), (*given, self.environment, id_, *when))

    def _select(
        self, where: LiteralString, given: Iterable[Any], *, order: LiteralString = "due_at NULLS LAST, id"
    ) -> list[Deletion]:
        statement = sql.SQL("SELECT {} FROM tenant_deletion WHERE environment = %s AND {} ORDER BY {}")
        text = statement.format(sql.SQL(_COLUMNS), sql.SQL(where), sql.SQL(order))
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(text, (self.environment, *given)).fetchall()
        return [Deletion(*row) for row in rows]

    def _give_way(self, connection: Connection[Any], tenant_id: str, to: str) -> None:
        connection.execute(
            "UPDATE tenant_deletion SET state = %s, ended_at = now(), detail = detail || %s::jsonb "
            "WHERE environment = %s AND tenant_id = %s AND state = %s AND begun_at IS NULL AND id <> %s",
            (CANCELLED, json.dumps({"because": f"begun anew by {to}"}), self.environment, tenant_id, STOPPED, to),
        )


@dataclasses.dataclass(frozen=True)
class Tombstone:
    """A tenant that was deleted and must stay so."""

    tenant_id: str
    slug: str
    name: str
    deleted_at: dt.datetime
    certificate: str
    """Key of the certificate in the report bucket."""
    certificate_sha256: str


@dataclasses.dataclass(frozen=True)
class Tombstones:
    """The tombstones of an environment. A restore must delete again what one of them names."""

    environment: str
    conn_id: str = "vcci_ops_db"

    def put(self, stone: Tombstone) -> Tombstone:
        """Put one, once; return the one that stands."""
        values = (self.environment, *dataclasses.astuple(stone))
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO tombstone (environment, tenant_id, slug, name, deleted_at, certificate, "
                "certificate_sha256) VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                values,
            )
        return next(found for found in self.all() if found.tenant_id == stone.tenant_id)

    def of_slug(self, slug: str) -> Tombstone | None:
        """Return the newest tombstone of a slug, or None; a slug may be taken again by another tenant."""
        found = [stone for stone in self.all() if stone.slug == slug]
        return max(found, key=lambda stone: stone.deleted_at, default=None)

    def all(self) -> list[Tombstone]:
        """Return all of them, the oldest first."""
        query = (
            "SELECT tenant_id, slug, name, deleted_at, certificate, certificate_sha256 FROM tombstone "
            "WHERE environment = %s ORDER BY deleted_at, tenant_id"
        )
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(query, (self.environment,)).fetchall()
        return [Tombstone(*row) for row in rows]
