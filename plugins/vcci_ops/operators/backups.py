"""The check of the newest backup in S3."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vcci_ops.domain import backups
from vcci_ops.domain.results import Result
from vcci_ops.exceptions import MeasurementError, NoData
from vcci_ops.operators.base import CheckOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.domain.backups import Found
    from vcci_ops.hooks.s3 import TimedS3Hook

_MANIFEST_LIMIT = 20_000_000
"""Bytes that are read of a manifest: some 200 are said of a table."""


class BackupCheckOperator(CheckOperator):
    """Check the newest backup in a bucket: its age, its size against the ones before, its integrity.

    The newest is found by name in at most five list requests, usually one, however many objects the
    bucket holds; objects with other names are ignored. Then its manifest and its first bytes are read.
    Needs ``s3:ListBucket`` on the bucket and ``s3:GetObject`` below the prefix.

    Integrity means: the manifest is there and can be read, the size is what it says, it notes a
    sha256, and the object begins as a ``pg_dump -Fc`` archive. That the dump restores is not tried here.

    :param bucket: e.g. ``vcci-backups``.
    :param prefix: with the closing slash, e.g. ``daily/``.
    :param key_format: strftime of a name below the prefix, in UTC; sorting by name is sorting by time.
    :param manifest_suffix: what the manifest's key has behind the backup's.
    :param manifest_within: seconds for which a newest backup without a manifest is taken for one that is being made,
        and the one before it is judged; default 2 h. It is made when it was read back, and then gets its manifest.
    :param compare: how many earlier backups the size is compared with; default 7.
    :param aws_conn_id: Airflow connection; default ``vcci_s3``.
    """

    measures = ("backups.age", "backups.size", "backups.integrity")
    system = "S3"
    preloads = ("vcci_ops.hooks.s3",)
    template_fields: Sequence[str] = ("aws_conn_id", "bucket", "prefix")

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "daily/",
        key_format: str = "vcci_production-%Y%m%dT%H%M%SZ.dump",
        manifest_suffix: str = ".manifest.json",
        manifest_within: float = 7200.0,
        compare: int = 7,
        aws_conn_id: str = "vcci_s3",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bucket = bucket
        self.prefix = prefix
        self.key_format = key_format
        self.manifest_suffix = manifest_suffix
        self.manifest_within = manifest_within
        self.compare = compare
        self.aws_conn_id = aws_conn_id

    @cached_property
    def hook(self) -> TimedS3Hook:
        """The hook with time limits."""
        from vcci_ops.hooks.s3 import TimedS3Hook

        return TimedS3Hook(aws_conn_id=self.aws_conn_id)

    def measure(self, context: Context) -> Iterator[Result]:
        """Find the newest backup, then judge it."""
        now = dt.datetime.now(dt.UTC)
        found = self._search(now)
        asked = f"list s3://{self.bucket}/{self._names.common}* (list requests: {found.requests})"
        if not found.backups:
            where = f"s3://{self.bucket}/{self.prefix}"
            for check in filter(None, map(self.check, self.measures)):
                yield backups.none_found(check, where)
            return
        if self._under_way(found, now):
            name = found.backups[-1].key.rpartition("/")[2]
            self.log.info("%s has no manifest yet: it is being made, and the one before it counts", name)
            asked = f"{asked}, without {name}, which is being made"
            found = found._replace(backups=found.backups[:-1])
        size = self.check("backups.size")
        if size:
            yield backups.size(size, found.backups, self.compare, asked)
        yield from self._inspected(found, now, asked)

    def _under_way(self, found: Found, now: dt.datetime) -> bool:
        newest = found.backups[-1]
        if len(found.backups) < 2 or (now - newest.modified).total_seconds() >= self.manifest_within:
            return False
        try:
            return self._manifest(newest.key) is None
        except MeasurementError:
            return False  # what is wrong with it is said when it is judged

    def _search(self, now: dt.datetime) -> Found:
        names, hook = self._names, self.hook
        return backups.Search(
            lambda start: hook.page(self.bucket, names.common, start), names, now, self.compare + 1
        ).run()

    @property
    def _names(self) -> backups.Names:
        return backups.Names(prefix=self.prefix, key_format=self.key_format)

    def _inspected(self, found: Found, now: dt.datetime, asked: str) -> Iterator[Result]:
        from vcci_ops.hooks.crew import Crew

        newest, error = found.backups[-1], None
        with Crew(2) as crew:  # independent reads, each of which may take seconds
            described = crew.submit(lambda: self._manifest(newest.key))
            begun = crew.submit(lambda: self.hook.head(self.bucket, newest.key, len(backups.MAGIC)))
        try:
            manifest = backups.read_manifest(described.result())
        except MeasurementError as failure:
            manifest, error = backups.Manifest(problem=str(failure)), failure
        age, integrity = self.check("backups.age"), self.check("backups.integrity")
        if age:
            yield backups.age(age, newest, now, manifest, asked)
        if error:
            raise error
        if integrity:
            yield backups.integrity(integrity, newest, manifest, begun.result(), f"get s3://{self.bucket}/{newest.key}")

    def _manifest(self, key: str) -> bytes | None:
        try:
            return self.hook.head(self.bucket, key + self.manifest_suffix, _MANIFEST_LIMIT)
        except NoData:
            return None
