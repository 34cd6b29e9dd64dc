"""Settings of the backups that vcci-ops makes: how they are dumped, what their manifest says, how long they stay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vcci_ops.settings_base import Duration, Model


class Retention(Model):
    """How many backups are kept; a number counts days, weeks, months that have one, so a pause deletes nothing."""

    daily: int = Field(default=14, ge=1, le=400)
    """The newest of each of so many days."""
    weekly: int = Field(default=8, ge=0, le=200)
    """The newest of each of so many ISO weeks."""
    monthly: int = Field(default=11, ge=0, le=120)
    """The newest of each of so many months."""
    younger_than: Duration = 172_800.0
    """All that are younger stay: one made before a change is not replaced by one made after it."""
    hold: tuple[str, ...] = ()
    """Keys that are never deleted, such as evidence in a law case."""

    @property
    def longest(self) -> float:
        """Seconds after which a backup is surely gone, when one is made every day and nothing is on hold."""
        return max(86400.0 * max(self.daily, 7 * self.weekly, 31 * self.monthly), self.younger_than)


class DatabaseBackup(Model):
    """The database's backup. Where it goes and what it is called: ``backups``."""

    enabled: bool = True
    """Off where another tool makes the backups; checks and drills work on what they find."""
    made_by: str = ""
    """That other tool, for people who wonder: RDS snapshots, pgBackRest, cron."""
    schedule: str | None = "0 2 * * *"
    """Cron, in UTC; none: by hand only."""
    encryption: Literal["AES256", "aws:kms"] = "AES256"
    """Server-side encryption of what is stored."""
    kms_key: str = ""
    """Key of aws:kms; empty: the account's default."""
    compression: int = Field(default=6, ge=0, le=9)
    """pg_dump's --compress; 6 is gzip's own choice, 1 takes a third of the time and some tenth more room."""
    hashed_whole: int = Field(default=1 << 30, ge=1)
    """Bytes up to which all rows of a table go into its checksum; of a larger one about so much, and it is said so."""
    extensions_left_out: tuple[str, ...] = ("pg_stat_statements",)
    """Extensions that hold nothing, and that only a superuser could create in a restored copy."""
    lock_timeout: Duration = Field(default=120.0, gt=0)
    """How long pg_dump waits for a table that somebody alters, before it gives up."""
    sums_after_dump: Duration = Field(default=600.0, ge=0)
    """How much longer than the dump the snapshot is held for the manifest's sums; the rest is unknown."""
    timeout: Duration = 21600.0
    """A dump, and a read-back, that takes longer has failed."""
    retention: Retention = Retention()

    @model_validator(mode="after")
    def _key_of_kms(self) -> DatabaseBackup:
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("kms_key only with encryption aws:kms")
        return self
