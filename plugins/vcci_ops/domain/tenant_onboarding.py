"""Onboarding a tenant: what the platform's scripts are called with, whether all is as asked, what would be undone."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

from vcci_ops.domain.mrkdwn import code, escape, link
from vcci_ops.domain.tenant_request import OnboardRequest
from vcci_ops.domain.units import duration

ADMIN, CONFIGURE, WELCOME = "admin", "configure", "welcome"
Step = Literal["admin", "configure", "welcome"]
SENDING, SENT = "sending", "sent"
"""What the platform records of the welcome mail: claimed before it is sent; confirmed by the mail server."""
UNSURE = (
    "it may have been sent, and may not: it was claimed, and nobody knows whether the mail server took it. It is never "
    "sent again by itself. Ask the customer, then run tenant_onboard again with the same form and welcome_again: it is "
    "sent once more, with the same Message-ID"
)


@dataclasses.dataclass(frozen=True)
class TenantRow:
    """A tenant as the platform's table has it."""

    id: str
    slug: str
    name: str
    tier: str
    status: str
    settings: dict[str, Any]
    suspended_at: dt.datetime | None

    def __str__(self) -> str:
        """Say it in a few words: ``ACME Corp (acme-corp, active)``."""
        return f"{self.name} ({self.slug}, {self.status})"


@dataclasses.dataclass(frozen=True)
class Item:
    """Something that was asked for, and how it is."""

    what: str
    ok: bool
    said: str

    def __str__(self) -> str:
        return f"{self.what}: {self.said}"


def arguments(step: Step, request: OnboardRequest) -> tuple[str, ...]:
    """Return what a script of the platform is called with. ``--option=value``: no value is taken for an option."""
    slug = f"--tenant-slug={request.slug}"
    if step == ADMIN:
        return (slug, f"--email={request.admin_email}", f"--name={request.admin_name}")
    if step == CONFIGURE:
        factors, standard = request.emission_factors, request.reporting_standard
        return (slug, f"--emission-factors={factors}", f"--reporting-standard={standard}")
    return (slug, "--again") if request.welcome_again else (slug,)


def plan_lines(request: OnboardRequest) -> list[str]:
    """Return what an onboarding will do, without the person."""
    return [
        f"create the tenant {request}",
        "invite its first administrator; the address is in the form and shown nowhere else",
        f"configure it: {', '.join(f'{key} {value}' for key, value in request.configuration.items())}",
        f"send the welcome mail, once{', also if it may have been sent before' if request.welcome_again else ''}",
        "look at all of it, and wait until monitoring sees the tenant",
    ]


def items(request: OnboardRequest, row: TenantRow | None, admin: Mapping[str, str] | None, welcome: str) -> list[Item]:
    """Compare what was asked for with what is there.

    :param row: None: there is no such tenant.
    :param admin: role, status and name of the user with the address that was asked for.
    :param welcome: what the platform's record says of the mail.
    """
    if row is None:
        return [Item("tenant", False, "is not there")]
    return [_row(request, row), _admin(request, admin), _configuration(request, row), _mail(welcome)]


def _row(request: OnboardRequest, row: TenantRow) -> Item:
    wanted = {"name": request.name, "slug": request.slug, "tier": request.tier, "status": "active"}
    wrong = [
        f"{key} is {getattr(row, key)}, not {value}" for key, value in wanted.items() if getattr(row, key) != value
    ]
    return Item("tenant", not wrong, "; ".join(wrong) or f"{row.tier}, {row.status}, id {row.id}")


def _admin(request: OnboardRequest, admin: Mapping[str, str] | None) -> Item:
    if admin is None:
        return Item("administrator", False, "nobody has the address that was asked for")
    wrong = []
    if admin["role"] != "admin":
        wrong.append(f"the role is {admin['role']}, not admin")
    if admin["status"] not in ("invited", "active"):
        wrong.append(f"the status is {admin['status']}")
    if admin["name"] != request.admin_name:
        wrong.append("the name is another one")
    return Item("administrator", not wrong, "; ".join(wrong) or f"{admin['role']}, {admin['status']}")


def _configuration(request: OnboardRequest, row: TenantRow) -> Item:
    found = {key: row.settings.get(key) for key in request.configuration}
    wrong = [
        f"{key} is {found[key]}, not {value}" for key, value in request.configuration.items() if found[key] != value
    ]
    return Item("configuration", not wrong, "; ".join(wrong) or ", ".join(f"{k} {v}" for k, v in found.items()))


def _mail(welcome: str) -> Item:
    said = {
        SENT: "sent, by the platform's record",
        SENDING: UNSURE,
        "": "not sent",
    }.get(welcome, f"not sent ({welcome})")
    return Item("welcome mail", welcome == SENT, said)


# Undoing ---------------------------------------------------------------------------------------------

UNDO = "undo onboarding"
REMOVABLE = ("tenants", "users")
"""Tables whose rows an onboarding makes."""
KEPT = ("audit_log",)
"""Tables whose rows stay: a log outlives what it tells of."""


def in_the_way(counts: Mapping[str, int], admin: Mapping[str, str] | None, documents: int) -> list[str]:
    """Return what a tenant holds that its onboarding did not make; none: it can be removed.

    :param counts: rows by table, without the schema where that is public.
    :param admin: role, status and name of the administrator.
    """
    found = [f"{n} rows in {table}" for table, n in counts.items() if n and table not in (*REMOVABLE, *KEPT)]
    if counts.get("users", 0) > 1:
        found.append(f"{counts['users']} users")
    elif counts.get("users", 0) == 1 and (admin is None or admin["status"] != "invited"):
        found.append("a user who is not the invited administrator, or has come in already")
    if documents:
        found.append(f"{documents} documents")
    return found


def undo_plan(row: TenantRow, counts: Mapping[str, int], welcome: str, source: str, by: str) -> dict[str, Any]:
    """Return what would be removed again; the hash of it is what a person approves."""
    return {
        "kind": UNDO,
        "tenant": {"id": row.id, "slug": row.slug, "name": row.name},
        "removed": {table: counts[table] for table in REMOVABLE if counts.get(table)},
        "kept": {table: counts[table] for table in KEPT if counts.get(table)},
        "welcome_mail": welcome or "not sent",
        "onboarded_by": source,
        "requested_by": by,
    }


def undo_markdown(plan: Mapping[str, Any]) -> str:
    """Return the undo plan as the approver reads it."""
    tenant = plan["tenant"]
    lines = [
        f"The onboarding of **{_plain(tenant['name'])}** (`{tenant['slug']}`, id `{tenant['id']}`) did not come to its "
        "end. What it made, and holds nothing of the customer's yet, can be removed again:",
        "",
        "| table | rows |  |",
        "| --- | --- | --- |",
        *(f"| {table} | {rows} | removed |" for table, rows in plan["removed"].items()),
        *(f"| {table} | {rows} | kept |" for table, rows in plan["kept"].items()),
        "",
        f"Welcome mail: {plan['welcome_mail']}. Reject this to keep the tenant: running the DAG again with the same "
        "form goes on where this run stopped, and this question is then answered with a refusal to remove anything.",
    ]
    return "\n".join(lines)


def undo_asked(plan: Mapping[str, Any], url: str, within: float) -> str:
    """Return the question in Slack's mrkdwn."""
    tenant = plan["tenant"]
    removed = ", ".join(f"{rows} {table}" for table, rows in plan["removed"].items())
    return (
        f":raised_hand: *Who approves to undo the onboarding of {escape(tenant['name'])} ({code(tenant['slug'])})?* It "
        f"removes {removed}. {link(url, 'Read the plan and answer')} within {duration(within)}; no answer is a no. "
        "To go on instead, run `tenant_onboard` again with the same form."
    )


def _plain(text: str) -> str:
    """Return a text in which Markdown finds nothing to do."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-!|~&" else c for c in text)
