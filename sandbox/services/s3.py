"""S3, played by moto's server: backups, reports, tenants' documents.

moto keeps everything in memory, so each start fills it again from the sandbox's folder. What the
reports bucket held is saved when the server is stopped, and comes back.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sandbox.platform import backups, data
from sandbox.service import Fault, Sandbox, Service

PUBLIC_REPORTS = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": "arn:aws:s3:::vcci-reports/*",
        }
    ],
}
BUCKETS = ("vcci-backups", "vcci-reports", "vcci-documents", "vcci-exports")
BACKUPS, REPORTS, DOCUMENTS = BUCKETS[:3]
REGION = "eu-central-1"
FAULTS = ("backup-missing", "backup-truncated", "backup-shrunken")


def client(sandbox: Sandbox, port: str = "s3-direct") -> Any:
    """Return a boto3 client on the server itself, or on another of the sandbox's ports."""
    import boto3
    from botocore.config import Config

    options = {"connect_timeout": 5, "read_timeout": 30, "max_pool_connections": 8}
    # A session of its own: boto3's default one is not safe to share between the threads that start services.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{sandbox.port(port)}",
        region_name=REGION,
        aws_access_key_id=sandbox.secret("s3-access-key", "AKIA"),
        aws_secret_access_key=sandbox.secret("s3-secret-key"),
        config=Config(
            **options,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
        ),
    )


class S3(Service):
    """moto's S3 server with what the platform keeps there."""

    name = "s3"
    needs = ("pg-production",)  # its first start makes the dumps
    ports = ("s3-direct",)

    def start(self, sandbox: Sandbox) -> None:
        """Run moto's server."""
        port = str(sandbox.port("s3-direct"))
        sandbox.python(self.name, "moto.server", "-H", "127.0.0.1", "-p", port)

    def prepare(self, sandbox: Sandbox) -> None:
        """Make the buckets and put into them what is missing."""
        s3 = client(sandbox)
        for bucket in BUCKETS:
            with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
                s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
                if bucket == "vcci-reports":  # so that the page opens in a browser; the sandbox is loopback only
                    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(PUBLIC_REPORTS))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda put: put(), [*_documents(s3), *_saved_reports(sandbox, s3)]))
        put_backups(sandbox, s3)
        for name, options in sandbox.state.faults().items():
            for fault in self.faults:
                if fault.name == name and fault.apply:
                    fault.apply(sandbox, options)

    def stop(self, sandbox: Sandbox) -> None:
        """Save the reports, then stop."""
        try:
            if sandbox.pid(self.name):
                _save_reports(sandbox)
        finally:
            super().stop(sandbox)

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return vcci_s3, through the proxy."""
        extra = {
            "endpoint_url": f"http://127.0.0.1:{sandbox.port('s3')}",
            "region_name": REGION,
            "config_kwargs": {
                "connect_timeout": 5,
                "read_timeout": 10,
                "retries": {"total_max_attempts": 2},
                "s3": {"addressing_style": "path"},
            },
        }
        login = sandbox.secret("s3-access-key", "AKIA")
        return {
            "vcci_s3": {
                "conn_type": "aws",
                "login": login,
                "password": sandbox.secret("s3-secret-key"),
                "extra": extra,
            }
        }


# Backups ----------------------------------------------------------------------------------------


def put_backups(sandbox: Sandbox, s3: Any = None) -> None:
    """Bring the daily backups to what they should be by now; what is right already stays."""
    s3, now = s3 or client(sandbox), datetime.now(UTC)
    there = {o["Key"]: o["Size"] for o in _objects(s3, BACKUPS)}
    wanted = {backups.key(now, ago): ago for ago in range(backups.NIGHTS)}
    with ThreadPoolExecutor(4) as pool:
        for key, ago in wanted.items():
            dump = backups.dump_of(sandbox, ago)
            if there.get(key) != dump.stat().st_size or key + backups.MANIFEST_SUFFIX not in there:
                pool.submit(_put_backup, s3, dump, now, ago)


def _put_backup(s3: Any, dump: Path, now: datetime, ago: int) -> None:
    note = backups.manifest(dump, now, ago)
    with open(dump, "rb") as body:
        s3.put_object(Bucket=BACKUPS, Key=note["key"], Body=body)
    text = json.dumps(note, indent=1).encode()
    s3.put_object(Bucket=BACKUPS, Key=note["key"] + backups.MANIFEST_SUFFIX, Body=text)


def _objects(s3: Any, bucket: str) -> list[dict[str, Any]]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item for page in pages for item in page.get("Contents", [])]


def _remove(s3: Any, keys: list[str]) -> None:
    for key in keys:
        s3.delete_object(Bucket=BACKUPS, Key=key)
        s3.delete_object(Bucket=BACKUPS, Key=key + backups.MANIFEST_SUFFIX)


def _since(s3: Any, key: str) -> list[str]:
    """Return the backups from a key on; also those that database_backup has made meanwhile."""
    found = (item["Key"] for item in _objects(s3, BACKUPS))
    return [name for name in found if name >= key and not name.endswith(backups.MANIFEST_SUFFIX)]


def _miss(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    s3 = client(sandbox)
    _remove(s3, _since(s3, backups.key(datetime.now(UTC), 1)))


def _truncate(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    s3, key = client(sandbox), backups.key(datetime.now(UTC), 0)
    _remove(s3, [later for later in _since(s3, key) if later != key])
    content = backups.dump_of(sandbox, 0).read_bytes()
    s3.put_object(Bucket=BACKUPS, Key=key, Body=content[: len(content) * 6 // 10])


def _shrink(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    s3, now = client(sandbox), datetime.now(UTC)
    _remove(s3, _since(s3, backups.key(now, 0)))
    _put_backup(s3, backups.shrunken_dump(sandbox), now, 0)


def _heal(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    s3, now = client(sandbox), datetime.now(UTC)
    # A shrunken newest backup has a manifest of its own; removing both makes sure that the right pair comes back.
    _remove(s3, [backups.key(now, 0)])
    put_backups(sandbox, s3)


S3.faults = (
    Fault(
        name="backup-missing",
        summary="the backup job did not run today nor yesterday",
        shows_as="backups.age critical",
        apply=_miss,
        heal=_heal,
    ),
    Fault(
        name="backup-truncated",
        summary="the upload of the newest backup broke off at 60 %; its manifest is intact",
        shows_as="backups.integrity critical, backups.size warning",
        apply=_truncate,
        heal=_heal,
    ),
    Fault(
        name="backup-shrunken",
        summary="the newest backup is whole, but was taken of a database that lacked most emissions",
        shows_as="backups.size critical",
        apply=_shrink,
        heal=_heal,
    ),
)


# Documents and reports --------------------------------------------------------------------------


def _documents(s3: Any) -> list[Any]:
    puts = []
    for row in data.documents(datetime.now(UTC)):
        tenant = next(t for t in data.TENANTS if t.id == row[1])
        number = int(row[4].removesuffix(".csv").rpartition("-")[2])
        body = data.document(tenant, number)
        puts.append(partial(s3.put_object, Bucket=DOCUMENTS, Key=row[5], Body=body, ContentType=row[6]))
    return puts


def _saved_reports(sandbox: Sandbox, s3: Any) -> list[Any]:
    folder = sandbox.data("reports")
    index = folder / "index.json"
    entries = json.loads(index.read_text()) if index.exists() else []
    return [
        partial(s3.put_object, Bucket=REPORTS, Key=e["key"], Body=body.read_bytes(), ContentType=e["type"])
        for e in entries
        if (body := folder / e["file"]).exists()
    ]


def _save_reports(sandbox: Sandbox) -> None:
    s3, folder = client(sandbox), sandbox.folder / "reports.new"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    entries = []
    for number, item in enumerate(_objects(s3, REPORTS)):
        answer = s3.get_object(Bucket=REPORTS, Key=item["Key"])
        (folder / str(number)).write_bytes(answer["Body"].read())
        entries.append({"key": item["Key"], "file": str(number), "type": answer["ContentType"]})
    (folder / "index.json").write_text(json.dumps(entries))
    shutil.rmtree(sandbox.data("reports"))
    folder.rename(sandbox.folder / "reports")
