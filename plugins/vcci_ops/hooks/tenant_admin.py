"""The platform's tenants, as those who take them on and suspend them need them; connection vcci_postgres_tenants.

Mail addresses are read here and go no further than to what compares or sends: nothing returns, logs or raises them
but :meth:`TenantAdmin.owners`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import psycopg
from psycopg import errors

from vcci_ops.domain.look_alikes import look_alikes
from vcci_ops.domain.tenant_onboarding import TenantRow
from vcci_ops.domain.tenant_request import OnboardRequest
from vcci_ops.exceptions import Refused
from vcci_ops.hooks.postgres import Statement
from vcci_ops.hooks.tenant_session import TenantPostgres

ACTIVE, SUSPENDED = "active", "suspended"
WELCOME = "tenant.welcome_email"
"""Action under which the platform's audit log records welcome mails."""
_COLUMNS = "id::text, slug, name, subscription_tier, status, settings, suspended_at"
_SECONDS = 60.0
"""That a statement may take: reading a million users takes some of them."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """An administrator who is written to."""

    id: str
    email: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Suspended:
    """What a suspension or its end has done just now."""

    changed: bool
    """False: the tenant was so already."""
    sessions: int
    at: str
    """``suspended_at`` as it stands now, RFC 3339; empty for an active tenant."""


class TenantAdmin:
    """Reads and writes tenants.

    :param conn_id: Airflow connection with the rights of include/sql/grants/vcci_ops_tenants.sql.
    """

    def __init__(self, conn_id: str = "vcci_postgres_tenants") -> None:
        self.conn_id = conn_id

    @cached_property
    def hook(self) -> TenantPostgres:
        """The connection."""
        return TenantPostgres(self.conn_id, statement_timeout=_SECONDS)

    # Reading ----------------------------------------------------------------------------------------

    def find(self, slug: str) -> TenantRow | None:
        """Return the tenant of a slug, or None. Only the slug counts: an id is none."""
        return self._one(f"SELECT {_COLUMNS} FROM tenants WHERE slug = %(value)s", slug)  # noqa: S608 - fixed columns

    def by_id(self, tenant_id: str) -> TenantRow | None:
        """Return the tenant of an id, or None."""
        return self._one(f"SELECT {_COLUMNS} FROM tenants WHERE id = %(value)s::uuid", tenant_id)  # noqa: S608

    def _one(self, query: str, value: str) -> TenantRow | None:
        rows = self.hook.read_one(Statement(query, {"value": value})).rows
        if not rows:
            return None
        found = TenantRow(*rows[0])
        since = found.suspended_at.astimezone(dt.UTC) if found.suspended_at else None
        return dataclasses.replace(found, suspended_at=since)

    def with_slug_like(self, slug: str, besides: str = "") -> list[str]:
        """Return the tenants whose slug looks like this one, in words.

        :param slug: as it was typed, whatever it is.
        :param besides: id of a tenant that may have it.
        """
        query = "SELECT slug, name || ' (' || slug || ')' FROM tenants WHERE id::text <> %(besides)s"
        return sorted(look_alikes(slug, self._pairs(query, besides)))

    def with_mail_like(self, email: str, besides: str = "") -> list[str]:
        """Return the tenants that have a user whose mail address looks like this one, in words, without the address.

        :param besides: id of a tenant that may have it.
        """
        query = (
            "SELECT u.email, t.name || ' (' || t.slug || ')' FROM users u JOIN tenants t ON t.id = u.tenant_id "
            "WHERE u.tenant_id::text <> %(besides)s"
        )
        return sorted(set(look_alikes(email, self._pairs(query, besides))))

    def _pairs(self, query: str, besides: str) -> Iterator[tuple[str, str]]:
        """Yield rows of two columns as they come: there may be a million users."""
        return ((row[0], row[1]) for row in self.hook.stream(Statement(query, {"besides": besides})))

    def admin_of(self, tenant_id: str, email: str) -> dict[str, str] | None:
        """Return role, status and name of a tenant's user with this address, or None."""
        query = (
            "SELECT role, status, name FROM users "
            "WHERE tenant_id = %(tenant)s::uuid AND lower(email) = lower(%(email)s)"
        )
        rows = self.hook.read_one(Statement(query, {"tenant": tenant_id, "email": email})).rows
        return dict(zip(("role", "status", "name"), rows[0], strict=True)) if rows else None

    def welcome_state(self, tenant_id: str) -> str:
        """Return how far the platform's welcome mail is: ``sending``, ``sent``, ``failed``, or "" for none."""
        query = (
            "SELECT details->>'state' FROM audit_log WHERE tenant_id = %(tenant)s::uuid AND action = %(action)s "
            "ORDER BY id DESC LIMIT 1"
        )
        rows = self.hook.read_one(Statement(query, {"tenant": tenant_id, "action": WELCOME})).rows
        return str(rows[0][0] or "") if rows else ""

    def owners(self, tenant_id: str) -> list[Owner]:
        """Return the administrators that a notice goes to."""
        query = (
            "SELECT id::text, email FROM users WHERE tenant_id = %(tenant)s::uuid AND role = 'admin' "
            "AND status <> 'inactive' AND NOT is_service_account ORDER BY id"
        )
        return [Owner(*row) for row in self.hook.read_one(Statement(query, {"tenant": tenant_id})).rows]

    def sessions(self, tenant_id: str) -> int:
        """Return how many sessions a tenant's users have."""
        query = "SELECT count(*) FROM sessions WHERE tenant_id = %(tenant)s::uuid"
        return int(self.hook.read_one(Statement(query, {"tenant": tenant_id})).rows[0][0])

    # Writing ----------------------------------------------------------------------------------------

    def create(self, tenant_id: str, request: OnboardRequest) -> bool:
        """Create a tenant under an id that was chosen before; return whether it was created now.

        :raises Refused: when the slug is another's, or the id is there with something else.
        """
        with self.hook.transaction() as connection:
            try:
                done = connection.execute(
                    "INSERT INTO tenants (id, name, slug, subscription_tier, created_at) "
                    "VALUES (%s, %s, %s, %s, now()) ON CONFLICT DO NOTHING",
                    (tenant_id, request.name, request.slug, request.tier),
                )
            except errors.CheckViolation:
                raise Refused(f"the platform takes no tenant such as {request}; nothing was changed") from None
        found = self.find(request.slug)
        if found is None or found.id != tenant_id:
            raise Refused(f"the slug {request.slug} is that of {found or 'another tenant'}; nothing was changed")
        return done.rowcount == 1

    def suspend(self, tenant_id: str) -> Suspended:
        """Suspend a tenant and end its users' sessions, in one transaction; repeated, it ends what came since.

        :raises Refused: when there is no such tenant, or it is neither active nor suspended.
        """
        with self.hook.transaction() as connection:
            changed = self._move(connection, tenant_id, SUSPENDED)
            ended = connection.execute("DELETE FROM sessions WHERE tenant_id = %s", (tenant_id,)).rowcount
        return self._now(tenant_id, SUSPENDED, changed, ended)

    def reactivate(self, tenant_id: str, suspended_at: str = "") -> Suspended:
        """Let a suspended tenant work again.

        :param suspended_at: only when it was suspended at this moment, RFC 3339, and not anew since.
        :raises Refused: when it is not as it should be; nothing was changed.
        """
        with self.hook.transaction() as connection:
            changed = self._move(connection, tenant_id, ACTIVE, suspended_at)
        return self._now(tenant_id, ACTIVE, changed, 0)

    def _move(self, connection: psycopg.Connection[tuple[Any, ...]], tenant_id: str, status: str, at: str = "") -> bool:
        before = SUSPENDED if status == ACTIVE else ACTIVE
        done = connection.execute(
            "UPDATE tenants SET status = %(status)s, "
            "suspended_at = CASE WHEN %(status)s = 'suspended' THEN date_trunc('milliseconds', now()) END "
            "WHERE id = %(tenant)s AND status = %(before)s "
            "AND (%(at)s = '' OR suspended_at = nullif(%(at)s, '')::timestamptz)",
            {"status": status, "tenant": tenant_id, "before": before, "at": at},
        )
        return done.rowcount == 1

    def _now(self, tenant_id: str, wanted: str, changed: bool, sessions: int) -> Suspended:
        found = self.by_id(tenant_id)
        if found is None or found.status != wanted:
            is_ = f"is {found.status}" if found else "does not exist"
            raise Refused(f"the tenant {found.slug if found else tenant_id} {is_} and cannot become {wanted}")
        return Suspended(changed, sessions, found.suspended_at.isoformat() if found.suspended_at else "")
