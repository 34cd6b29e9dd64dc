"""The backup check against moto's S3 server, through real HTTP."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from vcci_ops.operators.backups import BackupCheckOperator

pytestmark = pytest.mark.integration
BUCKET = "vcci-backups"
NAME = "daily/vcci_production-%Y%m%dT%H%M%SZ.dump"
NIGHTS = 9
CONTENT = b"PGDMP\x01\x0e\x00" + b"x" * 10_000
LOGIN, PASSWORD = "AKIAEXAMPLE", "correct-horse-battery"


class Recorder:
    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value))


def run(**more: Any) -> SimpleNamespace:
    recorder = Recorder()
    given = {"bucket": BUCKET, "fail": False, "manifest_within": 0, **more}
    operator = BackupCheckOperator(task_id="backups", **given)
    requests: list[str] = []
    try:
        events = operator.hook.get_conn().meta.events
        events.register("before-send.s3", lambda request, **_: requests.append(f"{request.method} {request.url}"))
    except Exception:
        assert "aws_conn_id" in more
    operator.execute({"ti": recorder})
    results = {r["check"]: r for r in recorder.pushed["results"]}
    return SimpleNamespace(results=results, requests=requests, text=json.dumps(results))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


def connect(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {
        "endpoint_url": endpoint,
        "region_name": "eu-central-1",
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    given = {"conn_type": "aws", "login": LOGIN, "password": PASSWORD, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_S3", json.dumps(given))


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fresh bucket with a backup of each of nine nights; the connection points to it."""
    connect(server, monkeypatch)
    monkeypatch.setenv("VCCI_OPS_SETTINGS", "sandbox")
    client = boto3.client(
        "s3", endpoint_url=server, region_name="us-east-1", aws_access_key_id=LOGIN, aws_secret_access_key=PASSWORD
    )
    client.create_bucket(Bucket=BUCKET)
    for ago in range(NIGHTS):
        put(client, ago)
    yield client
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST"), timeout=10).close()


def night(ago: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=ago, hours=6)


def key(ago: float) -> str:
    return night(ago).strftime(NAME)


def put(client: Any, ago: float, content: bytes = CONTENT, **manifest: Any) -> str:
    name = key(ago)
    client.put_object(Bucket=BUCKET, Key=name, Body=content)
    noted = {
        "taken_at": night(ago).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **manifest,
    }
    client.put_object(Bucket=BUCKET, Key=f"{name}.manifest.json", Body=json.dumps(noted))
    return name


def remove(client: Any, ago: int) -> None:
    for item in client.list_objects_v2(Bucket=BUCKET, Prefix=key(ago)[:-12])["Contents"]:
        client.delete_object(Bucket=BUCKET, Key=item["Key"])


def test_a_good_backup_is_ok_after_three_requests(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="daily/zzz-readme.txt", Body=b"not a backup")
    s3.put_object(Bucket=BUCKET, Key="daily/vcci_production-latest.dump", Body=b"not one either")
    done = run()
    assert {r["status"] for r in done.results.values()} == {"ok"}
    assert done.results["backups.age"]["value"] == pytest.approx(6 * 3600, abs=60)
    assert "100 % of the median" in done.results["backups.size"]["summary"]
    assert "of the 7 before" in done.results["backups.size"]["summary"]
    assert len(done.requests) == 3
    assert PASSWORD not in done.text


def test_a_missing_backup_shows_in_the_age(s3: Any) -> None:
    remove(s3, 0)
    remove(s3, 1)
    done = run()
    assert done.results["backups.age"]["status"] == "critical"
    assert done.results["backups.age"]["display"] == "2 d 6 h"
    assert done.results["backups.integrity"]["status"] == "ok"


def test_a_truncated_backup_is_critical_and_says_how_much_is_there(s3: Any) -> None:
    put(s3, 0, CONTENT[:6000], size=len(CONTENT))
    # The clock moved between the two uploads: only the newest counts.
    result = run().results["backups.integrity"]
    assert result["status"] == "critical"
    assert "it has 6,000 bytes (60 %) of the 10,008 its manifest says" in result["summary"]


def test_a_shrunken_backup_is_critical_though_it_is_whole(s3: Any) -> None:
    remove(s3, 0)
    put(s3, 0, CONTENT[:2500])
    done = run()
    assert done.results["backups.size"]["status"] == "critical"
    assert "25 % of the median" in done.results["backups.size"]["summary"]
    assert done.results["backups.integrity"]["status"] == "ok"


def test_a_backup_of_twenty_times_the_usual_size_is_a_warning(s3: Any) -> None:
    remove(s3, 0)
    put(s3, 0, CONTENT + b"x" * 19 * len(CONTENT))
    result = run().results["backups.size"]
    assert result["status"] == "warning"
    assert "2000 % of the median" in result["summary"]
    assert "warning above 200" in result["threshold"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(None, "it has no manifest", id="missing"),
        pytest.param(b"{ not json", "its manifest cannot be read", id="not-json"),
        pytest.param(b"", "its manifest cannot be read", id="empty"),
        pytest.param(b"[]", "its manifest cannot be read", id="a-list"),
        pytest.param(b'{"size": 10008}', "its manifest cannot be read", id="no-time"),
        pytest.param(b'{"size": 10008, "taken_at": "2026-01-01T00:00:00Z"}', "no sha256", id="no-digest"),
    ],
)
def test_a_manifest_that_is_missing_or_useless_is_critical(s3: Any, body: bytes | None, words: str) -> None:
    remove(s3, 0)
    name = put(s3, 0) + ".manifest.json"
    if body is None:
        s3.delete_object(Bucket=BUCKET, Key=name)
    else:
        s3.put_object(Bucket=BUCKET, Key=name, Body=body)
    result = run().results["backups.integrity"]
    assert result["status"] == "critical"
    assert words in result["summary"]


def test_a_dump_that_has_no_manifest_yet_is_being_made_and_the_one_before_it_counts(s3: Any) -> None:
    remove(s3, 0)
    s3.delete_object(Bucket=BUCKET, Key=put(s3, 0) + ".manifest.json")
    found = run(manifest_within=60).results
    assert (found["backups.integrity"]["status"], found["backups.size"]["status"]) == ("ok", "ok")
    assert "which is being made" in found["backups.age"]["query"]
    assert found["backups.age"]["value"] > 86_000, "the one of the night before"
    late = run(manifest_within=0.0).results["backups.integrity"]
    assert (late["status"], "it has no manifest" in late["summary"]) == ("critical", True)


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>"], ids=["empty", "an-error-page"])
def test_what_is_no_dump_is_critical(s3: Any, content: bytes) -> None:
    remove(s3, 0)
    put(s3, 0, content)
    result = run().results["backups.integrity"]
    assert result["status"] == "critical"
    assert "PGDMP" in result["summary"]


def test_an_old_dump_under_a_new_name_is_told_by_its_manifest(s3: Any) -> None:
    remove(s3, 0)
    put(s3, 0, taken_at=night(5).isoformat())
    result = run().results["backups.age"]
    assert result["status"] == "critical"
    assert "an old dump under a new name" in result["summary"]
    assert result["value"] == pytest.approx(5.25 * 86400, rel=0.01)


def test_a_backup_from_the_future_is_a_warning(s3: Any) -> None:
    put(s3, -3)
    result = run().results["backups.age"]
    assert result["status"] == "warning"
    assert "in the future" in result["summary"]


def test_no_backup_at_all_is_critical_everywhere(s3: Any) -> None:
    done = run(prefix="weekly/")
    assert {r["status"] for r in done.results.values()} == {"critical"}
    assert done.results["backups.age"]["summary"] == "There is no backup under s3://vcci-backups/weekly/"
    assert len(done.requests) <= 5


def test_a_bucket_that_does_not_exist_is_unknown_and_named(s3: Any) -> None:
    done = run(bucket="no-such-bucket")
    assert {(r["status"], r["reason"]) for r in done.results.values()} == {("unknown", "no_data")}
    assert "no bucket no-such-bucket" in done.results["backups.age"]["summary"]


def test_a_first_backup_ever_has_nothing_to_be_compared_with(s3: Any) -> None:
    for ago in range(NIGHTS):
        remove(s3, ago)
    put(s3, 0)
    done = run()
    assert {r["status"] for r in done.results.values()} == {"ok"}
    assert "no earlier backup" in done.results["backups.size"]["summary"]


def test_a_store_that_is_down_is_unknown_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        connect(f"http://127.0.0.1:{probe.getsockname()[1]}", monkeypatch)
        done = run()
    assert {(r["status"], r["reason"]) for r in done.results.values()} == {("unknown", "unreachable")}
    assert PASSWORD not in done.text


def test_a_store_that_hangs_is_unknown_within_20_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connect(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        begun = time.monotonic()
        done = run()
    assert time.monotonic() - begun < 20
    assert {(r["status"], r["reason"]) for r in done.results.values()} == {("unknown", "unreachable")}
    assert "no answer within 10 s" in done.results["backups.age"]["summary"]


DENIED = (
    b"""HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"""
)
DENIED_XML = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def test_a_missing_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:

        def refuse() -> None:
            client, _ = store.accept()
            with client:
                client.recv(65536)
                client.sendall(DENIED % (len(DENIED_XML), DENIED_XML))

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        connect(f"http://127.0.0.1:{store.getsockname()[1]}", monkeypatch)
        done = run()
        thread.join(5)
    assert {(r["status"], r["reason"]) for r in done.results.values()} == {("unknown", "forbidden")}
    assert "s3:ListBucket on vcci-backups" in done.results["backups.age"]["summary"]


def test_a_missing_connection_is_named_and_no_other_credentials_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowNotFoundException

    def missing(_cls: Any, _id: str) -> Any:
        raise AirflowNotFoundException

    monkeypatch.setattr("vcci_ops.hooks.s3.S3Hook.get_connection", classmethod(missing))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODYELSE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    done = run(aws_conn_id="nobody")
    assert "no Airflow connection nobody" in done.results["backups.age"]["summary"]
