"""A tenant's documents in S3 and its keys in Redis: counted, listed, deleted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from vcci_ops.exceptions import ChangeFailed, InvalidInput
from vcci_ops.hooks.redis import TimedRedisHook, refused
from vcci_ops.hooks.s3 import TimedS3Hook, translated

if TYPE_CHECKING:
    from vcci_ops.settings_tenants import Cache, Documents

_AT_ONCE = 1000
"""Objects of one request, the most that S3 takes; keys of one command to Redis."""
_GLOB = set("*?[]\\^")


class Object(NamedTuple):
    """One version of an object; ``latest`` says whether it is what a reader gets. A mark of deletion has no bytes."""

    key: str
    version: str
    size: int
    latest: bool


@dataclasses.dataclass(frozen=True)
class Stored:
    """What is stored below a prefix.

    :param count: objects that a reader sees.
    :param bytes: of all versions.
    :param versions: all versions, older ones and marks of deletion included: what a deletion deletes.
    :param uploads: uploads in parts that were begun and never ended; they are not listed, and cost.
    """

    count: int
    bytes: int
    versions: int
    uploads: int


class TenantDocuments:
    """A tenant's documents, with all their versions.

    :param documents: the settings' ``tenants.documents``.
    :param conn_id: S3 connection: s3:ListBucket, ListBucketVersions, ListBucketMultipartUploads, and for deleting
        s3:DeleteObject, DeleteObjectVersion, AbortMultipartUpload.
    :raises InvalidInput: when id or slug could lead out of the tenant's own prefix.
    """

    def __init__(self, documents: Documents, tenant_id: str, slug: str, conn_id: str = "vcci_s3") -> None:
        self.bucket = documents.bucket
        self.prefix = _filled(documents.prefix, tenant_id, slug)
        self.hook = TimedS3Hook(aws_conn_id=conn_id)

    def look(self) -> Stored:
        """Count what is there; memory stays flat however much it is."""
        count = size = versions = 0
        for found in self.objects():
            count += found.latest and found.size >= 0
            size += max(found.size, 0)
            versions += 1
        return Stored(count, size, versions, sum(1 for _ in self._uploads()))

    def objects(self) -> Iterator[Object]:
        """Yield every version below the prefix, by key; a mark of deletion has the size -1."""
        with translated("s3:ListBucketVersions", self.bucket):
            pages = self.hook.get_conn().get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for one in page.get("Versions", ()):
                    yield Object(one["Key"], one["VersionId"], int(one["Size"]), bool(one["IsLatest"]))
                for one in page.get("DeleteMarkers", ()):
                    yield Object(one["Key"], one["VersionId"], -1, bool(one["IsLatest"]))

    def delete(self, on_batch: Callable[[int], None] = lambda gone: None) -> int:
        """Delete every version below the prefix and end open uploads; return how many versions went.

        :param on_batch: called with the number so far after each request.
        :raises ChangeFailed: when S3 keeps some, for a lock on objects or a missing right; says why, names none.
        """
        gone, kept = 0, dict[str, int]()
        while batch := list(islice(self.objects(), _AT_ONCE)):  # the list begins anew: what was deleted is not on it
            errors = self._delete_batch(batch)
            for code in errors:
                kept[code] = kept.get(code, 0) + 1
            if errors:
                why = ", ".join(f"{count} by {code}" for code, count in sorted(kept.items()))
                raise ChangeFailed(f"S3 keeps objects below {self.bucket}/{self.prefix}: {why}")
            gone += len(batch)
            on_batch(gone)
        for key, upload in self._uploads():
            with translated("s3:AbortMultipartUpload", self.bucket):
                self.hook.get_conn().abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
        return gone

    def _delete_batch(self, batch: Iterable[Object]) -> list[str]:
        """Delete in one request; return the error codes of what stays."""
        objects = [{"Key": one.key, "VersionId": one.version} for one in batch]
        with translated("s3:DeleteObjectVersion", self.bucket):
            answer = self.hook.get_conn().delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        return [str(error.get("Code")) for error in answer.get("Errors", ())]

    def _uploads(self) -> Iterator[tuple[str, str]]:
        with translated("s3:ListBucketMultipartUploads", self.bucket):
            pages = self.hook.get_conn().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for one in page.get("Uploads", ()):
                    yield one["Key"], one["UploadId"]


class TenantKeys:
    """A tenant's keys in Redis, found by SCAN: the server is never blocked.

    :param caches: the settings' ``tenants.cache``.
    :raises InvalidInput: when a pattern, an id or a slug could match keys of others.
    """

    def __init__(self, caches: Iterable[Cache], tenant_id: str, slug: str, conn_id: str = "vcci_redis") -> None:
        self.conn_id = conn_id
        self.patterns = [
            (cache.db, _filled(pattern, tenant_id, slug)) for cache in caches for pattern in cache.patterns
        ]

    def count(self) -> int:
        """Return how many keys there are."""
        return sum(len(keys) for _, keys in self._scan())

    def unlink(self) -> int:
        """Remove the keys, their memory freed in the background; return how many went."""
        gone = 0
        for hook, keys in self._scan():
            if keys:
                gone += int(_answered(hook.ask([("UNLINK", *keys)])[0]))
        return gone

    def _scan(self) -> Iterator[tuple[TimedRedisHook, list[bytes]]]:
        """Yield keys in pieces; SCAN may give a key twice, and gives each at least once that was there all the time."""
        for db, pattern in self.patterns:
            hook = _Database(self.conn_id, db)
            with closing(hook):
                cursor: Any = 0
                while True:
                    command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _AT_ONCE)
                    cursor, keys = _answered(hook.ask([command])[0])
                    yield hook, list(set(keys))
                    if int(cursor) == 0:
                        break


class _Database(TimedRedisHook):
    """One database of the connection's server, whichever the connection itself names."""

    def __init__(self, conn_id: str, number: int) -> None:
        super().__init__(conn_id)
        self.number = number

    @property
    def db(self) -> int:
        return self.number


def _answered(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise refused(answer)
    return answer


def _filled(pattern: str, tenant_id: str, slug: str) -> str:
    """Return a prefix or pattern with the tenant in it."""
    if "{tenant_id}" not in pattern and "{slug}" not in pattern:
        raise InvalidInput("tenants", pattern, "a prefix or pattern with {tenant_id} or {slug} in it")
    for field, value in (("tenant_id", tenant_id), ("slug", slug)):
        if not value or "/" in value or ":" in value or _GLOB & set(value):
            raise InvalidInput(field, value, "letters, digits and hyphens")
    return pattern.replace("{tenant_id}", tenant_id).replace("{slug}", slug)
