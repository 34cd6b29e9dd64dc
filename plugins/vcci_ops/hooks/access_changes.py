"""Deactivating users and putting them back: one transaction a tenant, everything looked at again while it is locked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg

from vcci_ops.domain.access import DONE, LEFT, Line, Standing, restorable, settle
from vcci_ops.hooks.access import access_sql
from vcci_ops.hooks.postgres import ReadOnlyPostgresHook

INACTIVE = "inactive"
DEACTIVATED, REACTIVATED = "user.deactivated", "user.reactivated"
"""Actions in the platform's audit log."""
ACTOR = "vcci-ops"
RESTORED = "put back"
LOCK_TIMEOUT = 5.0
"""Seconds that a user's row may be waited for, before the task fails to be tried again."""


@dataclasses.dataclass(frozen=True)
class Changed:
    """What became of a user.

    :param outcome: :data:`~vcci_ops.domain.access.DONE`, :data:`RESTORED`, or why the user was left alone.
    :param before: status before; empty when nothing was changed.
    """

    user_id: str
    tenant_id: str
    outcome: str
    before: str = ""


@dataclasses.dataclass(frozen=True)
class Users:
    """Changes users of the production database; rights: include/sql/grants/vcci_ops_tenants.sql.

    What was done stands in the platform's audit log, written in the same transaction: a repeated task finds it there
    and does nothing twice, and what somebody else did meanwhile is not taken for its own.

    :param review_id: the review that it is done for.
    :param never_touched: mail addresses in lower case.
    """

    review_id: str
    never_touched: Sequence[str] = ()
    conn_id: str = "vcci_postgres_tenants"

    def deactivate(self, tenant_id: str, lines: Sequence[Line], by: str) -> list[Changed]:
        """Deactivate the users of these lines and end their sessions, except who must be left alone.

        :param by: who approved it.
        :raises MeasurementError: when the database does not answer or refuses; nothing of this tenant was changed.
        """
        with self._locked(tenant_id, [line.user_id for line in lines], DEACTIVATED) as (connection, standings):
            found = {standing.user_id: standing for standing in standings}
            changed = []
            for user, outcome in settle(standings, lines).items():
                before = found[user].status if user in found else ""
                if outcome != DONE:
                    changed.append(Changed(user, tenant_id, outcome))
                    continue
                if (noted := found[user].noted) is None:
                    details = {"before": before, "after": INACTIVE, "approved_by": by}
                    self._set(connection, (tenant_id, user), DEACTIVATED, details)
                else:
                    before = str(noted["before"])
                changed.append(Changed(user, tenant_id, DONE, before))
            self._end_sessions(connection, changed)
        return changed

    def restore(self, tenant_id: str, before: Mapping[str, str], by: str) -> list[Changed]:
        """Put users back to what they were before the review.

        :param before: user id → status then.
        :raises MeasurementError: when the database does not answer or refuses; nothing of this tenant was changed.
        """
        with self._locked(tenant_id, list(before), REACTIVATED) as (connection, standings):
            found = {standing.user_id: standing for standing in standings}
            changed = []
            for user, status in before.items():
                why = restorable(found.get(user), status)
                if not why and found[user].noted is None:
                    details = {"before": INACTIVE, "after": status, "asked_by": by}
                    self._set(connection, (tenant_id, user), REACTIVATED, details)
                changed.append(Changed(user, tenant_id, f"{LEFT}{why}" if why else RESTORED, "" if why else INACTIVE))
        return changed

    def end_sessions(self, users: Sequence[str]) -> int:
        """End the sessions of those of the users who are inactive; return how many there were.

        After the fact: a log-in that waited for the lock of its user writes its session when that is given back.

        :raises MeasurementError: when the database does not answer or refuses.
        """
        with self._transaction() as connection:
            return int(connection.execute(access_sql("end_sessions"), {"users": list(users)}).rowcount)

    # How -------------------------------------------------------------------------------------------

    def _end_sessions(self, connection: psycopg.Connection[Any], changed: Sequence[Changed]) -> None:
        users = [change.user_id for change in changed if change.outcome == DONE]
        connection.execute(access_sql("end_sessions"), {"users": users})

    def _set(
        self, connection: psycopg.Connection[Any], whom: tuple[str, str], action: str, details: Mapping[str, str]
    ) -> None:
        tenant_id, user = whom
        statuses = {"before": details["before"], "after": details["after"]}
        connection.execute(access_sql("set_status"), {"user": user, **statuses})
        noted = json.dumps({"review": self.review_id, **details})
        given = {"tenant": tenant_id, "action": action, "actor": ACTOR, "user": user, "details": noted}
        connection.execute(access_sql("note"), given)

    @contextmanager
    def _locked(
        self, tenant_id: str, users: list[str], action: str
    ) -> Iterator[tuple[psycopg.Connection[Any], list[Standing]]]:
        """Yield how users and administrators of a tenant stand, while nobody else can change them."""
        given = {"tenant": tenant_id, "users": users}
        with self._transaction() as connection:
            connection.execute(access_sql("lock"), given)
            # A statement of its own: it sees what was committed while the first one waited.
            noting = {"action": action, "review": self.review_id, "never_touched": list(self.never_touched)}
            rows = connection.execute(access_sql("standing"), {**given, **noting}).fetchall()
            yield connection, [Standing(*row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[Any]]:
        hook = ReadOnlyPostgresHook(postgres_conn_id=self.conn_id, statement_timeout=30.0, lock_timeout=LOCK_TIMEOUT)
        opened: Any = hook.get_conn()
        with closing(opened) as connection:
            connection.autocommit = False
            connection.read_only = False  # BEGIN READ WRITE: the session itself stays read-only
            try:
                with connection.transaction():
                    yield connection
            except psycopg.Error as error:
                raise hook._translated(error) from None
