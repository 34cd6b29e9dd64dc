"""Maintenance of the database: what is there, what of it is worth doing, and in which order."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from vcci_ops.domain.bloat import Bloat
from vcci_ops.domain.tenant_graph import quoted
from vcci_ops.domain.units import humanize
from vcci_ops.settings_maintenance import Maintenance

VACUUM, ANALYZE, REINDEX, DROP = "vacuum", "analyze", "reindex", "drop-invalid"
"""Kinds of work, as the history names them."""
NAMED = "named by hand"
_WORTH_A_LOOK = 1_000
"""Rows below which a table is too small for shares of it to mean anything."""


# What is there ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as include/sql/maintenance/tables.sql shows it: rows, bytes, ages in transactions.

    ``kind``: r, m (materialized view), p (partitioned: it has no rows of its own). TOAST counts with its table.
    """

    schema: str
    name: str
    kind: str
    live: int
    dead: int
    toast_live: int
    toast_dead: int
    changed: int
    inserted: int
    last_vacuum: dt.datetime | None
    last_autovacuum: dt.datetime | None
    last_analyze: dt.datetime | None
    last_autoanalyze: dt.datetime | None
    age: int
    mxid_age: int
    freeze_max: int
    mxid_freeze_max: int
    bytes: int
    index_bytes: int
    allowed: bool
    owner: str
    autovacuum_off: bool
    root: str = ""
    """The partitioned table that it is a part of."""

    def __str__(self) -> str:
        """Name it as PostgreSQL would: ``public."Ten ant"``."""
        return quoted(self.schema, self.name)

    @property
    def vacuumed(self) -> dt.datetime | None:
        """When it was last vacuumed, by whomever."""
        return _latest(self.last_vacuum, self.last_autovacuum)

    @property
    def analyzed(self) -> dt.datetime | None:
        """When it was last analyzed, by whomever."""
        return _latest(self.last_analyze, self.last_autoanalyze)

    @property
    def dead_percent(self) -> float:
        """Share of rows that are dead."""
        return _percent(self.dead, self.live + self.dead)

    @property
    def freeze_percent(self) -> float:
        """How far it is on its way to the vacuum that PostgreSQL forces, whichever counter is nearer."""
        return max(_percent(self.age, self.freeze_max), _percent(self.mxid_age, self.mxid_freeze_max))


@dataclasses.dataclass(frozen=True)
class Index:
    """An index as include/sql/maintenance/indexes.sql shows it, with its waste where that could be measured."""

    schema: str
    name: str
    table_schema: str
    table_name: str
    method: str
    bytes: int
    valid: bool
    exclusion: bool
    allowed: bool
    owner: str
    tablespace: str
    bloat: Bloat | None = None
    statistics_age: float | None = None
    """Seconds since its table was analyzed; None: never."""

    def __str__(self) -> str:
        """Name it as PostgreSQL would."""
        return quoted(self.schema, self.name)

    @property
    def table(self) -> str:
        """Its table; of TOAST's index the table that the TOAST is of."""
        return quoted(self.table_schema, self.table_name)


@dataclasses.dataclass(frozen=True)
class Server:
    """The server and its database as a whole."""

    version: str
    age: int
    mxid_age: int
    freeze_max: int
    autovacuum: bool
    bytes: int
    sees_all: bool
    exact: bool
    """Whether pgstattuple is there and may be used."""


def _latest(*times: dt.datetime | None) -> dt.datetime | None:
    return max((time for time in times if time), default=None)


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


# What is worth doing ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Work:
    """One thing to do.

    :param object: schema and name of the table or index.
    :param table: the table, as PostgreSQL prints it.
    :param why: in words.
    :param bytes: size now.
    :param seconds: how long it is reckoned to take.
    :param freeze: of a vacuum: all rows.
    """

    kind: str
    object: tuple[str, str]
    table: str
    why: str
    bytes: int
    seconds: float
    freeze: bool = False

    def __str__(self) -> str:
        """Name its object."""
        return quoted(*self.object)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**dataclasses.asdict(self), "object": list(self.object), "seconds": round(self.seconds, 1)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Work:
        """Read what :meth:`to_dict` returned."""
        return cls(**{**data, "object": tuple(data["object"])})


@dataclasses.dataclass(frozen=True)
class Left:
    """Something that is not done, and why."""

    object: str
    why: str


Speeds = Mapping[str, float]
"""Kind of work → bytes in a second."""


def reckoned(size: int, kind: str, speeds: Speeds) -> float:
    """Return how many seconds a work of this size is reckoned to take; a third more than at its usual speed."""
    return 1.0 + 1.33 * size / speeds[VACUUM if kind == ANALYZE else kind]


def usual_speed(past: Sequence[tuple[float, float]], default: float) -> float:
    """Return how fast a kind of work goes: the slowest quarter of the past begins there.

    :param past: bytes and seconds of works that ended well; with fewer than four of them: the default.
    """
    speeds = sorted(size / seconds for size, seconds in past if size > 0 and seconds > 0)
    return speeds[len(speeds) // 4] if len(speeds) >= 4 else default


def vacuum_works(
    tables: Sequence[Table], chosen: frozenset[str], settings: Maintenance, speeds: Speeds, now: dt.datetime
) -> tuple[list[Work], list[Left]]:
    """Return which tables to vacuum or analyze, the most urgent first, and which are left alone although due.

    What is nearest to a forced vacuum comes first; then what gives back most; then statistics.

    :param chosen: tables named by hand, due or not; empty: all.
    """
    works: list[tuple[tuple[float, ...], Work]] = []
    left: list[Left] = []
    for table in tables:
        if chosen and str(table) not in chosen:
            continue
        found = _due(table, settings, now, by_name=bool(chosen))
        if found is None:
            continue
        if why := _barred(table.allowed, table.owner, str(table), chosen, settings):
            left.append(Left(str(table), why))
            continue
        kind, why, freeze = found
        seconds = reckoned(table.bytes + table.index_bytes * (kind == VACUUM), kind, speeds)
        order = (kind == ANALYZE, -table.freeze_percent if freeze else 0.0, -_dead_bytes(table))
        works.append((order, Work(kind, (table.schema, table.name), str(table), why, table.bytes, seconds, freeze)))
    return [work for _, work in sorted(works, key=lambda pair: (pair[0], str(pair[1])))], left


def _barred(allowed: bool, owner: str, table: str, chosen: frozenset[str], settings: Maintenance) -> str:
    if table in settings.excluded and not chosen:
        return "excluded by the settings"
    return "" if allowed else f"the role may not: its owner is {owner} (include/sql/grants/vcci_ops_maintenance.sql)"


def _dead_bytes(table: Table) -> float:
    rows = table.live + table.dead + table.toast_live + table.toast_dead
    return table.bytes * (table.dead + table.toast_dead) / rows if rows else 0.0


def _due(table: Table, settings: Maintenance, now: dt.datetime, *, by_name: bool) -> tuple[str, str, bool] | None:
    """Return kind, reason, and whether to freeze; None: nothing is due."""
    if table.kind == "p":
        return _parent_due(table, settings, now, by_name=by_name)
    reasons, freeze = _reasons(table, settings)
    if reasons or by_name:
        return VACUUM, "; ".join(reasons or [NAMED]), freeze
    stale = _stale(table, settings)
    return (ANALYZE, stale, False) if stale else None


def _reasons(table: Table, settings: Maintenance) -> tuple[list[str], bool]:
    limits, said = settings.vacuum, []
    freeze = table.freeze_percent >= limits.freeze_percent
    if freeze:
        said.append(f"its oldest rows are {table.freeze_percent:.0f} % on their way to a forced vacuum")
    for what, dead, live in (("", table.dead, table.live), ("TOAST: ", table.toast_dead, table.toast_live)):
        share = _percent(dead, live + dead)
        if dead and dead >= limits.dead_rows and share >= limits.dead_percent:
            said.append(f"{what}{dead:,} dead rows, {share:.0f} %")
    if table.inserted >= _WORTH_A_LOOK and _percent(table.inserted, table.live) >= limits.inserted_percent:
        said.append(f"{table.inserted:,} rows added since the last vacuum")
    return said, freeze


def _stale(table: Table, settings: Maintenance) -> str:
    if table.live >= _WORTH_A_LOOK and table.analyzed is None:
        return "never analyzed"
    if table.changed >= _WORTH_A_LOOK and _percent(table.changed, table.live) >= settings.vacuum.changed_percent:
        return f"{table.changed:,} rows changed since the last analyze"
    return ""


def _parent_due(
    table: Table, settings: Maintenance, now: dt.datetime, *, by_name: bool
) -> tuple[str, str, bool] | None:
    """Return when a partitioned table is due: autovacuum never analyzes the whole of it."""
    age = (now - table.analyzed).total_seconds() if table.analyzed else None
    if age is None:
        return ANALYZE, "partitioned, and never analyzed as a whole: autovacuum does not", False
    if by_name or age >= settings.vacuum.every / 2:
        return ANALYZE, NAMED if by_name else "partitioned: autovacuum does not analyze the whole of it", False
    return None


def reindex_works(
    indexes: Sequence[Index], chosen: frozenset[str], settings: Maintenance, speeds: Speeds
) -> tuple[list[Work], list[Left]]:
    """Return which indexes to rebuild, the most waste first, and which are left alone although they may need it.

    :param chosen: tables named by hand, whose indexes are rebuilt whatever their waste; empty: all that are due.
    """
    works: list[tuple[int, Work]] = []
    left: list[Left] = []
    for index in indexes:
        if (chosen and index.table not in chosen) or not index.valid:
            continue
        why = NAMED if chosen else bloated(index, settings)
        if not why:
            continue
        if barred := _index_barred(index, chosen, settings):
            left.append(Left(str(index), barred))
            continue
        seconds = reckoned(index.bytes, REINDEX, speeds)
        work = Work(REINDEX, (index.schema, index.name), index.table, why, index.bytes, seconds)
        works.append((-(index.bloat.bytes if index.bloat else 0), work))
    return [work for _, work in sorted(works, key=lambda pair: (pair[0], str(pair[1])))], left


def bloated(index: Index, settings: Maintenance) -> str:
    """Return how much of an index is waste when that is worth a rebuild; empty: it is not, or not known."""
    bloat, limits = index.bloat, settings.reindex
    if bloat is None or bloat.bytes < max(limits.bloat_bytes, 1) or bloat.percent < limits.bloat_percent:
        return ""
    return f"{bloat.percent:.0f} % is waste, {humanize(bloat.bytes, 'bytes')} ({bloat.measured})"


def _index_barred(index: Index, chosen: frozenset[str], settings: Maintenance) -> str:
    if index.exclusion:
        return "it backs an exclusion constraint: PostgreSQL rebuilds it only by barring writers (REINDEX INDEX)"
    if index.tablespace not in settings.volumes:
        return f"the settings do not say how large the volume of tablespace {index.tablespace} is: maintenance.volumes"
    return _barred(index.allowed, index.owner, index.table, chosen, settings)
