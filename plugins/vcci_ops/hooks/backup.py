"""A backup: dumped straight into S3, read back from there, and only then given its manifest."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import logging
import time
from concurrent.futures import Future, wait
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vcci_ops.domain import backup_manifest as told
from vcci_ops.domain.backups import Names
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import ChangeFailed, Refused
from vcci_ops.hooks.backup_record import MADE, BackupRecord, Recorded
from vcci_ops.hooks.backup_source import Source, opened
from vcci_ops.hooks.backup_store import BackupStore
from vcci_ops.hooks.crew import Crew
from vcci_ops.hooks.postgres_programs import ProgramFailed, address, running, version
from vcci_ops.hooks.tenant_objects import Upload

if TYPE_CHECKING:
    from vcci_ops.settings import Settings

log = logging.getLogger("airflow.task")
KIND = "application/octet-stream"
PUNCTUAL = dt.timedelta(minutes=5)
"""A backup is named by the time at which it is taken: one that is begun again later gets a name of its own."""
_PART = 8 << 20
_SENDERS = 2
_TELL_EVERY = 30.0


@dataclasses.dataclass(frozen=True)
class BackupMaker:
    """Makes the backup of a run; called again, it finds what it has done.

    :param source: the run, ``dag_id/run_id``.
    :param conn_id: PostgreSQL connection of a role with include/sql/grants/vcci_ops_backup.sql.
    :param aws_conn_id: S3 connection, with the rights of docs/connections.md.
    """

    settings: Settings
    source: str
    conn_id: str = "vcci_postgres_backup"
    aws_conn_id: str = "vcci_s3"

    @property
    def record(self) -> BackupRecord:
        """The history's backups."""
        return BackupRecord(self.settings.environment)

    @property
    def names(self) -> Names:
        """How backups are called."""
        return Names(prefix=self.settings.backups.prefix, key_format=self.settings.backups.key_format)

    @cached_property
    def store(self) -> BackupStore:
        """The bucket of the backups."""
        backups, own = self.settings.backups, self.settings.database_backup
        return BackupStore(backups.bucket, own.encryption, own.kms_key, self.aws_conn_id, _PART)

    # Making -----------------------------------------------------------------------------------------

    def dump(self) -> Recorded:
        """Dump the database into S3 and return what is recorded of it; it does not count as a backup yet.

        :raises Refused: when pg_dump is too old, or somebody else's object has the name.
        :raises Unreachable: when a system does not answer, another process makes this backup, or pg_dump fails;
            another try may do.
        :raises MeasurementError: when a system refuses.
        """
        before = self.record.of_run(self.source)
        if before and (before.state == MADE or self._finished(before)):
            log.info("%s was dumped already: going on with it", before.key)
            return before
        key = self._key(before)
        # Before the snapshot: a tenant deleted by now is not in it; one deleted later may still be.
        tombstones = self.record.tombstones()
        tool = version("pg_dump")
        log.info("Dumping into s3://%s/%s with pg_dump %s", self.settings.backups.bucket, key, tool)
        with opened(self.conn_id, self.settings.database_backup, key) as source:
            source.require_tool(tool)
            self._begin(key, before)
            size, sha256, tables = self._stream(source, key)
            detail = {
                "key": key,
                "taken_at": source.taken_at.isoformat(),
                "size": size,
                "sha256": sha256,
                "tool_version": tool,
                "tombstones": tombstones,
                **_world(source),
                "tables": tables,
            }
            self.record.dumped(key, source.taken_at, size, sha256, {"manifest": told.build([detail])})
        found = self.record.of_run(self.source)
        if found is None or found.key != key:
            raise ChangeFailed(f"{key} is not in the history any more, where this run has just recorded it")
        return found

    def _finished(self, before: Recorded) -> bool:
        """Whether a dump of an earlier try is there as a whole."""
        return before.dumped and self.store.size(before.key) == before.bytes

    def _key(self, before: Recorded | None) -> str:
        now = dt.datetime.now(dt.UTC)
        if before and now - before.taken_at < PUNCTUAL:
            return before.key
        return self.names.key(now)

    def _begin(self, key: str, before: Recorded | None) -> None:
        """Note what is about to be made, and remove what an earlier try of this run has left.

        :raises Refused: when there is an object of this name that this run did not write.
        """
        store, suffix = self.store, self.settings.backups.manifest_suffix
        if not (before and before.key == key) and (store.size(key) is not None or store.size(key + suffix) is not None):
            raise Refused(f"s3://{store.bucket}/{key} is there already, and not by this run; it is left as it is")
        if before and before.key != key:
            self.record.failed(before.key, f"begun again as {key}", given_up=True)
        self.record.begin(key, self.source, dt.datetime.now(dt.UTC))
        for left in {key, before.key if before else key}:
            if unfinished := store.abort_unfinished(left):
                log.info("aborted %s uploads of an earlier try at %s", unfinished, left)
            if store.size(left) is not None:
                log.info("removing the dump of an earlier try, which never got its manifest: %s", left)
                store.remove(left)

    def _stream(self, source: Source, key: str) -> tuple[int, str, dict[str, dict[str, Any]]]:
        """Run pg_dump into an upload, and sum up the tables beside it."""
        store, begun = self.store, time.monotonic()
        store.part = told.part_size(source.world["bytes"], _PART)
        arguments = _arguments(source, self.settings.database_backup)
        with Crew(_SENDERS) as senders, Crew(1) as beside:
            summing: Future[dict[str, dict[str, Any]]] | None = None
            try:
                with (
                    Upload(store, key, senders, KIND) as upload,
                    running("pg_dump", arguments, address(self.conn_id)) as dump,
                ):
                    progress = _Progress(key)
                    for chunk in dump.chunks():
                        # What it writes first it writes when it holds every table.
                        summing = summing or beside.submit(source.sum_up)
                        upload.write(chunk)
                        progress.passed(len(chunk))
                    if dump.said:
                        log.warning("pg_dump says: %s", dump.said)
                stored = upload.stored
                if stored is None or summing is None:
                    raise ProgramFailed("pg_dump", 0, "it wrote nothing")
                seconds = time.monotonic() - begun
                log.info("Dumped: %s", progress.told(seconds))
                tables = self._sums(source, summing, seconds)
            except BaseException:
                if summing:
                    source.stop()
                    wait([summing], timeout=30)
                raise
        return stored.bytes, stored.sha256, tables

    def _sums(
        self, source: Source, summing: Future[dict[str, dict[str, Any]]], dumped: float
    ) -> dict[str, dict[str, Any]]:
        """Wait for the sums, as long as the snapshot may be held for them."""
        begun = time.monotonic()
        try:
            tables = summing.result(timeout=self.settings.database_backup.sums_after_dump)
        except TimeoutError:
            source.stop()
            tables = summing.result(timeout=60)
        for name in (name for name, table in tables.items() if table["rows"] is None):
            log.warning("%s was not summed in time: a drill will not be able to compare it", name)
        late = time.monotonic() - begun
        log.info("Snapshot held for %s, %s of it after the dump", duration(dumped + late), duration(late))
        return tables

    # Reading back -----------------------------------------------------------------------------------

    def read_back(self) -> Recorded:
        """Read the whole dump from S3, hold it against what was dumped, then write its manifest, and return it.

        :raises ChangeFailed: when it is not what was dumped, or does not list the tables of its manifest.
        :raises Unreachable: when S3 breaks off; another try may do.
        """
        found = self.record.of_run(self.source)
        if found is None or not found.dumped:
            raise Refused("there is no dump of this run to read: clear the task before this one")
        if found.state == MADE:
            log.info("%s was read back already, at %s", found.key, found.verified_at)
            return found
        try:
            entries = self._read(found)
        except ChangeFailed as error:  # reading it again will not make it better: a cleared dump makes another one
            self.record.failed(found.key, str(error), given_up=True)
            raise
        self._seal(found, entries)
        return self.record.of_run(self.source) or found

    def _read(self, found: Recorded) -> int:
        """Read a dump and return how many entries its table of contents has, when it is as it should be."""
        begun, store = time.monotonic(), self.store
        store.require(found.key, int(found.bytes or 0))
        listing = _listing(store, found)
        if missing := told.unlisted(listing, found.detail["manifest"]["tables"]):
            raise ChangeFailed(f"{found.key} has no data of {', '.join(missing[:10])}: pg_restore does not list it")
        log.info("Read back: %s", _speed(found.bytes or 0, time.monotonic() - begun))
        return told.entries(listing)

    def _seal(self, found: Recorded, entries: int) -> None:
        """Write the manifest and record its digest: now it is a backup."""
        manifest = found.detail["manifest"]
        text = told.written(manifest)
        digest = hashlib.sha256(text).hexdigest()
        # Recorded before it is written: whatever lies there and has another digest is not this one.
        self.record.note(found.key, {"manifest_sha256": digest})
        self.store.put(found.key + self.settings.backups.manifest_suffix, text, "application/json")
        summary = told.summary(manifest)
        self.record.made(found.key, {"manifest_sha256": digest, "summary": summary, "entries": entries})
        log.info("Verified: %s, %s entries in its table of contents; %s", found.key, entries, summary)


def _arguments(source: Source, settings: Any) -> list[str]:
    wanted = [name for name in source.extensions if name not in settings.extensions_left_out]
    return [
        "--format=custom",
        "--no-password",
        f"--snapshot={source.world['snapshot']}",
        f"--compress={settings.compression}",
        f"--lock-wait-timeout={settings.lock_timeout * 1000:.0f}",
        # Quoted, it is a name and no pattern. To name one is to leave out all others.
        *(f'--extension="{name}"' for name in wanted),
    ]


def _world(source: Source) -> dict[str, Any]:
    world = source.world
    return {
        "database": world["database"],
        "encoding": world["encoding"],
        "system_identifier": world["system_identifier"],
        "pg_version": world["version_text"],
        "schema_revision": source.revision,
        "extensions": source.extensions,
        "snapshot": {"id": world["snapshot"], "lsn": world["lsn"]},
        "sequences": source.sequences,
        "large_objects": world["large_objects"],
    }


def _listing(store: BackupStore, found: Recorded) -> str:
    """Read a dump to its end and return its table of contents, when it is the one that was written.

    :raises ChangeFailed: when it is another.
    """
    sha256, size, listens = hashlib.sha256(), 0, True
    with running("pg_restore", ["--list"], reads=True) as restore, Crew(1) as reader:
        listed = reader.submit(lambda: b"".join(restore.chunks()))
        for chunk in store.read(found.key):
            sha256.update(chunk)
            size += len(chunk)
            # It hangs up once it has seen the table of contents, which comes first.
            listens = listens and restore.feed(chunk)
        restore.close_input()
        if (size, sha256.hexdigest()) != (found.bytes, found.sha256):
            raise ChangeFailed(
                f"{found.key} is not what was dumped: {size:,} of {found.bytes or 0:,} bytes were read, and their "
                f"SHA-256 is {sha256.hexdigest()[:16]}…, not {str(found.sha256)[:16]}…"
            )
        return listed.result(timeout=60).decode("utf-8", "replace")


def _speed(size: int, seconds: float) -> str:
    speed = humanize(size / seconds, "bytes") if seconds > 0 else "?"
    return f"{humanize(size, 'bytes')} in {duration(seconds)}, {speed}/s"


class _Progress:
    """Says now and then how far a dump is."""

    def __init__(self, key: str) -> None:
        self.key, self.size = key, 0
        self._begun = self._told = time.monotonic()

    def passed(self, size: int) -> None:
        """Count bytes."""
        self.size += size
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            log.info("%s: %s", self.key, self.told(self._told - self._begun))

    def told(self, seconds: float) -> str:
        """Say how much came in how long."""
        return _speed(self.size, seconds)
