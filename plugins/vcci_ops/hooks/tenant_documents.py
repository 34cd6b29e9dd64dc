"""A tenant's documents, copied within S3, each with a SHA-256 of what was read at the source."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from vcci_ops.domain.tenant_export import DOCUMENTS, LISTING, Destination
from vcci_ops.exceptions import NoData, UnexpectedAnswer
from vcci_ops.hooks.crew import Crew
from vcci_ops.hooks.s3 import SYSTEM, translated
from vcci_ops.hooks.tenant_objects import ExportStore, Packed, Upload, side_by_side, unpacked

_AT_ONCE = 6
"""Documents that are read side by side."""
COPIED_WHOLE = 5 * 1024**3
"""S3 copies objects up to this size by one request. https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html"""
_COPY_PART = 512 << 20
_HEADERS = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")
_SHA256, _ETAG = "vcci-sha256", "vcci-source-etag"


@dataclasses.dataclass(frozen=True)
class Documents:
    """Copies documents into an export, and proves that they are there.

    Each is read through, for its SHA-256 must be that of the source, and copied by S3 itself, so that its headers and
    metadata come along. One that was copied by an earlier try, from the same version, is not copied again.

    :param whole: larger ones are copied in parts of ``copy_part`` bytes.
    """

    store: ExportStore
    folder: str
    whole: int = COPIED_WHOLE
    copy_part: int = _COPY_PART

    def copy(self, destination: Destination, crew: Crew) -> dict[str, Any]:
        """Copy all documents and write their listing; return what the manifest says of them."""
        count, total = 0, 0
        key = self.folder + LISTING
        upload = Upload(self.store, key, crew)
        with upload, Crew(_AT_ONCE) as readers, Crew(1) as packers, Packed(upload, packers) as packed:
            calls = (
                partial(self._copy_one, destination, found, number)
                for number, found in enumerate(self._found(destination), 1)
            )
            for one in side_by_side(readers, calls, _AT_ONCE * 2):
                count, total = count + 1, total + one["size"]
                packed.write((json.dumps(one, ensure_ascii=False) + "\n").encode())
        stored = upload.stored
        assert stored is not None  # noqa: S101  the block has ended well
        listing = {"key": LISTING, "bytes": stored.bytes, "sha256": stored.sha256}
        source = {"bucket": destination.documents_bucket, "prefix": destination.documents_prefix}
        return {"count": count, "bytes": total, "source": source, "listing": listing}

    def _found(self, destination: Destination) -> Iterator[Mapping[str, Any]]:
        if not destination.documents_bucket:
            return
        bucket, prefix = destination.documents_bucket, destination.documents_prefix
        with translated("s3:ListBucket", bucket):
            for page in self.store.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                yield from page.get("Contents", ())

    def _copy_one(self, destination: Destination, found: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Copy one document and return its line of the listing.

        Errors name it by its number: its key may say whose it is, or what it is about.
        """
        key = self.folder + DOCUMENTS + found["Key"].removeprefix(destination.documents_prefix)
        what = f"document {number}"
        line = {"key": found["Key"], "size": found["Size"], "etag": found["ETag"].strip('"')}
        before = self._copied_before(key)
        if before.get(_ETAG) == line["etag"]:
            self.store.require(key, found["Size"], what)
            return {**line, "sha256": before[_SHA256]}
        sha256 = self._hashed(destination, found, what)
        marks = {_SHA256: sha256, _ETAG: line["etag"]}
        source = {"Bucket": destination.documents_bucket, "Key": found["Key"]}
        with translated("s3:PutObject", f"{self.store.bucket}/{what}"):
            headers = self._headers(source, found, marks)
            given = {"Bucket": self.store.bucket, "Key": key, **headers, **self.store.encrypted}
            if found["Size"] <= self.whole:
                copy = {"CopySource": source, "CopySourceIfMatch": found["ETag"], "MetadataDirective": "REPLACE"}
                self.store.client.copy_object(**given, **copy)
            else:
                self._copy_in_parts(given, source, found)
        self.store.require(key, found["Size"], what)
        return {**line, "sha256": sha256}

    def _copied_before(self, key: str) -> Mapping[str, str]:
        """Return the marks of a copy that an earlier try has made; none when there is none."""
        client = self.store.client
        with translated("s3:GetObject", self.store.bucket):
            try:
                marks: Mapping[str, str] = client.head_object(Bucket=self.store.bucket, Key=key)["Metadata"]
            except client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                return {}
        return marks if _SHA256 in marks else {}

    def _hashed(self, destination: Destination, found: Mapping[str, Any], what: str) -> str:
        digest, size = hashlib.sha256(), 0
        for chunk in self.store.read(found["Key"], what, destination.documents_bucket, found["ETag"]):
            digest.update(chunk)
            size += len(chunk)
        if size != found["Size"]:
            raise UnexpectedAnswer(SYSTEM, f"{what} has {found['Size']} bytes, {size} of them came")
        return digest.hexdigest()

    def _headers(self, source: Mapping[str, str], found: Mapping[str, Any], marks: Mapping[str, str]) -> dict[str, Any]:
        """Return the headers of the source, its metadata with our marks among them."""
        told = self.store.client.head_object(**source, IfMatch=found["ETag"])
        kept = {name: told[name] for name in _HEADERS if told.get(name)}
        return {**kept, "Metadata": {**told.get("Metadata", {}), **marks}}

    def _copy_in_parts(self, given: Mapping[str, Any], source: Mapping[str, str], found: Mapping[str, Any]) -> None:
        client, where = self.store.client, {key: given[key] for key in ("Bucket", "Key")}
        upload = client.create_multipart_upload(**given)["UploadId"]
        try:
            parts = []
            for number, at in enumerate(range(0, found["Size"], self.copy_part), 1):
                last = min(at + self.copy_part, found["Size"]) - 1
                copied = client.upload_part_copy(
                    **where,
                    **{"UploadId": upload, "PartNumber": number, "CopySource": source},
                    **{"CopySourceIfMatch": found["ETag"], "CopySourceRange": f"bytes={at}-{last}"},
                )
                parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
            client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def problems(self, told: Mapping[str, Any]) -> Iterator[str]:
        """Read every document of the export and yield in words what is not as the manifest says.

        :param told: the manifest's ``documents``.
        """
        prefix = told["source"]["prefix"]
        sha256, count, total = hashlib.sha256(), 0, 0
        lines = _lines(unpacked(self.store.read(self.folder + LISTING), sha256))
        with Crew(_AT_ONCE) as readers:
            calls = (partial(self._problem, json.loads(line), prefix, number) for number, line in enumerate(lines, 1))
            for size, problem in side_by_side(readers, calls, _AT_ONCE * 2):
                count, total = count + 1, total + size
                if problem:
                    yield problem
        if sha256.hexdigest() != told["listing"]["sha256"]:
            yield f"{LISTING}: its SHA-256 is not the manifest's"
        if (count, total) != (said := (told["count"], told["bytes"])):
            yield f"documents: {count} of {total} bytes are listed, the manifest says {said[0]} of {said[1]}"

    def _problem(self, line: Mapping[str, Any], prefix: str, number: int) -> tuple[int, str]:
        """Return the size that a document should have, and what is wrong with it; empty when nothing is."""
        key = self.folder + DOCUMENTS + line["key"].removeprefix(prefix)
        what, digest = f"document {number} of the listing", hashlib.sha256()
        try:
            for chunk in self.store.read(key, what):
                digest.update(chunk)
        except (NoData, UnexpectedAnswer) as error:
            return line["size"], str(error)
        same = digest.hexdigest() == line["sha256"]
        return line["size"], "" if same else f"{what}: its SHA-256 is not the one that it had at the source"


def _lines(texts: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for text in texts:
        *whole, rest = (rest + text).split(b"\n")
        yield from whole
    if rest:
        yield rest
