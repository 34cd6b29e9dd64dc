"""Slow statements: which are slow now, and which of them are new or slower than at the last look."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vcci_ops.domain.checks import judged
from vcci_ops.domain.database import SYSTEM, masked
from vcci_ops.domain.results import Result
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import Forbidden
from vcci_ops.settings import Check

TEXT_LENGTH = 300
SHOWN = 10


class Limits(NamedTuple):
    """What counts as slow."""

    slow_ms: float
    """Mean execution time above which a statement is slow."""
    min_calls: int
    """Fewer calls than this say nothing."""
    factor: float
    """How much slower than at the last look is slower."""


class Statement(NamedTuple):
    """A normalised statement; times in milliseconds.

    ``recent_ms`` and ``recent_calls`` are those since the last look, where that can be told: the mean
    since the server's reset hides what one day changed.
    """

    key: str
    user: str
    calls: int
    mean_ms: float
    total_ms: float
    query: str
    recent_ms: float
    recent_calls: int
    known_calls: int


def snapshot(rows: Sequence[Sequence[Any]], before: Mapping[str, Any] | None, now: dt.datetime) -> dict[str, Any]:
    """Read the rows of statements.sql as a snapshot, JSON-safe, that the next look can be compared with.

    :param before: the snapshot of the last look.
    :raises Forbidden: when other users' statements are hidden.
    """
    reset, dealloc, sees_all = rows[0][-3:]
    if not sees_all:
        raise Forbidden(SYSTEM, "see other users' statements (GRANT pg_read_all_stats)")
    since = reset.isoformat() if reset else ""
    earlier = _by_key(before) if before and before.get("stats_reset") == since else {}
    statements = [_statement(row, earlier.get(row[0])) for row in rows if row[0] is not None]
    return {
        "taken_at": now.isoformat(timespec="seconds"),
        "stats_reset": since,
        "dealloc": dealloc,
        "statements": [s._asdict() for s in statements],
    }


def _by_key(taken: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {s["key"]: s for s in (taken or {}).get("statements", ())}


def _statement(row: Sequence[Any], before: Mapping[str, Any] | None) -> Statement:
    key, user, calls, mean, total, query = row[:6]
    recent_calls, recent_ms, known_calls = calls, mean, calls
    # Fewer calls than before: the entry was evicted and counts anew.
    if before and calls > before["calls"]:
        recent_calls = calls - before["calls"]
        recent_ms = max(total - before["total_ms"], 0.0) / recent_calls
        known_calls = recent_calls
    elif before and calls == before["calls"]:
        recent_calls, recent_ms, known_calls = 0, before["recent_ms"], _known_calls(before)
    text = masked(query or "", TEXT_LENGTH)
    return Statement(key, user, calls, mean, total, text, recent_ms, recent_calls, known_calls)


def _known_calls(statement: Mapping[str, Any]) -> int:
    return int(statement.get("known_calls", statement["recent_calls"]))


def slow_queries(
    check: Check, taken: Mapping[str, Any], before: Mapping[str, Any] | None, limits: Limits, query: str = ""
) -> Result:
    """Judge how many slow statements are new or slower than at the last look; without one, how many are slow."""
    slow = [s for s in taken["statements"] if _is_slow(s, limits)]
    if before is None:
        summary = f"{len(slow)} slow statements; no earlier snapshot to tell new ones from known ones"
        return judged(check, len(slow), summary, details=tuple(_lines(slow, {}, "slow")), query=query)
    earlier = _by_key(before)
    new = [s for s in slow if s["key"] not in earlier or not _was_slow(earlier[s["key"]], limits)]
    slower = [s for s in slow if s not in new and s["recent_ms"] >= limits.factor * earlier[s["key"]]["recent_ms"]]
    known = len(slow) - len(new) - len(slower)
    since = duration(_seconds_between(before["taken_at"], taken["taken_at"]))
    summary = f"{len(new)} new and {len(slower)} slower than {since} ago; {known} as slow as before"
    details = [*_lines(new, earlier, "new"), *_lines(slower, earlier, "slower"), *_notes(taken, before)]
    return judged(check, len(new) + len(slower), summary, details=tuple(details), query=query)


def _is_slow(statement: Mapping[str, Any], limits: Limits) -> bool:
    return bool(statement["recent_ms"] > limits.slow_ms and statement["recent_calls"] >= limits.min_calls)


def _was_slow(statement: Mapping[str, Any], limits: Limits) -> bool:
    # By the same rule: what was too rare to be reported then is news when it is frequent now.
    return bool(statement["recent_ms"] > limits.slow_ms and _known_calls(statement) >= limits.min_calls)


def _lines(statements: Iterable[Mapping[str, Any]], earlier: Mapping[str, Any], word: str) -> Iterable[str]:
    worst = sorted(statements, key=lambda s: -s["recent_ms"] * s["recent_calls"])
    for s in worst[:SHOWN]:
        was = f", was {duration(earlier[s['key']]['recent_ms'] / 1000)}" if s["key"] in earlier else ""
        yield f"{word}: {duration(s['recent_ms'] / 1000)} x {s['recent_calls']}{was}, {s['user']}: {s['query'][:160]}"
    if len(worst) > SHOWN:
        yield f"{word}: {len(worst) - SHOWN} more"


def _notes(taken: Mapping[str, Any], before: Mapping[str, Any]) -> Iterable[str]:
    if taken["stats_reset"] != before.get("stats_reset"):
        yield "the statistics were reset since then; times count from the reset"
    elif taken["dealloc"] > before.get("dealloc", 0):
        yield "statements were evicted since then and may look new: raise pg_stat_statements.max"


def _seconds_between(first: str, second: str) -> float:
    return max((dt.datetime.fromisoformat(second) - dt.datetime.fromisoformat(first)).total_seconds(), 0.0)
