"""Verdicts on the audit log: failed log-ins, new administrators, changed privileges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vcci_ops.domain.checks import judged
from vcci_ops.domain.results import Result
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import NoData
from vcci_ops.settings import Check

FAILED = ("login.failed",)
GRANTING = ("user.created", "role.changed")
"""Actions whose details say which role somebody got (``to``, or ``role``)."""
CHANGING = (
    *("role.changed", "permission.granted", "permission.revoked"),
    *("api_key.created", "api_key.revoked", "api_key.deleted"),
)
ADMIN_ROLES = ("admin", "owner", "superadmin")


def shown(person: str | None) -> str:
    """Return an account as reports may show it: of an address, the first letter and the domain.

    >>> shown("ada.brandt@acme.com"), shown("system")
    ('a***@acme.com', 'system')
    """
    if not person:
        return "?"
    local, at, domain = person.rpartition("@")
    return f"{local[:1]}***@{domain}" if at else person


def failed_logins(check: Check, row: Sequence[Any], seconds: float, query: str = "") -> Result:
    """Judge the number of failed log-ins.

    :raises NoData: when the audit log has no entry in the window, which proves nothing.
    """
    newest_age, failed, addresses, accounts = row
    _written(newest_age, seconds)
    details = [f"{n} from {ip}" for ip, n in addresses or ()]
    details += [f"{n} for {shown(actor)}" for actor, n in accounts or ()]
    summary = f"{failed} failed log-ins in the last {duration(seconds)}"
    return judged(check, failed, summary, details=tuple(details), query=query)


def changes(check: Check, rows: Sequence[Sequence[Any]], seconds: float, *, admin: bool, query: str = "") -> Result:
    """Judge the number of new administrators, or of other changes of privileges.

    :raises NoData: when the audit log has no entry in the window, which proves nothing.
    """
    _written(rows[0][0], seconds)
    found = [row for row in rows if row[1] is not None and row[1] == admin]
    total = found[0][2] if found else 0
    what = "new administrators" if admin else "changes of roles, permissions and keys"
    summary = f"{total or 'No'} {what} in the last {duration(seconds)}"
    details = [_change(row) for row in found]
    if total > len(found):
        details.append(f"{total - len(found)} earlier ones")
    return judged(check, total, summary, details=tuple(details), query=query)


def _change(row: Sequence[Any]) -> str:
    at, action, actor, target, before, after = row[3:]
    roles = f" {before} → {after}" if before and after else f" ({after})" if after else ""
    return f"{at:%m-%d %H:%M} {action} {shown(target)}{roles}, by {shown(actor)}"


def _written(newest_age: float | None, seconds: float) -> None:
    if newest_age is None:
        raise NoData("the audit log is empty: is it written?")
    if newest_age > seconds:
        raise NoData(f"the audit log's newest entry is {duration(newest_age)} old: is it still written?")
