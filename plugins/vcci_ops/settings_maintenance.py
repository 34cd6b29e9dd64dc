"""Settings of the database's maintenance: when it may run, what is worth doing, what must be left free."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from vcci_ops.settings_base import Duration, Model

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""In the order of :meth:`datetime.date.weekday`."""
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


def _clock(value: object) -> dt.time:
    if isinstance(value, dt.time):
        return value
    # 22:00 without quotes is the number 1320 to YAML 1.1.
    if not isinstance(value, str) or not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError('expected a time of day in quotes, such as "02:00"')
    return dt.time.fromisoformat(value)


Clock = Annotated[dt.time, BeforeValidator(_clock)]
"""A time of day in UTC; written as "02:00" in the file."""
Percent = Annotated[float, Field(gt=0, le=100)]
Speed = Annotated[float, Field(gt=0)]
"""Bytes in a second."""


class MaintenanceWindow(Model):
    """When maintenance may run, every week; all in UTC, so that no clock change moves it."""

    days: tuple[Weekday, ...] = Field(min_length=1)
    """Days on which it begins."""
    begin: Clock
    end: Clock
    """Not later than ``begin``: on the next day."""

    @model_validator(mode="after")
    def _lasts(self) -> MaintenanceWindow:
        if self.begin == self.end:
            raise ValueError("an end that is not the begin")
        return self


class Vacuum(Model):
    """When a table is vacuumed or analyzed."""

    every: Duration = 604_800.0
    """From pass to pass; one that a window's end cut short goes on in the next window. Default: 7 days."""
    dead_rows: int = Field(default=10_000, ge=0)
    """Vacuum from so many dead rows on, when they are also ``dead_percent`` of all rows."""
    dead_percent: Percent = 10.0
    inserted_percent: Percent = 20.0
    """Vacuum when so much was added since the last time: index-only scans need the visibility map."""
    changed_percent: Percent = 10.0
    """Analyze when so much has changed since the last time."""
    freeze_percent: Percent = 60.0
    """Vacuum and freeze from this share of autovacuum_freeze_max_age on, before PostgreSQL forces it by day."""
    lock_timeout: Duration = 60.0
    """How long to wait for a table's lock; nobody who reads or writes waits behind it."""
    speed: Speed = 40_000_000
    """How fast a table is vacuumed, until the history knows better."""


class Reindex(Model):
    """When an index is rebuilt, and what must be so before."""

    every: Duration = 2_419_200.0
    """From pass to pass; as with vacuum. Default: 28 days."""
    bloat_percent: Percent = 30.0
    """Rebuild when so much of the index is waste ..."""
    bloat_bytes: int = Field(default=50_000_000, ge=0)
    """... and that is at least so much."""
    analyzed_within: Duration = 86_400.0
    """Statistics older than this are gathered anew before bloat is estimated by them."""
    exact_up_to: int = Field(default=5_000_000_000, ge=0)
    """Up to this size an index is read whole by pgstattuple, where it is installed and allowed; 0: never."""
    lock_timeout: Duration = 300.0
    """How long each wait for locks and for older transactions may take; nobody waits behind it."""
    transactions_older_than: Duration = 60.0
    """A transaction older than this is waited for before a rebuild begins ..."""
    wait_for_transactions: Duration = 1_200.0
    """... for so long; then the index is left for the next time."""
    speed: Speed = 10_000_000
    """How fast an index is rebuilt, until the history knows better."""


class Maintenance(Model):
    """The database's maintenance."""

    windows: tuple[MaintenanceWindow, ...] = Field(min_length=1)
    vacuum: Vacuum = Vacuum()
    reindex: Reindex = Reindex()
    volumes: dict[str, Annotated[int, Field(gt=0)]] = Field(min_length=1)
    """Tablespace → size of its volume in bytes; PostgreSQL does not tell. ``pg_default`` is the one that all have."""
    keep_free_percent: float = Field(default=15.0, ge=0, lt=100)
    """Share of the volume that a rebuild leaves free: WAL, logs and other people's sorts are not seen."""
    blocked_after: Duration = 3_600.0
    """What has kept dead rows from being removed for so long is told of."""
    excluded: tuple[str, ...] = ()
    """schema.table: never touched on schedule."""
