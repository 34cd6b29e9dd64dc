"""How many requests the newest backup takes among 200,000 objects, beside what `aws s3 ls | tail -1` takes.

    python benchmarks/newest_backup.py [objects]

Fills moto's server with backups and things of other kinds, in three layouts, then runs the check over
HTTP and counts what the client sends. Exits 1 when the check takes more than 5 requests in any layout.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import FakeBucket, FakeKey, s3_backends
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
os.environ.setdefault("VCCI_OPS_SETTINGS", "sandbox")
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"

from vcci_ops.operators.backups import BackupCheckOperator  # noqa: E402

LIMIT = 5
BUCKET, NAME = "vcci-backups", "daily/vcci_production-%Y%m%dT%H%M%SZ.dump"
CONTENT = b"PGDMP" + b"x" * 995
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


def backups(every: dt.timedelta, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield dumps with their manifests, the newest an hour old."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    for number in range(count):
        taken = NOW - dt.timedelta(hours=1) - every * number
        key = taken.strftime(NAME)
        yield key, CONTENT
        manifest = {"taken_at": taken.isoformat(), "size": len(CONTENT), "sha256": digest}
        yield f"{key}.manifest.json", json.dumps(manifest).encode() if number < 20 else b"{}"


def layouts(objects: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Yield name and objects; one at a time, for each takes a lot of memory in moto."""
    yield "hourly for years", list(backups(dt.timedelta(hours=1), objects // 2))
    daily = list(backups(dt.timedelta(days=1), 4000))
    clutter = [(f"daily/{'wal' if n % 2 else 'tmp'}-{n:07}", b"") for n in range(objects - len(daily))]
    yield "daily, the rest is clutter", daily + clutter
    yield "every 10 minutes", list(backups(dt.timedelta(minutes=10), objects // 2))


def fill(objects: list[tuple[str, bytes]]) -> None:
    """Put objects straight into moto's memory: 200,000 requests would take minutes."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.buckets[BUCKET] = bucket = FakeBucket(BUCKET, DEFAULT_ACCOUNT_ID, "us-east-1")
    for key, content in objects:
        bucket.keys.setlist(key, [FakeKey(key, content, DEFAULT_ACCOUNT_ID, "us-east-1", bucket_name=BUCKET)])


class Sent:
    """Counts the client's requests, and keeps what the check leaves in XCom."""

    def __init__(self) -> None:
        self.requests = 0
        self.results: list[dict[str, Any]] = []

    def count(self, **_: Any) -> None:
        self.requests += 1

    def xcom_push(self, key: str, value: Any) -> None:
        self.results = value


def checked() -> tuple[Sent, float]:
    """Run the check; return what it sent and the seconds it took."""
    sent, operator = Sent(), BackupCheckOperator(task_id="newest", bucket=BUCKET, fail=False, deadline=120)
    operator.hook.get_conn().meta.events.register("before-send.s3", sent.count)
    begun = time.perf_counter()
    operator.execute({"ti": sent})
    return sent, time.perf_counter() - begun


def listed(client: Any, objects: int) -> str:
    """Do what ``aws s3 ls s3://vcci-backups/daily/`` does, list everything; only its first pages, for moto is slow."""
    begun = time.perf_counter()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, PaginationConfig={"MaxItems": 5000})
    count = sum(1 for _ in pages)
    seconds = (time.perf_counter() - begun) / count
    return f"{-(-objects // 1000)} requests of {seconds:.2f} s each"


def main() -> int:
    """Run every layout."""
    objects = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    logging.disable(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    extra = {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"}
    given = {"conn_type": "aws", "login": "AKIAEXAMPLE", "password": "example", "extra": extra}
    os.environ["AIRFLOW_CONN_VCCI_S3"] = json.dumps(given)
    keys = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "example"}
    failed = False
    for name, layout in layouts(objects):
        fill(layout)
        sent, seconds = checked()
        statuses = {r["status"] for r in sent.results}
        failed |= sent.requests > LIMIT or statuses != {"ok"}
        said = "/".join(sorted(statuses))
        print(f"{name}: {len(layout):,} objects: {sent.requests} requests, {seconds:.2f} s, {said}")
    everything = listed(boto3.client("s3", **extra, **keys), len(layout))
    print(f"listing everything, as `aws s3 ls | tail -1` does: {everything}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB (server included)")
    server.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
