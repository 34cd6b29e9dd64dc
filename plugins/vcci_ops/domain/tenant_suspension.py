"""What is said of a suspended or reactivated tenant: to its administrators, and in Slack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vcci_ops.domain.mrkdwn import code, escape
from vcci_ops.domain.tenant_onboarding import Item
from vcci_ops.domain.tenant_request import SUSPEND, SuspendRequest


def notice(name: str, action: str, request: SuspendRequest) -> tuple[str, str]:
    """Return subject and text of the mail to an administrator of the tenant.

    :param name: of the tenant.
    :param action: what has happened.
    """
    if action == SUSPEND:
        until = f" until {request.until:%Y-%m-%d %H:%M} UTC" if request.until else ""
        return f"{name}: access to VCCI is suspended", (
            f"Access of {name} to the VCCI platform is suspended{until}. Nobody can log in, API keys are refused.\n\n"
            f"Reason: {request.reason}\n\nYour data is kept as it is. Please answer this mail if you have a question."
        )
    return f"{name}: access to VCCI is open again", (
        f"{name} can use the VCCI platform again. Everybody has to log in anew; API keys work as before.\n\n"
        "Your data is as it was."
    )


def report_lines(
    noted: Mapping[str, Any], request: SuspendRequest, found: Iterable[Item], by: str, cancelled: str
) -> list[str]:
    """Return what Slack is told, in its mrkdwn.

    :param noted: tenant and action as they were noted before.
    :param cancelled: the deletion that was cancelled, in words.
    """
    done = "suspended" if noted["action"] == SUSPEND else "reactivated"
    items = list(found)
    sign, verdict = ":large_green_circle:", f"is {done}"
    if not all(item.ok for item in items):
        sign, verdict = ":red_circle:", f"is NOT {done} as it should be"
    until = f" until {request.until:%Y-%m-%d %H:%M} UTC" if request.until else ""
    tenant = f"*{escape(noted['name'])}* ({code(noted['slug'])})"
    lines = [f"{sign} {tenant} {verdict}{until}, asked for by {escape(by)}: {escape(request.reason)}"]
    lines += [f"{':white_check_mark:' if item.ok else ':red_circle:'} {escape(item)}" for item in items]
    return [*lines, f":information_source: cancelled: {escape(cancelled)}"] if cancelled else lines
