"""What an access review finds among the roles of the production database.

What a role *can do* is compared with what the settings say it is for. https://www.postgresql.org/docs/current/user-manag.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from vcci_ops.domain.access import BY_HAND, NOTHING, Line
from vcci_ops.domain.results import Status
from vcci_ops.settings_tenants import DatabaseRole

OWNS, WRITES = "owns", "writes"
PUBLIC = ""
POWERFUL = {
    "pg_execute_server_program": "runs programs on the server",
    "pg_write_server_files": "writes files on the server",
    "pg_read_server_files": "reads files on the server",
    "pg_write_all_data": "writes every table",
    "pg_read_all_data": "reads every table",
    "pg_create_subscription": "copies data in from elsewhere",
    "pg_maintain": "locks and rewrites every table",
    "pg_signal_backend": "ends other sessions",
    "pg_monitor": "reads all settings, the replication's password among them",
}
"""Predefined roles that no kind but an administrator's needs, and what each can do.
https://www.postgresql.org/docs/current/predefined-roles.html"""
COPIES = "pg_read_all_data"
"""What a copier needs beside."""
GRAVE = frozenset(POWERFUL) - {COPIES, "pg_maintain", "pg_signal_backend", "pg_monitor"}


class Role(NamedTuple):
    """A role of the server."""

    name: str
    login: bool
    superuser: bool
    create_role: bool
    create_database: bool
    replication: bool
    bypasses_row_security: bool
    member_of: tuple[str, ...]


class Right(NamedTuple):
    """What a role owns, or where it may write.

    :param what: :data:`OWNS` or :data:`WRITES`.
    :param shown: some of the tables, with their schema.
    """

    role: str
    what: str
    tables: int
    shown: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.tables - len(self.shown)} more" if self.tables > len(self.shown) else ""
        return f"{self.what} {', '.join(self.shown)}{more}"


def lines(roles: Iterable[Role], rights: Iterable[Right], known: Mapping[str, DatabaseRole]) -> Iterator[Line]:
    """Yield a line for each role that may log in or can do much; and for what everybody may write."""
    every = {role.name: role for role in roles}
    owned = list(rights)
    for role in every.values():
        excess, grave = _excess(role, known.get(role.name), every, owned)
        unknown = role.login and role.name not in known
        if role.login or grave or role.superuser:
            yield _line(role, known.get(role.name), excess, grave, unknown)
    for right in owned:
        if right.role == PUBLIC and right.what == WRITES:
            yield _public(right)


def _excess(
    role: Role, known: DatabaseRole | None, every: Mapping[str, Role], rights: Iterable[Right]
) -> tuple[list[str], bool]:
    """Return what a role can do beyond its kind, in words, and whether it is grave."""
    kind = known.kind if known else ""
    if kind == "administrator":
        return [], False
    ranks = {
        "is a superuser": role.superuser,
        "creates roles": role.create_role,
        "passes by row security": role.bypasses_row_security,
        "reads all by replication": role.replication,
    }
    grave = [words for words, so in ranks.items() if so]
    grave += [f"is a member of {name}, a superuser" for name in role.member_of if _superuser(every, name)]
    grave += [f"{POWERFUL[name]} ({name})" for name in role.member_of if name in GRAVE]
    needed = {COPIES} if kind == "copier" else set()
    more = [name for name in role.member_of if name in POWERFUL.keys() - GRAVE - needed]
    lesser = [f"{POWERFUL[name]} ({name})" for name in more]
    lesser += ["creates databases"] if role.create_database else []
    for right in rights:
        if right.role in {role.name, *role.member_of} and _beyond(kind, right.what):
            through = f" (through {right.role})" if right.role != role.name else ""
            lesser.append(f"{right}{through}")
    return grave + lesser, bool(grave)


def _superuser(every: Mapping[str, Role], name: str) -> bool:
    return name in every and every[name].superuser


def _beyond(kind: str, what: str) -> bool:
    """Whether a kind should not own, or write. What an unknown role does is told in any case."""
    return kind != "owner" if what == OWNS else kind not in ("owner", "writer")


def _line(role: Role, known: DatabaseRole | None, excess: list[str], grave: bool, unknown: bool) -> Line:
    may = "may log in" if role.login else "cannot log in itself"
    finding = f"{may}; {'; '.join(excess)}" if excess else may
    if unknown:
        recommendation = "Drop it, or write in the settings what it is for"
        reason = "The settings do not know this role."
    elif excess:
        recommendation = "Take away what it does not need"
        reason = f"It can do more than {_kind(known)} needs."
    else:
        recommendation, reason = "Keep", f"It is {_kind(known)}, and nothing beyond it that the catalogs show."
    severity = Status.CRITICAL if grave else Status.WARNING if unknown or excess else Status.OK
    return Line(
        section="roles",
        key=f"role/{role.name}",
        who=f"role {role.name}" + (f" ({known.purpose})" if known else ""),
        finding=finding,
        recommendation=recommendation,
        reason=reason,
        severity=severity,
        action=NOTHING if severity is Status.OK else BY_HAND,
    )


def _kind(known: DatabaseRole | None) -> str:
    if known is None:
        return "a role that the settings do not know"
    return f"a{'n' if known.kind[0] in 'ao' else ''} {known.kind}"


def _public(right: Right) -> Line:
    return Line(
        section="roles",
        key="role/PUBLIC",
        who="everybody (PUBLIC)",
        finding=str(right),
        recommendation="Revoke it from PUBLIC and grant it to who needs it",
        reason="Whoever can log in can write there, readers among them.",
        severity=Status.CRITICAL,
        action=BY_HAND,
    )
