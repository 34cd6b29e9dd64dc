"""The bucket of the backups: what is there, and what retention takes away."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vcci_ops.domain.backup_retention import Fate, Known, require_sane
from vcci_ops.domain.backups import Backup, Names, Stored, read_manifest
from vcci_ops.exceptions import NoData, Refused
from vcci_ops.hooks.backup_record import DELETING, MADE, BackupRecord, Recorded
from vcci_ops.hooks.s3 import translated
from vcci_ops.hooks.tenant_objects import ExportStore

if TYPE_CHECKING:
    from vcci_ops.settings import Settings

log = logging.getLogger("airflow.task")


class BackupStore(ExportStore):
    """A bucket of backups; as :class:`~vcci_ops.hooks.tenant_objects.ExportStore`."""

    def size(self, key: str) -> int | None:
        """Return the bytes of an object, None when there is none."""
        try:
            with translated("s3:GetObject", f"{self.bucket}/{key}"):
                return int(self.client.head_object(Bucket=self.bucket, Key=key)["ContentLength"])
        except NoData:
            return None

    def backups(self, names: Names) -> list[Backup]:
        """Return every object that is called as a backup is."""
        return names.read(list(self._objects(names.common)))

    def _objects(self, prefix: str) -> Iterator[Stored]:
        with translated("s3:ListBucket", self.bucket):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for one in page.get("Contents", ()):
                    yield Stored(one["Key"], int(one["Size"]), one["LastModified"])


class Shelf:
    """The backups that are kept.

    :param source: the run that looks after them, ``dag_id/run_id``.
    :param settings: how backups are called, how many are kept, and which in any case.
    """

    def __init__(self, store: BackupStore, record: BackupRecord, settings: Settings, source: str) -> None:
        self.store, self.record, self.source = store, record, source
        self.names = Names(prefix=settings.backups.prefix, key_format=settings.backups.key_format)
        self.suffix = settings.backups.manifest_suffix
        self.rules = settings.database_backup.retention

    def known(self) -> list[Known]:
        """Return every dump that is called as a backup is, and whether it counts as one; without :meth:`unfinished`."""
        recorded, going = self.record.known(), self.unfinished()
        there = [backup for backup in self.store.backups(self.names) if backup.key not in going]
        return [self._known(backup, recorded.get(backup.key)) for backup in there]

    def _known(self, backup: Backup, recorded: Recorded | None) -> Known:
        if recorded is None:
            return Known(backup, self._by_manifest(backup))
        restored = recorded.restored_at is not None
        return Known(backup, self._by_record(backup, recorded), True, restored)

    def _by_record(self, backup: Backup, recorded: Recorded) -> str:
        if recorded.state == MADE and recorded.bytes == backup.size:
            return ""
        if recorded.state == MADE:
            return f"it has {backup.size:,} bytes and was made with {recorded.bytes or 0:,}"
        if recorded.state == DELETING:
            return "a deletion of it was begun"
        return "it was never read back"

    def _by_manifest(self, backup: Backup) -> str:
        """Of a backup that another tool made only its manifest can speak."""
        manifest = read_manifest(self.store.find(backup.key + self.suffix))
        if manifest.problem:
            return manifest.problem
        if manifest.size != backup.size:
            return f"it has {backup.size:,} of the {manifest.size:,} bytes of its manifest"
        return ""

    def unfinished(self) -> list[str]:
        """Return the keys that a killed run has begun to delete; they are deleted to the end, unless on hold now."""
        begun = [key for key, one in self.record.known().items() if one.state == DELETING]
        return [key for key in begun if key not in self.rules.hold]

    def clear(self, fates: Sequence[Fate], known: Sequence[Known]) -> int:
        """Delete what a plan deletes; return the bytes that this frees.

        :raises Refused: when what replaces it is not there any more, or the plan is not sane; nothing more is deleted.
        """
        require_sane(fates, known, self.rules)
        by_key = {one.backup.key: one.backup for one in known}
        for key in self.unfinished():
            self._delete(key)
        freed = 0
        for fate in (fate for fate in fates if fate.delete):
            backup = by_key[fate.key]
            self._require(by_key[fate.replaced_by], fate)
            self.record.deleting(fate.key, backup.taken_at, self.source, fate.why)
            self._delete(fate.key)
            freed += fate.size
            log.info("deleted %s: %s", fate.key, fate.why)
        return freed

    def _require(self, replacing: Backup, fate: Fate) -> None:
        if self.store.size(replacing.key) != replacing.size or self.store.size(replacing.key + self.suffix) is None:
            raise Refused(f"{fate.key} is kept: {replacing.key}, which replaces it, is not there as it was just now")

    def _delete(self, key: str) -> None:
        """Delete a backup; its manifest goes first, so that never a manifest stands there alone.

        :raises Refused: when this is no name of a backup.
        """
        if self.names.taken_at(key) is None:
            raise Refused(f"{key} is not called as a backup is; it is not deleted")
        self.store.remove(key + self.suffix)
        self.store.remove(key)
        self.record.deleted(key)


def lines(fates: Sequence[Fate], unfinished: Sequence[str]) -> list[str]:
    """Return a plan in words, what is deleted first."""
    begun = [f"delete {key}: a killed run has begun to" for key in unfinished]
    return begun + [str(fate) for fate in sorted(fates, key=lambda fate: not fate.delete)]
