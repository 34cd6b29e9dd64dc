"""A dump in S3: read from the first byte to the last, or in ranges; gone on with where a connection broke off."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from vcci_ops.domain.backups import Backup, Names, Page, Search
from vcci_ops.domain.drill_choice import Looked, Manifest, Recorded, read
from vcci_ops.domain.dump_archive import MAGIC, Block, BlockScanner, Head, TooShort, read_head, whole
from vcci_ops.exceptions import MeasurementError, NoData, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.s3 import SYSTEM, TimedS3Hook, translated
from vcci_ops.hooks.tenant_objects import PatientS3Hook

log = logging.getLogger(__name__)
CHUNK = 4 << 20
MANIFEST_LIMIT = 64 << 20
_TRIES = 3
_CUT = (HTTPError, boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, OSError)
"""What a stream that breaks off looks like."""
_MOST_PAGES = 400


@dataclasses.dataclass(frozen=True)
class Survey:
    """What one pass over a dump found."""

    head: Head
    head_bytes: bytes
    blocks: dict[int, Block]
    sha256: str
    bytes: int


class BackupBucket:
    """The backups of the settings.

    :param conn_id: AWS connection; it needs s3:ListBucket and s3:GetObject.
    """

    def __init__(self, bucket: str, names: Names, manifest_suffix: str, conn_id: str = "vcci_s3") -> None:
        self.bucket, self.names, self.manifest_suffix = bucket, names, manifest_suffix
        self.hook = TimedS3Hook(aws_conn_id=conn_id)

    def newest(self, now: dt.datetime, wanted: int) -> list[Backup]:
        """Return the newest backups, oldest first, in few requests."""
        search = Search(self._page, self.names, now, wanted)
        return list(search.run().backups)

    def since(self, moment: dt.datetime) -> list[Backup]:
        """Return all backups from a moment on, oldest first.

        :raises NoData: when there are more than can be looked through.
        """
        found, start = list[Backup](), self.names.key(moment)
        for _ in range(_MOST_PAGES):
            page = self._page(start)
            found += self.names.read(page.objects)
            if not page.truncated:
                return found
            start = page.objects[-1].key
        raise NoData(f"there are more than {_MOST_PAGES * 1000:,} objects since {moment:%Y-%m-%d}")

    def _page(self, start: str) -> Page:
        return self.hook.page(self.bucket, self.names.common, start)

    def look(self, backup: Backup, recorded: Recorded | None) -> Looked:
        """Read what tells whether a backup can be used: its manifest and its first bytes."""
        begins = self.hook.head(self.bucket, backup.key, len(MAGIC))
        return Looked(backup, self.manifest(backup.key), begins, recorded)

    def manifest(self, key: str, digest: str = "") -> Manifest:
        """Read the manifest of a backup.

        :param digest: SHA-256 that it must have.
        :raises UnexpectedAnswer: when it is another one by now.
        """
        try:
            content: bytes | None = self.hook.head(self.bucket, key + self.manifest_suffix, MANIFEST_LIMIT)
        except NoData:
            content = None
        found = read(content)
        if digest and found.digest != digest:
            raise UnexpectedAnswer(SYSTEM, f"the manifest of {key} was changed while the drill ran")
        return found


class Dump:
    """One dump in S3.

    :param etag: of the object that was chosen; another one in its place is refused.
    :param conn_id: AWS connection; it needs s3:GetObject.
    """

    def __init__(self, bucket: str, key: str, size: int, *, etag: str = "", conn_id: str = "vcci_s3") -> None:
        self.bucket, self.key, self.size = bucket, key, size
        self._etag = etag
        self._hook = PatientS3Hook(aws_conn_id=conn_id)

    @cached_property
    def _client(self) -> Any:
        return self._hook.get_conn()

    @cached_property
    def etag(self) -> str:
        """Return what tells this object from another one of the same key."""
        with translated("s3:GetObject", f"{self.bucket}/{self.key}"):
            found = self._client.head_object(Bucket=self.bucket, Key=self.key)
        if found["ContentLength"] != self.size:
            raise UnexpectedAnswer(SYSTEM, f"{self.key} has {found['ContentLength']:,} bytes, not {self.size:,}")
        return self._etag or str(found["ETag"])

    def read(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from ``start`` up to, not including, ``end``.

        :raises Unreachable: when it breaks off three times at the same byte.
        :raises MeasurementError: when S3 refuses, or the object is another one by now.
        """
        end, at, idle = self.size if end is None else end, start, 0
        while at < end:
            before = at
            try:
                for chunk in self._stream(at, end):
                    at += len(chunk)
                    yield chunk
                why = "it ends there"
            except _CUT as error:
                why = type(error).__name__
            except Unreachable as error:
                why = str(error)
            if at >= end:
                return
            idle = idle + 1 if at == before else 0
            log.warning("S3 broke off at byte %s of %s (%s)", f"{at:,}", f"{self.size:,}", why)
            if idle >= _TRIES:
                share = 100 * at / self.size
                where = f"byte {at:,} of {self.size:,} ({share:.0f} %)"
                raise Unreachable(SYSTEM, f"{self.key} breaks off at {where}, {_TRIES} times: {why}")

    def _stream(self, start: int, end: int) -> Iterator[bytes]:
        asked = {"Range": f"bytes={start}-{end - 1}", "IfMatch": self.etag}
        with translated("s3:GetObject", f"{self.bucket}/{self.key}"):
            body = self._client.get_object(Bucket=self.bucket, Key=self.key, **asked)["Body"]
        try:
            while chunk := body.read(CHUNK):
                yield chunk
        finally:
            body.close()

    def survey(self, told: Callable[[int], None] = lambda done: None) -> Survey:
        """Read it once: its SHA-256, its table of contents, and where the data of each table lies.

        :param told: called with the bytes read so far.
        :raises UnexpectedAnswer: when it is no archive that can be read, is damaged, or lacks data.
        """
        surveyor = _Surveyor()
        for chunk in self.read():
            surveyor.take(chunk)
            told(surveyor.bytes)
        return surveyor.finish()


class _Surveyor:
    def __init__(self) -> None:
        self.bytes = 0
        self._sha256 = hashlib.sha256()
        self._begin = bytearray()
        self._head: Head | None = None
        self._scanner: BlockScanner | None = None
        self._problem: UnexpectedAnswer | None = None

    def take(self, chunk: bytes) -> None:
        """Take in what comes next; of a damaged dump the SHA-256 is still made, for it says most."""
        self.bytes += len(chunk)
        self._sha256.update(chunk)
        if self._problem:
            return
        try:
            if self._scanner:
                self._scanner.feed(chunk)
            else:
                self._begun(chunk)
        except UnexpectedAnswer as error:
            self._problem = error

    def _begun(self, chunk: bytes) -> None:
        self._begin += chunk
        try:
            self._head = read_head(bytes(self._begin))
        except TooShort:
            return
        self._scanner = BlockScanner(self._head)
        rest = bytes(self._begin[self._head.size :])
        del self._begin[self._head.size :]
        self._scanner.feed(rest)

    def finish(self) -> Survey:
        digest = self._sha256.hexdigest()
        problem = self._problem
        try:
            if problem:
                raise problem
            if self._head is None or self._scanner is None:
                raise UnexpectedAnswer("The dump", "it ends within its table of contents")
            blocks = self._scanner.finish()
            if missing := list(whole(self._head, blocks)):
                raise UnexpectedAnswer("The dump", "; ".join(missing[:3]))
        except UnexpectedAnswer as error:
            raise DamagedDump(digest, self.bytes, error) from None
        return Survey(self._head, bytes(self._begin), blocks, digest, self.bytes)


class DamagedDump(UnexpectedAnswer):
    """A dump that cannot be restored, with the SHA-256 that it has."""

    def __init__(self, sha256: str, size: int, error: MeasurementError) -> None:
        MeasurementError.__init__(self, str(error))
        self.sha256, self.bytes = sha256, size


def joined(head: bytes, dump: Dump, blocks: Sequence[Block]) -> Iterator[bytes]:
    """Yield an archive made of the head and some blocks, those that lie side by side in one request."""
    yield head
    for start, end in _runs(blocks):
        yield from dump.read(start, end)


def _runs(blocks: Sequence[Block]) -> Iterator[tuple[int, int]]:
    start = end = -1
    for block in blocks:
        if block.start != end:
            if end > start:
                yield start, end
            start = block.start
        end = block.end
    if end > start:
        yield start, end
