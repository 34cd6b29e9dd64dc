"""What is in the way of maintenance: what keeps dead rows from being removed, what half-built indexes are left over."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from vcci_ops.domain.tenant_graph import quoted
from vcci_ops.domain.units import duration
from vcci_ops.settings_maintenance import Maintenance

OLD = 1_000_000
"""Transactions that a slot or standby may hold back before it is told of; they have no time of their own."""
_NAME_BYTES = 63
_LEFT_OVER = re.compile(r"(?s)(?P<stem>.+)_(?P<label>cc(?:new|old)[0-9]*)")


@dataclasses.dataclass(frozen=True)
class Blocker:
    """Something that keeps dead rows from being removed, for it may still need to see them.

    :param kind: what holds the rows.
    :param name: process id, slot, standby, or the prepared transaction's global identifier.
    :param transactions: how far back it holds.
    :param seconds: since when; None: that is not known.
    :param query: of a session, without literals.
    """

    kind: Literal["session", "slot", "standby", "prepared"]
    name: str
    who: str
    transactions: int | None
    seconds: float | None
    state: str | None
    query: str = ""

    def __str__(self) -> str:
        """Say what it is, in one clause."""
        since = f", for {duration(self.seconds)}" if self.seconds is not None else ""
        back = f", {self.transactions:,} transactions back" if self.transactions else ""
        what = {
            "session": f"process {self.name} ({self.who}), {self.state}",
            "slot": f"replication slot {self.name} ({self.who}), {self.state}",
            "standby": f"hot_standby_feedback of standby {self.name} ({self.who})",
            "prepared": f"prepared transaction '{self.name}' of {self.who}",
        }
        return f"{what[self.kind]}{since}{back}"

    @property
    def action(self) -> str:
        """What to do about it."""
        literal = self.name.replace("'", "''")
        match self.kind:
            case "session" if (self.state or "").startswith("idle in transaction"):
                return f"End it: SELECT pg_terminate_backend({self.name}); then find out why its client left it open"
            case "session":
                return f"Let it end, or stop its statement: SELECT pg_cancel_backend({self.name})"
            case "slot":
                return (
                    "Does its reader still exist? Then find out why it is behind; else SELECT "
                    f"pg_drop_replication_slot('{literal}')"
                )
            case "standby":
                return "Look for a long query on that standby and end it there, or turn hot_standby_feedback off"
        return f"In its database, as its owner: COMMIT PREPARED '{literal}' or ROLLBACK PREPARED '{literal}'"

    def matters(self, settings: Maintenance) -> bool:
        """Return whether it has held rows back for so long that people are told."""
        if self.seconds is not None:
            return self.seconds >= settings.blocked_after
        return (self.transactions or 0) >= OLD


@dataclasses.dataclass(frozen=True)
class Invalid:
    """An index that is not valid, as include/sql/maintenance/invalid.sql shows it.

    :param alike: valid indexes of the same table that are built alike.
    :param busy: who may be building it, in words.
    :param allowed: whether the role may drop it.
    """

    schema: str
    name: str
    table_schema: str
    table_name: str
    bytes: int
    alike: tuple[str, ...]
    busy: tuple[str, ...]
    allowed: bool

    def __str__(self) -> str:
        """Name it as PostgreSQL would."""
        return quoted(self.schema, self.name)

    @property
    def original(self) -> str:
        """The valid index that a rebuild has left it over from; empty: there is none."""
        return next((name for name in self.alike if left_over_of(self.name, name)), "")

    @property
    def why_kept(self) -> str:
        """Why it must not be dropped; empty: it is provably what a rebuild has left behind, and nobody is at it."""
        if not _LEFT_OVER.fullmatch(self.name):
            return "not left over from a rebuild by its name: CREATE INDEX CONCURRENTLY did not end, or still runs"
        if not self.original:
            return "there is no valid index of that name, built alike: dropping it might lose the only one"
        if self.busy:
            return f"somebody may be building it: {'; '.join(self.busy)}"
        if not self.allowed:
            return "only its owner may drop it"
        return ""

    @property
    def action(self) -> str:
        """What a person does about it."""
        drop = f"DROP INDEX CONCURRENTLY {self}"
        if self.busy:
            return "Wait for its end; if it is still there then, the next run looks at it again"
        if _LEFT_OVER.fullmatch(self.name) and self.original:
            return f"As its owner: {drop}"
        return f"Find out who made it. Then either {drop}, or REINDEX INDEX CONCURRENTLY {self}"


def left_over_of(name: str, original: str) -> bool:
    """Return whether PostgreSQL gives an index this name while it rebuilds the original.

    It appends ``_ccnew`` or ``_ccold``, with a number where that is taken, and cuts the original's name for it.
    """
    match = _LEFT_OVER.fullmatch(name)
    if not match:
        return False
    room = _NAME_BYTES - len(match["label"]) - 1
    return original.encode()[:room].decode(errors="ignore") == match["stem"]
