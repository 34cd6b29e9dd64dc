"""The objects of an export: written in parts while they are made, encrypted, and looked at once they are there."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import cached_property, partial
from types import TracebackType
from typing import Any, NamedTuple

from botocore.config import Config
from isal import isal_zlib

from vcci_ops.exceptions import ChangeFailed, UnexpectedAnswer
from vcci_ops.hooks.crew import Crew
from vcci_ops.hooks.s3 import SYSTEM, TimedS3Hook, translated

PART = 5 << 20
"""Bytes of a part of an upload; S3 wants no less."""
_GROWS = 1000
"""After so many parts they become larger: S3 takes 10,000 at most, which so hold 288 GB."""
_WAITING = 4
"""Batches and parts that may wait, so that memory stays flat when S3 is slower than the database."""
_CHUNK = 1 << 20
_GZIP, _LEVEL = 31, 2
"""zlib's window bits that mean gzip; igzip's level 2 takes as long as level 1 and packs better."""


class Stored(NamedTuple):
    """An object that is there: its size in bytes and its SHA-256."""

    bytes: int
    sha256: str


class PatientS3Hook(TimedS3Hook):
    """Asks again where asking again helps: an export of hours must not end with one lost packet.

    5 s to connect, 60 s to answer, 5 tries. ``config_kwargs`` in the connection's extra win over these.
    """

    @property
    def config(self) -> Config:
        """The connection's client configuration on top of these limits."""
        retries = {"total_max_attempts": 5, "mode": "standard"}
        patient = Config(connect_timeout=5, read_timeout=60, retries=retries, max_pool_connections=16)
        return patient.merge(super(TimedS3Hook, self).config)


class ExportStore:
    """A bucket for exports.

    :param encryption: ``AES256`` or ``aws:kms``; ``kms_key``: its key, empty for the account's default.
    :param conn_id: AWS connection; it needs s3:GetObject, s3:PutObject, s3:ListBucket, s3:DeleteObject,
        s3:ListBucketMultipartUploads and s3:AbortMultipartUpload here.
    """

    def __init__(
        self, bucket: str, encryption: str = "AES256", kms_key: str = "", conn_id: str = "vcci_s3", part: int = PART
    ) -> None:
        self.bucket = bucket
        self.encryption = encryption
        self.part = part
        self.encrypted = {"ServerSideEncryption": encryption} | ({"SSEKMSKeyId": kms_key} if kms_key else {})
        self._hook = PatientS3Hook(conn_id)

    @cached_property
    def client(self) -> Any:
        """boto3's client; threads share it."""
        return self._hook.get_conn()

    def put(self, key: str, content: bytes, kind: str = "text/plain; charset=utf-8") -> Stored:
        """Write a small object and look at it.

        :raises MeasurementError: when the bucket is missing, refuses or does not answer.
        """
        with translated("s3:PutObject", f"{self.bucket}/{key}"):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=content, ContentType=kind, **self.encrypted)
        self.require(key, len(content))
        return Stored(len(content), hashlib.sha256(content).hexdigest())

    def require(self, key: str, size: int, what: str = "") -> Mapping[str, Any]:
        """Return what S3 says of an object, when it is of this size and encrypted as asked.

        :param what: how an error names it; default: its key.
        :raises ChangeFailed: when it is not.
        """
        what = what or key
        with translated("s3:GetObject", f"{self.bucket}/{what}"):
            found: Mapping[str, Any] = self.client.head_object(Bucket=self.bucket, Key=key)
        if found.get("ServerSideEncryption") != self.encryption:
            how = found.get("ServerSideEncryption") or "not at all"
            raise ChangeFailed(f"s3://{self.bucket}/{what} is encrypted {how}, not with {self.encryption}")
        if found["ContentLength"] != size:
            raise ChangeFailed(f"s3://{self.bucket}/{what} has {found['ContentLength']} bytes, not {size}")
        return found

    def read(self, key: str, what: str = "", bucket: str = "", etag: str = "") -> Iterator[bytes]:
        """Yield an object's bytes.

        :param etag: read only this version of it.
        :raises MeasurementError: when it is not there, or is cut off.
        """
        given = {"IfMatch": etag} if etag else {}
        with translated("s3:GetObject", f"{bucket or self.bucket}/{what or key}"):
            body = self.client.get_object(Bucket=bucket or self.bucket, Key=key, **given)["Body"]
            yield from body.iter_chunks(_CHUNK)

    def find(self, key: str) -> bytes | None:
        """Return a small object, or None when there is none."""
        with translated("s3:GetObject", f"{self.bucket}/{key}"):
            found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1)
        if not any(item["Key"] == key for item in found.get("Contents", ())):
            return None
        return b"".join(self.read(key))

    def remove(self, key: str) -> None:
        """Remove one object."""
        with translated("s3:DeleteObject", f"{self.bucket}/{key}"):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def abort_unfinished(self, prefix: str) -> int:
        """Abort uploads that somebody began below a prefix and did not finish; return how many there were."""
        found = 0
        with translated("s3:AbortMultipartUpload", f"{self.bucket}/{prefix}"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
            for upload in [upload for page in pages for upload in page.get("Uploads", ())]:
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                found += 1
        return found


class Upload:
    """One object, written as it is made. Leaving the block by an error leaves no object, and no part of one.

    :param store: where.
    :param crew: sends the parts; shared by uploads that follow each other.
    """

    def __init__(self, store: ExportStore, key: str, crew: Crew, kind: str = "application/gzip") -> None:
        self.store, self.key, self.kind = store, key, kind
        self._crew = crew
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._sent: deque[Future[dict[str, Any]]] = deque()
        self._parts: list[dict[str, Any]] = []
        self._number, self._id = 0, ""
        self._bytes, self._sha256 = 0, hashlib.sha256()
        self.stored: Stored | None = None

    def write(self, data: bytes) -> None:
        """Add to the object; waits when S3 is slower than the one who writes."""
        self._sha256.update(data)
        self._bytes += len(data)
        self._waiting += len(data)
        self._pieces.append(data)
        if self._waiting >= self.store.part * (1 + self._number // _GROWS):
            self._send()

    def _send(self) -> None:
        """Send what is there as the next part."""
        where = {"Bucket": self.store.bucket, "Key": self.key}
        with translated("s3:PutObject", f"{self.store.bucket}/{self.key}"):
            if not self._id:
                given = {**where, "ContentType": self.kind, **self.store.encrypted}
                self._id = self.store.client.create_multipart_upload(**given)["UploadId"]
            while len(self._sent) >= self._crew.size:
                self._parts.append(self._sent.popleft().result())
        self._number += 1
        part = self._taken()
        sending: dict[str, Any] = {**where, "UploadId": self._id, "PartNumber": self._number, "Body": part}
        self._sent.append(self._crew.submit(partial(_send_part, self.store.client, sending)))

    def _taken(self) -> bytes:
        part = b"".join(self._pieces)
        self._pieces, self._waiting = [], 0
        return part

    def _complete(self) -> None:
        if not self._id:
            self.store.put(self.key, self._taken(), self.kind)
            return
        self._send()
        with translated("s3:PutObject", f"{self.store.bucket}/{self.key}"):
            self._parts += [part.result() for part in self._sent]
            self.store.client.complete_multipart_upload(
                Bucket=self.store.bucket, Key=self.key, UploadId=self._id, MultipartUpload={"Parts": self._parts}
            )
        self.store.require(self.key, self._bytes)

    def _abort(self) -> None:
        for part in self._sent:
            part.exception()
        if self._id:
            where = {"Bucket": self.store.bucket, "Key": self.key, "UploadId": self._id}
            with translated("s3:AbortMultipartUpload", f"{self.store.bucket}/{self.key}"):
                self.store.client.abort_multipart_upload(**where)

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._complete()
            self.stored = Stored(self._bytes, self._sha256.hexdigest())
            return
        try:
            self._abort()
        except Exception as also:  # the first error tells what happened; the next run aborts what is left
            error.add_note(f"its upload could not be aborted: {also}")


def _send_part(client: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    answer = client.upload_part(**given)
    return {"PartNumber": given["PartNumber"], "ETag": answer["ETag"]}


class Packed:
    """gzip on its way into an upload, made by a thread of its own: so the one who reads does not wait for it.

    :param crew: of one, for the order matters.
    """

    def __init__(self, upload: Upload, crew: Crew) -> None:
        self._upload, self._crew = upload, crew
        self._packer = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
        self._waiting: deque[Future[None]] = deque()

    def write(self, text: bytes | bytearray) -> None:
        """Pack more; the text must not be changed afterwards."""
        self._after(_WAITING)
        self._waiting.append(self._crew.submit(partial(self._pack, text)))

    def __enter__(self) -> Packed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the end; after an error only wait, so that nothing is written to an upload that is given up."""
        if error is None:
            self._after(0)
            self._upload.write(self._packer.flush())
        for waiting in self._waiting:
            waiting.exception()

    def _after(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()

    def _pack(self, text: bytes | bytearray) -> None:
        if packed := self._packer.compress(text):
            self._upload.write(packed)


def unpacked(chunks: Iterator[bytes], sha256: Any) -> Iterator[bytes]:
    """Yield the text within gzip; whoever takes it all can hold the hash of what was read against another.

    :raises UnexpectedAnswer: when it is no whole gzip file.
    """
    unpacker = isal_zlib.decompressobj(wbits=_GZIP)
    try:
        for chunk in chunks:
            sha256.update(chunk)
            rest = chunk
            while rest and not unpacker.eof:
                text = unpacker.decompress(rest, _CHUNK)
                if text:
                    yield text
                rest = unpacker.unconsumed_tail
    except isal_zlib.error:  # type: ignore[misc]  # the stub has it as a value
        raise UnexpectedAnswer(SYSTEM, "damaged gzip") from None
    if not unpacker.eof:
        raise UnexpectedAnswer(SYSTEM, "gzip that ends too early")


def side_by_side(crew: Crew, calls: Iterator[Callable[[], Any]], most: int) -> Iterator[Any]:
    """Yield the results of calls in their order; no more than ``most`` run or wait at a time."""
    running: deque[Future[Any]] = deque()
    for call in calls:
        running.append(crew.submit(call))
        if len(running) >= most:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
