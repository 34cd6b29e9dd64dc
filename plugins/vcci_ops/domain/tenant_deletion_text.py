"""What the deletion of a tenant says in Slack and to the on-call: the state first, then what to do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from vcci_ops.domain.mrkdwn import code, cut, escape, link
from vcci_ops.domain.plans import SHORT, plan_hash
from vcci_ops.domain.tenant_deletion import summary
from vcci_ops.domain.units import duration

SIGNS = {
    "waiting": ":raised_hand:",
    "exporting": ":large_blue_circle:",
    "grace": ":hourglass_flowing_sand:",
    "deleting": ":large_blue_circle:",
    "proving": ":large_blue_circle:",
    "deleted": ":large_green_circle:",
    "cancelled": ":leftwards_arrow_with_hook:",
    "rejected": ":no_entry:",
    "stopped": ":rotating_light:",
    "failed": ":red_circle:",
}
WORDS = {
    "waiting": "waits for approval",
    "exporting": "is being exported",
    "grace": "is suspended and exported, NOT deleted yet",
    "deleting": "is being deleted",
    "proving": "is being proven gone",
    "deleted": "is deleted, and proven so",
    "cancelled": "stays: the deletion was cancelled",
    "rejected": "stays: the deletion was not approved",
    "stopped": "STOPPED: a person has to look",
    "failed": "could not be deleted",
}
_LONG, _LINE = 1500, 300


def headline(state: str, plan: Mapping[str, Any], *, note: str = "", url: str = "") -> str:
    """Return the first message of the thread: which tenant, and how it stands now.

    :param state: a key of :data:`WORDS`.
    :param note: one more line.
    :param url: the run's page.
    """
    tenant = plan["tenant"]
    who = f"asked for by {escape(plan['requested_by'])} · {cut(escape(plan['reason']), 140)}"
    lines = [
        f"{SIGNS.get(state, SIGNS['failed'])} *{escape(tenant['name'])}* ({code(tenant['slug'])}) "
        f"{WORDS.get(state, escape(state))} · {escape(plan['environment'])}"
    ]
    if note:
        lines.append(cut(escape(note), _LONG))
    return "\n".join([*lines, who + (f" · {link(url, 'open')}" if url else "")])


def approval_asked(plan: Mapping[str, Any], url: str, within: float, people: int) -> str:
    """Return the question, with the way to the answer."""
    tenant = plan["tenant"]
    many = f"*{people} people* have to approve" if people > 1 else "One person has to approve"
    lines = [
        f":raised_hand: *Who approves the deletion of {escape(tenant['name'])}* ({code(tenant['slug'])})*?* "
        f"{escape(plan['requested_by'])} asked for it. {link(url, 'Read the plan and answer')} within "
        f"{duration(within)}; no answer is a no. {many}; each types the slug.",
        f"*Plan* {code(plan_hash(plan)[:SHORT])}: {escape(summary(plan))}",
        f"• legal basis: {escape(plan['legal_basis'])}; grace: {plan['grace_days']} days",
    ]
    return "\n".join([*lines, *(f"• :warning: {cut(escape(warning), _LINE)}" for warning in plan["warnings"][:10])])


def in_grace(due_at: dt.datetime, days: int, exported: str) -> str:
    """Return what was done, what was not, and what happens when."""
    when = "with its next run" if days == 0 else f"after {due_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"Suspended; exported to {exported}, and the export was loaded and compared on another server. "
        f"This run deletes nothing: tenant_purge_due does, {when}, if nothing has moved by then. "
        "Until it begins, tenant_suspend (reactivate) brings the tenant back whole."
    )


def stopped(why: str) -> str:
    """Return why nothing goes on, and the ways out."""
    return f"{why}. Nothing goes on by itself: the tenant stays suspended."


def what_to_do(*, begun: bool) -> str:
    """Return the ways out of a deletion that stopped.

    :param begun: whether rows were deleted already.
    """
    if begun:
        return (
            "Find out who writes for this tenant and end it; then run tenant_purge_due with the slug: it deletes what "
            "is left, which the export does not hold, and proves again."
        )
    return (
        "Find out what moved. Then either run tenant_delete again (a new plan, a new export), or bring the tenant back "
        "with tenant_suspend (reactivate)."
    )


def page(slug: str, why: str, run: str, *, begun: bool) -> tuple[str, str]:
    """Return subject and text of the page to the on-call."""
    how = "half-way, rows are gone" if begun else "before anything was deleted"
    return (
        f"the deletion of tenant {slug} stopped {how}",
        f"{why}\n\n{what_to_do(begun=begun)}\n\nRun: {run}",
    )


def purged(lines: Sequence[tuple[str, str, str]]) -> str:
    """Return the headline of a purge.

    :param lines: slug, state, words of each tenant.
    """
    done = sum(1 for _, state, _ in lines if state == "deleted")
    worst = "stopped" if any(state != "deleted" for _, state, _ in lines) else "deleted"
    said = [f"{SIGNS[worst]} *{done} of {len(lines)} due tenants deleted, and proven so*"]
    said += [
        f"• {SIGNS.get(state, SIGNS['failed'])} {code(slug)} {WORDS.get(state, escape(state))}"
        + (f": {cut(escape(words), _LINE)}" if words else "")
        for slug, state, words in lines[:30]
    ]
    return "\n".join(said)
