"""What an access review finds among the platform's users, tenants and API keys."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from vcci_ops.domain.access import BY_HAND, DEACTIVATE, NOTHING, Line, Standing, last_admin
from vcci_ops.domain.results import Status
from vcci_ops.settings_tenants import AccessReview

DAY = 86400
ACTIONS_SHOWN = 6
"""Actions of an administrator that his line names; the rest is added up."""


class Person(NamedTuple):
    """A user who has not been seen for long, or an administrator."""

    user_id: str
    tenant_id: str
    tenant: str
    role: str
    status: str
    service: bool
    seen: dt.datetime | None
    created: dt.datetime
    protected: bool
    keys: int

    @property
    def who(self) -> str:
        """How people read it."""
        return f"{self.role} of {self.tenant}"

    @property
    def last(self) -> dt.datetime:
        """When there was last a sign of this user."""
        return self.seen or self.created


class LeaderlessTenant(NamedTuple):
    """An active tenant without an active administrator."""

    tenant_id: str
    tenant: str
    users: int


class Key(NamedTuple):
    """An API key that is unused or old."""

    key_id: str
    tenant_id: str
    tenant: str
    created: dt.datetime
    used: dt.datetime | None
    unused: bool
    old: bool


@dataclasses.dataclass(frozen=True)
class Past:
    """The last review that was done.

    :param review_id: its id.
    :param made_at: when its list was made.
    :param admins: ids of the users who were administrators then.
    :param keys: of its lines.
    """

    review_id: str
    made_at: dt.datetime
    admins: frozenset[str]
    keys: frozenset[str]


def inactive_users(people: Sequence[Person], settings: AccessReview, now: dt.datetime) -> Iterator[Line]:
    """Yield a line for each user to deactivate, and for each that is inactive and must stay."""
    before = now - dt.timedelta(seconds=settings.inactive_after)
    away = [person for person in people if not person.service and person.last < before]
    staying = _last_admins(people, [person for person in away if not person.protected])
    for person in away:
        yield _inactive(person, settings, now, person.user_id in staying)


def _last_admins(people: Iterable[Person], away: Iterable[Person]) -> set[str]:
    """Return who must stay although inactive: of each tenant that would be left without one, the last seen."""
    admins: dict[str, list[Standing]] = {}
    for p in people:
        standing = Standing(p.user_id, "active", p.role, p.status, p.service, p.last, p.protected)
        admins.setdefault(p.tenant_id, []).append(standing)
    leaving = {person.user_id for person in away}
    return {last_admin(of_tenant, leaving) for of_tenant in admins.values()} - {""}


def _inactive(person: Person, settings: AccessReview, now: dt.datetime, stays: bool) -> Line:
    limit = f"{settings.inactive_after / DAY:.0f} days"
    made = f"{'invited' if person.status == 'invited' else 'created'} {_ago(person.created, now)}"
    finding = f"not seen since {_ago(person.seen, now)}" if person.seen else f"has never logged in; {made}"
    keys = f"; made {person.keys} API key{'s' * (person.keys != 1)} that stay valid" if person.keys else ""
    recommendation, reason, action = "Deactivate", f"No log-in and no session for longer than {limit}.", DEACTIVATE
    if stays:
        recommendation, action = "Keep, and ask the tenant who shall be its administrator", BY_HAND
        reason = "The tenant has no other active administrator; nobody there could let anybody in."
    elif person.protected:
        recommendation, action = "Keep", NOTHING
        reason = "The settings say never to touch this user."
    return Line(
        section="users",
        key=f"user/{person.user_id}",
        who=person.who,
        finding=finding + keys,
        recommendation=recommendation,
        reason=reason,
        severity=Status.OK if action == NOTHING else Status.WARNING,
        action=action,
        user_id=person.user_id,
        tenant_id=person.tenant_id,
        tenant=person.tenant,
        seen=person.seen.isoformat() if person.seen else "",
    )


def dormant_services(people: Iterable[Person], settings: AccessReview, now: dt.datetime) -> Iterator[Line]:
    """Yield a line for each service account that nothing has logged in with; they are never deactivated here."""
    before = now - dt.timedelta(seconds=settings.inactive_after)
    for person in people:
        if person.service and person.last < before:
            yield Line(
                section="services",
                key=f"service/{person.user_id}",
                who=f"service account of {person.tenant}",
                finding=f"not used since {_ago(person.seen, now)}" if person.seen else "has never been used",
                recommendation="Ask the tenant whether anything still needs it",
                reason="Service accounts are never deactivated by a review: an import that stops is missed late.",
                severity=Status.WARNING,
                action=BY_HAND,
                tenant_id=person.tenant_id,
                tenant=person.tenant,
            )


def leaderless(tenants: Iterable[LeaderlessTenant]) -> Iterator[Line]:
    """Yield a line for each tenant without an active administrator."""
    for tenant in tenants:
        yield Line(
            section="tenants",
            key=f"tenant/{tenant.tenant_id}",
            who=f"tenant {tenant.tenant}",
            finding=f"has no active administrator, and {tenant.users} active user{'s' * (tenant.users != 1)}",
            recommendation="Ask the tenant who shall be its administrator",
            reason="Nobody there can invite, change or remove a user; leavers keep their access.",
            severity=Status.WARNING,
            action=BY_HAND,
            tenant_id=tenant.tenant_id,
            tenant=tenant.tenant,
        )


def admins(
    people: Iterable[Person],
    deeds: Mapping[str, Sequence[tuple[str, int]]] | None,
    since: dt.datetime,
    past: Past | None,
) -> Iterator[Line]:
    """Yield a line for each active administrator; who was none at the last review is a finding.

    :param deeds: user id → action and how often; None when the audit log could not be read.
    :param since: the deeds are counted from here on.
    """
    for person in people:
        if person.role != "admin" or person.status != "active" or person.service:
            continue
        added = past is not None and person.user_id not in past.admins
        finding = _deeds(None if deeds is None else deeds.get(person.user_id, ()), since)
        if added and past:
            finding = f"administrator since the last review ({past.made_at:%Y-%m-%d}); {finding}"
        yield Line(
            section="admins",
            key=f"admin/{person.user_id}",
            who=person.who,
            finding=finding,
            recommendation="Ask the tenant to confirm it" if added else "Keep",
            reason="An administrator can let anybody in." if added else _why_keep(past),
            severity=Status.WARNING if added else Status.OK,
            action=BY_HAND if added else NOTHING,
            tenant_id=person.tenant_id,
            tenant=person.tenant,
            user_id=person.user_id,
        )


def _why_keep(past: Past | None) -> str:
    return "Was an administrator at the last review." if past else "There is no earlier review to compare with."


def _deeds(done: Sequence[tuple[str, int]] | None, since: dt.datetime) -> str:
    when = f"since {since:%Y-%m-%d}"
    if done is None:
        return f"what was done {when} is not known: the audit log could not be read"
    if not done:
        return f"did nothing {when} that the audit log has"
    said = [f"{action} {number}" for action, number in done[:ACTIONS_SHOWN]]
    rest = sum(number for _, number in done[ACTIONS_SHOWN:])
    return f"did {when}: {', '.join(said)}" + (f", others {rest}" if rest else "")


def keys(found: Iterable[Key], settings: AccessReview, now: dt.datetime) -> Iterator[Line]:
    """Yield a line for each API key that is unused or old."""
    for key in found:
        used = f"not used since {_ago(key.used, now)}" if key.used else "never used"
        said = [used] if key.unused else []
        said += [f"made {_ago(key.created, now)}"] if key.old or not key.used else []
        limit = settings.key_unused_after if key.unused else settings.key_old_after
        yield Line(
            section="keys",
            key=f"key/{key.key_id}",
            who=f"API key {key.key_id[:8]} of {key.tenant}",
            finding="; ".join(said),
            recommendation="Ask the tenant, then revoke it" if key.unused else "Ask the tenant to renew it",
            reason=f"{'Unused' if key.unused else 'The same'} for longer than {limit / DAY:.0f} days.",
            severity=Status.WARNING,
            action=BY_HAND,
            tenant_id=key.tenant_id,
            tenant=key.tenant,
        )


def _ago(moment: dt.datetime, now: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d} ({(now - moment).days} days)"
