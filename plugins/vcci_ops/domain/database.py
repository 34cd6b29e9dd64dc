"""Verdicts on what PostgreSQL says of itself: connections, transactions, size, growth, tenants.

Each function takes the check and the rows of the statement of the same name in include/sql/checks/.
"""

from __future__ import annotations

import datetime as dt
import re
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from vcci_ops.domain.checks import describe, judged, stated, verdict
from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import Forbidden, NoData, UnexpectedAnswer
from vcci_ops.settings import Check

SYSTEM = "PostgreSQL"
QUERY_LENGTH = 200
_DAY = 86400.0

_LITERALS = re.compile(
    r"""
      --[^\n]*                                                # comments may quote anything
    | /\*.*\*/ | /\*.*                                        # up to the last end: they nest
    | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)      # $tag$ ... $tag$
    | \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)                       # E'...' knows backslashes
    | '(?:[^']|'')*(?:'|\Z)                                   # a cut-off text has no closing quote
    | (?P<name>"(?:[^"]|"")*(?:"|\Z))                         # a quoted name stays
    | (?<![\w$.])\d[\w.]*                                     # numbers, not $1
    """,
    re.VERBOSE | re.DOTALL,
)


class Earlier(NamedTuple):
    """A value of an earlier run."""

    value: float
    observed_at: dt.datetime


def masked(sql: str, length: int = QUERY_LENGTH) -> str:
    """Return a statement in one line, without its literals and comments, cut to a length.

    >>> masked("SELECT * FROM users WHERE email = 'ada@acme.com' AND id = 7")
    'SELECT * FROM users WHERE email = ? AND id = ?'
    """
    text = _LITERALS.sub(lambda m: m["name"] or ("" if m[0][:2] in ("--", "/*") else "?"), sql)
    return shortened(" ".join(text.split()), length)


def shortened(text: str, length: int) -> str:
    """Cut a text, and show that it was cut."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def connections(check: Check, row: Sequence[Any], query: str = "") -> Result:
    """Judge how many of the usable connections are taken, in percent.

    :raises Forbidden: when other users' sessions are hidden, for then few seen means nothing.
    """
    maximum, reserved, used, states, holders, sees_all = row
    if not sees_all:
        raise Forbidden(SYSTEM, "see other users' sessions (GRANT pg_read_all_stats)")
    usable = maximum - reserved
    if usable <= 0:
        raise UnexpectedAnswer(SYSTEM, f"max_connections {maximum} with {reserved} reserved")
    details = [f"{n} {state}" for state, n in sorted((states or {}).items(), key=lambda pair: -pair[1])]
    details += [f"{n} by {application} as {user}" for application, user, n in holders or ()]
    summary = f"{used} of {usable} usable connections taken (max_connections {maximum}, {reserved} reserved)"
    return judged(check, 100.0 * used / usable, summary, details=tuple(details), query=query)


def exhausted(check: Check, why: str) -> Result:
    """Say that the server refused the check itself a connection, because none is left."""
    return stated(check, Status.CRITICAL, f"No connection left: {why}", value=100.0, display="100 %", unit="percent")


def transactions(check: Check, rows: Sequence[Sequence[Any]], query: str = "") -> Result:
    """Judge the age of the oldest open transaction, in seconds.

    :raises Forbidden: when other users' transactions are hidden, for then none seen means nothing.
    """
    if not rows[0][-1]:
        raise Forbidden(SYSTEM, "see other users' transactions (GRANT pg_read_all_stats)")
    found = [row for row in rows if row[0] is not None]
    if not found:
        return judged(check, 0.0, "No transaction is open", display="none open", query=query)
    details = tuple(_transaction(row) for row in found)
    age, pid, user, application, state = found[0][:5]
    summary = f"The oldest of {found[0][6]} open is {duration(age)} old: {pid}, {user} ({application or '-'}), {state}"
    return judged(check, age, summary, details=details, query=query)


def _transaction(row: Sequence[Any]) -> str:
    age, pid, user, application, state, text = row[:6]
    asked = f": {masked(text)}" if text else ""
    return f"{duration(age)} open, {pid}, {user} ({application or '-'}), {state}{asked}"


def size(check: Check, row: Sequence[Any], tables: list[tuple[Any, ...]] | str, query: str = "") -> Result:
    """Judge the exact size in bytes.

    :param row: name of the database, bytes, and whether the server is in recovery.
    :param tables: (schema, table, bytes) of the largest, or why they are not known.
    """
    database, size_bytes, in_recovery = row
    details: tuple[str, ...]
    if isinstance(tables, str):
        details = (f"table sizes are not known: {tables}",)
    else:
        details = tuple(f"{humanize(n, 'bytes')} {name} ({schema})" for schema, name, n in tables)
    if in_recovery:
        details = ("this server is in recovery, a replica: does the connection lead to the primary?", *details)
    summary = f"{database} holds {humanize(size_bytes, 'bytes')} ({size_bytes:,} bytes)"
    return judged(check, float(size_bytes), summary, details=details, query=query)


def growth(check: Check, now: Earlier, before: Earlier | None, query: str = "") -> Result:
    """Judge the change in percent per day since an earlier run; shrinking is as bad as growing.

    Less than a day is not blown up to a day: two runs a minute apart would turn noise into alarm.
    """
    if before is None or before.value <= 0:
        return stated(check, Status.OK, "No earlier value to compare with; the next run has one", query=query)
    elapsed = (now.observed_at - before.observed_at).total_seconds()
    percent = 100.0 * (now.value / before.value - 1.0) / max(elapsed / _DAY, 1.0)
    change = humanize(now.value - before.value, "bytes")
    summary = (
        f"{change.removeprefix('-')} {'more' if now.value >= before.value else 'less'} than "
        f"{duration(max(elapsed, 0.0))} ago, {percent:+.2f} % a day"
    )
    details = (f"{humanize(before.value, 'bytes')} at {before.observed_at:%Y-%m-%d %H:%M} UTC",)
    threshold = check.threshold
    if threshold is None:
        return judged(check, percent, summary, unit="percent", details=details, query=query)
    status = verdict(threshold, abs(percent))
    if percent < 0 and status is not Status.OK:
        summary += ": it shrank; was data deleted, or is this another database?"
    return stated(
        check,
        status,
        summary,
        value=percent,
        unit=threshold.unit,
        display=humanize(percent, threshold.unit),
        threshold=f"{describe(threshold)}, growing or shrinking",
        details=details,
        query=query,
    )


def active_tenants(
    check: Check, row: Sequence[Any], seconds: float, history: Sequence[Earlier], query: str = ""
) -> Result:
    """Judge the number of active tenants, in percent of what is usual.

    :param row: active tenants, and tenants that may be active.
    :param history: numbers of active tenants of the same weekday before; their median is the usual.
        Without any, the number of tenants takes its place.
    :raises NoData: when there is no tenant at all.
    """
    active, tenants = row
    usual = statistics.median(h.value for h in history) if history else 0.0
    compared = f"{usual:g} on this weekday (median of {len(history)})"
    if usual <= 0:
        usual, compared = float(tenants), f"all {tenants} tenants, as there is no history yet"
    if usual <= 0:
        raise NoData(f"{SYSTEM}: there is no active tenant to compare with")
    percent = 100.0 * active / usual
    summary = f"{active} tenants active in the last {duration(seconds)}, against {compared}"
    display = f"{active} tenants ({percent:.0f} % of usual)"
    return judged(check, percent, summary, display=display, query=query)


def measured(check: Check, rows: Sequence[Sequence[Any]], query: str = "") -> list[Result]:
    """Judge rows of one number, or of a subject and a number.

    :raises NoData: when there is no row, or no number in one.
    :raises UnexpectedAnswer: when a row is neither.
    """
    if not rows:
        raise NoData(f"{SYSTEM}: the query gave no row")
    results = []
    for row in rows:
        if len(row) not in (1, 2) or (len(row) == 1 and len(rows) > 1):
            raise UnexpectedAnswer(SYSTEM, "expected one number, or rows of a subject and a number")
        subject = str(row[0]) if len(row) == 2 else ""
        results.append(_judged_number(check, row[-1], subject, query))
    return results


def _judged_number(check: Check, given: Any, subject: str, query: str) -> Result:
    if given is None:
        raise NoData(f"{SYSTEM}: the query gave NULL{f' for {subject}' if subject else ''}")
    try:
        value = float(given)
    except (TypeError, ValueError):
        raise UnexpectedAnswer(SYSTEM, f"the query gave a {type(given).__name__} instead of a number") from None
    unit = check.threshold.unit if check.threshold else ""
    summary = humanize(value, unit) + (f" for {subject}" if subject else "")
    return judged(check, value, summary, subject=subject, query=query)
