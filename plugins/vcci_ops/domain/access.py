"""An access review: one numbered list, what the reviewer decides about it, and who may be deactivated after all.

A line names people by the id of the user, the tenant's slug and the role. Mail addresses are no part of it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.domain.plans import plan_hash
from vcci_ops.domain.results import Status
from vcci_ops.exceptions import InvalidInput

DEACTIVATE, BY_HAND, NOTHING = "deactivate", "by hand", "nothing"
"""What an approved line leads to: this review does it, a person has to do it, nobody has to do anything."""
SECTIONS = {
    "unmeasured": "Not measured",
    "users": "Inactive users",
    "tenants": "Tenants without an administrator",
    "admins": "Administrators and what they did",
    "keys": "API keys",
    "roles": "Database roles",
    "kubernetes": "Kubernetes",
    "services": "Dormant service accounts",
}
"""The parts of the list, in its order."""
APPROVE_ALL, APPROVE_EXCEPT, REJECT = "Approve all", "Approve except…", "Reject"
OPTIONS = (APPROVE_ALL, APPROVE_EXCEPT, REJECT)
NUMBERS_LIMIT = 2000
"""Characters that a list of line numbers may have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the list.

    :param section: a key of :data:`SECTIONS`.
    :param key: what the line is about, the same in every review.
    :param who: who or what, as people read it.
    :param finding: what was found.
    :param recommendation: what to do.
    :param reason: why.
    :param severity: ok is for information; unknown could not be measured.
    :param action: what an approval leads to.
    :param seen: when the user was last seen, ISO 8601; empty: never.
    :param new: whether the last review did not have it; None: there was none to compare with.
    """

    section: str
    key: str
    who: str
    finding: str
    recommendation: str
    reason: str
    severity: Status
    action: str = NOTHING
    number: int = 0
    user_id: str = ""
    tenant_id: str = ""
    tenant: str = ""
    seen: str = ""
    new: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**dataclasses.asdict(self), "severity": str(self.severity)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Line:
        """Read it from JSON."""
        return cls(**{**data, "severity": Status(data["severity"])})


def numbered(lines: Iterable[Line], before: Iterable[str] | None) -> tuple[Line, ...]:
    """Return the list: in the order of its sections, gravest first within each, numbered from 1.

    :param before: keys of the last review's lines; None when there was no review.
    """
    order = list(SECTIONS)
    known = None if before is None else set(before)
    ranked = sorted(lines, key=lambda line: (order.index(line.section), -line.severity.rank, line.tenant, line.key))
    return tuple(
        dataclasses.replace(line, number=number, new=None if known is None else line.key not in known)
        for number, line in enumerate(ranked, 1)
    )


def unmeasured(what: str, why: str) -> Line:
    """Return the line for something that could not be looked at."""
    return Line(
        section="unmeasured",
        key=f"unmeasured/{what}",
        who=what,
        finding=f"could not be looked at: {why}",
        recommendation="Find out why, then run the review again by hand",
        reason="What was not looked at is not reviewed.",
        severity=Status.UNKNOWN,
        action=BY_HAND,
    )


def items_hash(lines: Sequence[Line]) -> str:
    """Return the SHA-256 by which the list is approved."""
    return plan_hash({"lines": [line.to_dict() for line in lines]})


def summary(lines: Sequence[Line]) -> dict[str, int]:
    """Return how many lines there are of each kind."""
    actions = [line.action for line in lines]
    return {
        "lines": len(lines),
        "deactivate": actions.count(DEACTIVATE),
        "by_hand": actions.count(BY_HAND) - sum(line.section == "unmeasured" for line in lines),
        "unmeasured": sum(line.section == "unmeasured" for line in lines),
    }


# What the reviewer decides ---------------------------------------------------------------------------


def line_numbers(text: object, last: int, field: str) -> tuple[int, ...]:
    """Read ``3, 7-9`` as the numbers of lines, each once, in order.

    :param last: number of the last line.
    :param field: of the form, for the refusal.
    :raises InvalidInput: when it is something else, names no line, or names one that is not there.
    """
    accepted = f"line numbers from 1 to {last}, such as 3, 7-9"
    if not isinstance(text, str) or len(text) > NUMBERS_LIMIT:
        raise InvalidInput(field, text, accepted)
    found: set[int] = set()
    for part in filter(None, re.split(r"[\s,;]+", re.sub(r"\s*[-–]\s*", "-", text.strip()))):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
        first, end = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= end <= last:
            raise InvalidInput(field, part, accepted)
        found.update(range(first, end + 1))
    if not found:
        raise InvalidInput(field, text, accepted)
    return tuple(sorted(found))


def excepted_lines(option: str, given: object, comment: str, lines: Sequence[Line]) -> tuple[int, ...]:
    """Return the numbers of the lines that the reviewer takes exception to.

    :param option: one of :data:`APPROVE_ALL` and :data:`APPROVE_EXCEPT`.
    :param given: what the form's field for line numbers holds: anything, for Airflow does not validate it.
    :raises InvalidInput: when it does not go with the option, or the reason is missing.
    """
    empty = given is None or (isinstance(given, str) and not given.strip())
    if option == APPROVE_ALL:
        if not empty:
            raise InvalidInput("excepted", given, f"nothing with {APPROVE_ALL}; to take lines out: {APPROVE_EXCEPT}")
        return ()
    numbers = line_numbers(given, len(lines), "excepted")
    if not comment:
        raise InvalidInput("comment", comment, "a reason for the exceptions: an auditor will ask for it")
    return numbers


def to_deactivate(lines: Iterable[Line], excepted: Iterable[int]) -> list[Line]:
    """Return the lines whose users are to be deactivated."""
    left_out = set(excepted)
    return [line for line in lines if line.action == DEACTIVATE and line.number not in left_out]


def reviewer_addresses(names: Iterable[str], domain: str) -> list[str]:
    """Return the mail addresses that a reviewer may have, in lower case.

    :param names: Airflow's name and id of the user.
    :param domain: of Airflow's users; empty: only names that are whole addresses count.
    """
    whole = (name if "@" in name else f"{name}@{domain}" if domain else "" for name in names)
    return sorted({address.lower() for address in whole if address})


# Who is deactivated after all ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Standing:
    """A user as he stands, locked, in the moment of acting.

    :param seen: when he was last seen; None: never.
    :param noted: what the audit log says this review has done to him; None: nothing.
    """

    user_id: str
    tenant_status: str
    role: str
    status: str
    service: bool
    seen: dt.datetime | None
    protected: bool
    noted: Mapping[str, Any] | None = None

    @property
    def leads(self) -> bool:
        """Whether he is an administrator who can act."""
        return self.role == "admin" and self.status == "active" and not self.service


DONE = "deactivated"
LEFT = "left alone: "


def last_admin(admins: Iterable[Standing], leaving: Iterable[str]) -> str:
    """Return who of those that shall leave must stay, for else nobody leads the tenant; empty when somebody does.

    It is the one who was there last.
    """
    leading = [admin for admin in admins if admin.leads]
    going = set(leaving)
    if not leading or any(admin.user_id not in going for admin in leading):
        return ""
    never = dt.datetime.min.replace(tzinfo=dt.UTC)
    return max(leading, key=lambda admin: (admin.seen or never, admin.user_id)).user_id


def settle(standings: Sequence[Standing], wanted: Sequence[Line]) -> dict[str, str]:
    """Return what is to become of each user of one tenant whose deactivation was approved.

    :param standings: those users and the tenant's other administrators, locked.
    :param wanted: the approved lines of this tenant.
    :returns: user id → :data:`DONE`, or why he is left alone.
    """
    found = {standing.user_id: standing for standing in standings}
    outcome = {line.user_id: _left_alone(found.get(line.user_id), line) for line in wanted}
    going = [user for user, why in outcome.items() if not why and found[user].noted is None]
    if stays := last_admin(standings, going):
        outcome[stays] = "is the last active administrator of the tenant"
    return {user: f"{LEFT}{why}" if why else DONE for user, why in outcome.items()}


def _left_alone(now: Standing | None, line: Line) -> str:
    if now is None:
        return "the user is not there any more"
    if now.noted is not None:
        return ""  # done by an earlier try of this task
    for so, why in (
        (now.service, "is a service account"),
        (now.protected, "the settings say never to touch this user"),
        (now.tenant_status != "active", f"the tenant is {now.tenant_status} now"),
        (now.status not in ("active", "invited"), f"is {now.status} already, not by this review"),
        (_seen_since(now, line), "has been seen since the review"),
    ):
        if so:
            return why
    return ""


def _seen_since(now: Standing, line: Line) -> bool:
    before = dt.datetime.fromisoformat(line.seen) if line.seen else None
    return now.seen is not None and (before is None or now.seen > before)


def restorable(standing: Standing | None, before: str) -> str:
    """Return why a user cannot be put back to what he was before a review; empty when he can.

    :param standing: with what the review's reversal has done to him already as ``noted``.
    """
    if standing is None:
        return "the user is not there any more"
    if standing.noted is not None:
        return ""
    if standing.status != "inactive":
        return f"is {standing.status} already"
    if before not in ("active", "invited"):
        return f"was {before} before, which nobody is put back to"
    return ""


def by_tenant(lines: Iterable[Line]) -> Iterator[tuple[str, list[Line]]]:
    """Yield tenant ids with their lines."""
    grouped: dict[str, list[Line]] = {}
    for line in lines:
        grouped.setdefault(line.tenant_id, []).append(line)
    yield from grouped.items()
