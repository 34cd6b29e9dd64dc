"""What a run of maintenance is asked for, what it will do, and how it goes through that within its time."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, cast

from vcci_ops.domain.maintenance import REINDEX, VACUUM, Left, Table, Work
from vcci_ops.domain.plans import plan_hash
from vcci_ops.domain.release_request import choice, flag, text
from vcci_ops.domain.tenant_graph import quoted
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import InvalidInput
from vcci_ops.settings_maintenance import Maintenance

BOTH = "both"
_SHOWN = 60
_LATE = 43_200
"""Seconds by which a pass may begin later than its window did, and the next one still be due a week after."""


# What is asked for ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MaintenanceRequest:
    """What a run is to do.

    :param kinds: vacuum (and analyze), reindex.
    :param tables: as they were named; empty: all that are due.
    :param scheduled: nobody asked: it acts, and only what is due by ``every``.
    """

    kinds: tuple[str, ...]
    tables: tuple[str, ...] = ()
    ignore_window: bool = False
    reason: str = ""
    dry_run: bool = False
    scheduled: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any], *, scheduled: bool) -> MaintenanceRequest:
        """Read the run's parameters; a scheduled run has none of its own.

        :raises InvalidInput: names the field, the value and what would be accepted.
        """
        if scheduled:
            return cls((VACUUM, REINDEX), scheduled=True)
        kind = choice(params, "kind", (VACUUM, REINDEX, BOTH))
        ignore = flag(params, "ignore_window")
        reason = text({**params, "reason": params.get("reason") or ""}, "reason", 500).strip()
        if ignore and (len(reason) < 5 or not reason.isprintable()):
            raise InvalidInput("reason", reason, "why it cannot wait for its window, in 5 to 500 characters")
        return cls(
            kinds=(VACUUM, REINDEX) if kind == BOTH else (kind,),
            tables=_names(params.get("tables")),
            ignore_window=ignore,
            reason=reason,
            dry_run=flag(params, "dry_run"),
        )


def _names(given: Any) -> tuple[str, ...]:
    wanted = "a list of at most 200 names of tables, such as public.emissions"
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > 200:
        raise InvalidInput("tables", given, wanted)
    for name in given:
        if not isinstance(name, str) or not 0 < len(name) <= 260 or not name.isprintable():
            raise InvalidInput("tables", name, wanted)
    return tuple(dict.fromkeys(name.strip() for name in given))


def named(tables: Sequence[Table], names: Iterable[str]) -> frozenset[str]:
    """Return the tables that were named: ``emissions``, ``public.emissions`` or as PostgreSQL prints them.

    A partitioned table stands for all its partitions, too.

    :raises InvalidInput: when there is no such table, or several; names those that there are, the most alike first.
    """
    found = set()
    for name in names:
        meant = {str(t) for t in tables if name in (t.name, f"{t.schema}.{t.name}", str(t), quoted(t.name))}
        if len(meant) != 1:
            every = sorted(meant or map(str, tables))
            alike = difflib.get_close_matches(name, every, n=_SHOWN, cutoff=0.6)
            shown = list(dict.fromkeys([*alike, *every]))[:_SHOWN]
            more = f" and {len(every) - len(shown)} more" if len(every) > len(shown) else ""
            raise InvalidInput(
                "tables", name, f"{'one' if meant else 'a table that exists'} of {', '.join(shown)}{more}"
            )
        found |= meant | {str(t) for t in tables if t.root and t.root in meant}
    return frozenset(found)


# The plan ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MaintenancePlan:
    """What a run will do; the indexes are looked at again after a fresh ANALYZE, and only then decided upon.

    :param until: when it stops; None: it may not act now, and ``why_not`` says why.
    :param window: in words.
    :param kinds: what is due, or asked for.
    :param works: vacuum and analyze in their order, then what would be rebuilt by what is known now.
    """

    kinds: tuple[str, ...]
    chosen: tuple[str, ...]
    by: str
    reason: str
    dry_run: bool
    scheduled: bool
    window: str
    until: dt.datetime | None
    why_not: str
    works: tuple[Work, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()

    @property
    def acts(self) -> bool:
        """Whether something follows."""
        return bool(self.until and self.kinds and not self.dry_run)

    @property
    def whole(self) -> bool:
        """Whether it is about the whole database, not some tables."""
        return not self.chosen

    @property
    def digest(self) -> str:
        """The SHA-256 of the plan."""
        return plan_hash(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            **dataclasses.asdict(self),
            "kinds": list(self.kinds),
            "chosen": list(self.chosen),
            "until": self.until.isoformat() if self.until else None,
            "works": [work.to_dict() for work in self.works],
            "left": [dataclasses.asdict(item) for item in self.left],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MaintenancePlan:
        """Read what :meth:`to_dict` returned."""
        given = {
            **data,
            "kinds": tuple(data["kinds"]),
            "chosen": tuple(data["chosen"]),
            "until": dt.datetime.fromisoformat(data["until"]) if data["until"] else None,
            "works": tuple(Work.from_dict(work) for work in data["works"]),
            "left": tuple(Left(**item) for item in data["left"]),
            "notes": tuple(data["notes"]),
        }
        return cls(**cast(Any, given))


def due_kinds(
    request: MaintenanceRequest, last: Mapping[str, dt.datetime], settings: Maintenance, now: dt.datetime
) -> tuple[str, ...]:
    """Return which passes are due: all that a person asks for; on schedule those whose last is long enough ago.

    :param last: kind → when its last whole pass began that left nothing over.
    """
    if not request.scheduled:
        return request.kinds
    every = {VACUUM: settings.vacuum.every, REINDEX: settings.reindex.every}
    return tuple(
        kind for kind in request.kinds if kind not in last or (now - last[kind]).total_seconds() >= every[kind] - _LATE
    )


# Going through it -------------------------------------------------------------------------------------------

State = Literal["done", "failed", "given-up", "left", "busy"]
DONE: Final = "done"
FAILED: Final = "failed"
GIVEN_UP: Final = "given-up"
LEFT: Final = "left"
BUSY: Final = "busy"
"""How a work ends. left: not begun, or stopped without a trace, for lack of time; busy: somebody has its lock."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a work.

    :param words: why, when it was not done.
    """

    state: State
    words: str = ""
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Shift:
    """The time that a run has.

    :param until: when it stops.
    :param longest: what the longest window has; a work that needs more never fits.
    :param clock: returns the time.
    """

    until: dt.datetime
    longest: dt.timedelta
    clock: Callable[[], dt.datetime]

    @property
    def left(self) -> float:
        """Seconds until it ends; negative: it has."""
        return (self.until - self.clock()).total_seconds()

    def never_fits(self, seconds: float) -> bool:
        """Return whether a work that takes so long fits into no window."""
        return seconds > self.longest.total_seconds()

    def why_not(self, seconds: float) -> str:
        """Return why a work that takes so long may not begin now; empty: it may."""
        if self.never_fits(seconds):
            return (
                f"it is reckoned to take {duration(seconds)}, and no window is that long: lengthen one, or run it by "
                "hand with ignore_window"
            )
        if self.left <= 0:
            return "the time was over; it goes on in the next window"
        if seconds > self.left:
            return f"it is reckoned to take {duration(seconds)}, and {duration(self.left)} were left; the next window"
        return ""


def go_through(
    works: Sequence[Work], shift: Shift, act: Callable[[Work], Outcome], *, tries: int = 3
) -> Iterator[tuple[Work, Outcome]]:
    """Do one work after the other and yield what became of each; never begin what does not fit.

    What somebody has locked goes to the end of the queue, so that the rest need not wait behind it.

    :param act: does it; ``busy``: not now.
    :param tries: how often a busy one is tried before it is given up.
    """
    queue = deque((work, 1) for work in works)
    while queue:
        work, attempt = queue.popleft()
        if why := shift.why_not(work.seconds):
            yield work, Outcome(LEFT, why, {"never_fits": shift.never_fits(work.seconds)})
            continue
        outcome = act(work)
        if outcome.state == BUSY and attempt < tries:
            queue.append((work, attempt + 1))
        elif outcome.state == BUSY:
            yield work, dataclasses.replace(outcome, state=GIVEN_UP, words=f"{outcome.words}; tried {tries} times")
        else:
            yield work, outcome
