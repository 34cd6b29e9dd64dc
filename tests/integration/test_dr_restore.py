"""Drills of the restore drill: real dumps, a real restore server, S3; each way in which a backup can be bad."""

from __future__ import annotations

import datetime as dt
import hashlib
import http.client
import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import yaml

from sandbox.platform import data
from sandbox.service import Sandbox, wait_until
from sandbox.services import postgres, s3
from sandbox.services.messages import Messages
from tests.integration.drill_fixtures import (
    APPLICATION,
    EMISSIONS,
    PRISTINE,
    TENANT,
    Bucket,
    Restoring,
    Run,
    Source,
    current,
    restores_under_way,
)
from tests.integration.kube_fixtures import Plane, connect, furnished, played_plane
from vcci_ops.hooks import drill_sabotage
from vcci_ops.hooks.history import History, upgrade
from vcci_ops.operators.drill_verify import PARTS
from vcci_ops.settings import INCLUDE

pytestmark = [pytest.mark.integration, pytest.mark.kube, pytest.mark.timeout(240)]
HOUR = dt.timedelta(hours=1)
RESTORED = ("choose", "scratch", "restore")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Both servers, the history, S3 and Slack; a small production database."""
    home = tmp_path_factory.mktemp("drills")
    sandbox = Sandbox(home)
    with ExitStack() as stack:
        for service in (postgres.Production(), postgres.Restore(), postgres.Airflow(), s3.S3(), Messages()):
            service.start(sandbox)
            # Not S3's own stop, which saves reports of the demo.
            stack.callback(sandbox.end, service.name)
            wait_until(service.name, lambda s=service: s.ready(sandbox), seconds=60)
        postgres.Restore().prepare(sandbox)
        postgres.Airflow().prepare(sandbox)
        client = s3.client(sandbox)
        for bucket in (s3.BACKUPS, s3.REPORTS):
            client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": s3.REGION})
        Source(sandbox).fill()
        with pytest.MonkeyPatch.context() as patch:
            configure(sandbox, patch)
            upgrade()
        yield sandbox


@pytest.fixture(autouse=True)
def world(box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections and settings; afterwards no scratch database is left, whatever the test did."""
    configure(box, monkeypatch)
    settings(tmp_path, monkeypatch)
    Bucket(box).clear()
    yield
    assert Restoring(box).scratch() == []


def configure(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        **postgres.Airflow().connections(box),
        **postgres.Restore().connections(box),
        **Messages().connections(box),
    }
    given["vcci_postgres"] = postgres.airflow_connection(box, "postgres-direct", "vcci_ops", "postgres")
    given["vcci_s3"] = s3.S3().connections(box)["vcci_s3"]
    given["vcci_s3"]["extra"]["endpoint_url"] = f"http://127.0.0.1:{box.port('s3-direct')}"
    for id_, connection in given.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))


def settings(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Use the sandbox's settings with some of the drill's changed."""
    found = yaml.safe_load((INCLUDE / "settings" / "sandbox.yaml").read_text())
    found["drill"] |= {"fresh_within": "1d", "rpo": "3d", **changes}
    file = folder / f"settings-{len(list(folder.iterdir()))}.yaml"
    file.write_text(yaml.safe_dump(found))
    monkeypatch.setenv("VCCI_OPS_SETTINGS", str(file))


@pytest.fixture
def source(box: Sandbox) -> Source:
    return Source(box)


@pytest.fixture
def bucket(box: Sandbox) -> Bucket:
    return Bucket(box)


@pytest.fixture
def restoring(box: Sandbox) -> Restoring:
    return Restoring(box)


@pytest.fixture
def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def sound(box: Sandbox) -> tuple[bytes, dict[str, Any]]:
    """A sound dump and what its manifest says; made once."""
    source = Source(box)
    source.renew()
    return source.dump(), source.sums(dt.datetime.now(dt.UTC))


def backed_up(source: Source, bucket: Bucket, now: dt.datetime, *statements: str) -> str:
    """Put a backup of a database that was changed before its manifest was made."""
    source.renew(*statements)
    return bucket.put(source.dump(), source.sums(now), taken=now)


# What is good ------------------------------------------------------------------------------------------


def test_a_sound_backup_passes_every_assertion_and_leaves_evidence(
    box: Sandbox,
    bucket: Bucket,
    sound: tuple[bytes, dict[str, Any]],
    now: dt.datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = bucket.put(*sound, taken=now)
    run = Run()
    with slack_down(monkeypatch):
        run.all()
    assert set(run.said) == {"report"}
    assert "is good, but not everybody was told: Slack: " in run.said["report"]
    assert run.do("report"), "when Slack is back the task is cleared"
    inbox = requests.get(f"http://127.0.0.1:{box.port('inbox')}/api/slack", timeout=5).text
    assert "Restore drill: The backup can be restored, and is good" in inbox
    assert {made.status for made in run.assertions.values()} == {"ok"}, run.assertions
    assert {made.part for made in run.assertions.values()} >= set(PARTS)
    assert "1 large table by a sample of rows that the manifest chose" in run.assertions["tables.checksums"].found
    past = run.drills.get(run.source)
    assert past is not None
    assert (past.outcome, past.backup) == ("passed", key)
    assert past.rto is not None
    assert 0 < past.rto < 60
    assert set(past.phases) == {"choose", "scratch", "read", "schema", "data", "indexes", "verify"}
    folder = f"reports/sandbox/dr_restore_test/{run.run_id}/"
    document = bucket.client.get_object(Bucket=s3.REPORTS, Key=folder + "report.json")["Body"].read()
    page = bucket.client.get_object(Bucket=s3.REPORTS, Key=folder + "report.html")["Body"].read().decode()
    digest = hashlib.sha256(document).hexdigest()
    for words in ("The backup can be restored, and is good", key, sound[1]["system_identifier"], digest, "ines"):
        assert words in page, words
    with History().connect() as connection:
        row = connection.execute(
            "SELECT control, status, evidence, evidence_sha256 FROM compliance_register WHERE source = %s",
            (run.source,),
        ).fetchone()
    assert row == ("backup-restore-test", "met", folder + "report.json", digest)


@contextmanager
def slack_down(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        connection = json.loads(os.environ["AIRFLOW_CONN_VCCI_SLACK"])
        connection["extra"]["base_url"] = "http://127.0.0.1:9/api/"
        patch.setenv("AIRFLOW_CONN_VCCI_SLACK", json.dumps(connection))
        yield


def test_of_an_old_manifest_what_it_does_not_say_is_a_warning_and_the_rest_is_proven(
    bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    dump, told = sound
    old = {
        "schema_version": 1,
        "database": told["database"],
        "schema_revision": told["schema_revision"],
        "tables": {name: {"rows": table["rows"]} for name, table in told["tables"].items()},
    }
    bucket.put(dump, old, taken=now)
    run = Run().all()
    assert run.said == {}
    warned = {id_: made.found for id_, made in run.assertions.items() if made.status != "ok"}
    assert set(warned) == {"tables.keys", "tables.checksums", "sequences.manifest", "extensions.present"}
    assert all("not provable: the manifest is of version 1" in words for words in warned.values())


def test_a_database_that_is_empty_by_right_passes(source: Source, bucket: Bucket, now: dt.datetime) -> None:
    names = "tenants, users, sessions, api_keys, suppliers, calculations, calculation_inputs, emissions"
    rest = "emission_attachments, audit_log, usage_events, documents, reports"
    backed_up(source, bucket, now, f"TRUNCATE {names}, {rest} RESTART IDENTITY")
    run = Run().all()
    assert run.failed == set(), run.assertions
    assert run.outcome == "passed"
    assert "nothing in them, as the manifest says" in run.assertions["freshness.newest"].found


@contextmanager
def tombstones(deleted: dict[data.Tenant, dt.datetime]) -> Iterator[None]:
    with History().connect() as connection:
        for tenant, at in deleted.items():
            connection.execute(
                "INSERT INTO tombstone (environment, tenant_id, slug, name, deleted_at, certificate, "
                "certificate_sha256) VALUES ('sandbox', %s, %s, 'gone', %s, 'c', 'c')",
                (tenant.id, tenant.slug, at),
            )
    try:
        yield
    finally:
        with History().connect() as connection:
            connection.execute("DELETE FROM tombstone")


# What the choice finds ---------------------------------------------------------------------------------


def test_a_truncated_newest_backup_is_passed_over_and_the_drill_ends_red(
    bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    dump, told = sound
    good = bucket.put(dump, told, taken=now - HOUR)
    cut = bucket.put(dump[: len(dump) * 6 // 10], told, taken=now, about=dump)
    run = Run().some(*RESTORED, "drop", "report")
    assert run.failed == {"choice.usable"}
    found = run.assertions["choice.usable"].found
    assert cut in found
    assert "(60 %): truncated" in found
    assert f"restored instead: {good}" in found
    assert run.outcome == "failed"
    assert "truncated" in run.said["report"]


def test_a_backup_without_a_manifest_and_one_with_a_forged_one_are_not_restored(
    bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    dump, told = sound
    none = bucket.put(dump, None, taken=now)
    forged = bucket.put(dump, told, taken=now - HOUR)
    with History().connect() as connection:
        connection.execute(
            "INSERT INTO backup (environment, key, source, state, taken_at, sha256, detail) VALUES "
            "('sandbox', %s, 'database_backup/1', 'made', now(), %s, %s)",
            (forged, hashlib.sha256(dump).hexdigest(), json.dumps({"manifest_sha256": "0" * 64})),
        )
    run = Run().all()
    assert run.states == {"choose": "failed", "report": "failed"}
    assert f"{none}: it has no manifest" in run.said["choose"]
    assert f"{forged}: its manifest is not the one that was recorded" in run.said["choose"]
    assert run.outcome == "failed"


def test_a_backup_much_smaller_than_its_neighbours_is_passed_over_unless_it_is_named(
    source: Source, bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    dump, told = sound
    for hours in (2, 3, 4):
        bucket.put(dump, told, taken=now - hours * HOUR)
    source.renew("TRUNCATE emissions, emission_attachments, audit_log, usage_events, calculation_inputs")
    small = bucket.put(source.dump("--schema-only"), source.sums(now), taken=now)
    run = Run()
    assert run.do("choose")
    assert "of the median of its 3 neighbours" in run.assertions["choice.usable"].found
    named = Run({"which": "key", "key": small})
    assert named.do("choose")
    assert named.xcom["choose", "return_value"]["key"] == small


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"which": "date", "date": "2026-1-1"}, "date: '2026-1-1' is not accepted"),
        ({"which": "key", "key": "a b"}, "key: 'a b' is not accepted"),
        ({"which": "newest"}, "which: 'newest' is not accepted"),
        ({"sabotage": "fire"}, "sabotage: 'fire' is not accepted"),
        ({"which": "date", "date": "2020-01-01"}, "no backup of 2020-01-01"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_name(
    bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime, params: dict[str, Any], words: str
) -> None:
    bucket.put(*sound, taken=now)
    run = Run(params)
    assert not run.do("choose")
    assert words in run.said["choose"]


def test_a_random_one_is_of_the_last_days(
    bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    keys = {bucket.put(*sound, taken=now - dt.timedelta(days=days)) for days in (0, 1, 2)}
    bucket.put(*sound, taken=now - dt.timedelta(days=20))
    run = Run({"which": "random", "days": 5})
    assert run.do("choose")
    assert run.xcom["choose", "return_value"]["key"] in keys
    again = run.xcom["choose", "return_value"]
    assert run.do("choose")
    assert run.xcom["choose", "return_value"] == again, "a repeated task does not choose again"
    with tombstones({TENANT: now - HOUR}):
        other = Run({"which": "random", "days": 5})
        assert other.do("choose")
    chosen = other.xcom["choose", "return_value"]["key"]
    skipped = other.assertions["choice.usable"].lines
    assert chosen == min(keys) or chosen in keys
    assert all("1 tenant was deleted since" in line for line in skipped)


# What the restore finds --------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_before_anything_is_restored(
    bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    dump, told = sound
    flipped = bytearray(dump)
    flipped[len(dump) * 2 // 3] ^= 0x10
    bucket.put(bytes(flipped), told, taken=now, about=dump)
    run = Run().all()
    assert "backup.sha256" in run.failed
    assert "SHA-256" in run.said["restore"]
    assert hashlib.sha256(dump).hexdigest() in run.said["restore"]
    assert "verify.tables" not in run.states
    assert run.outcome == "failed"


def test_a_dump_of_another_database_is_not_restored(
    source: Source, bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    bucket.put(source.dump(database=PRISTINE), sound[1], taken=now)
    run = Run().all()
    assert "backup.database" in run.failed
    assert f"the dump is of the database {PRISTINE}, not of {postgres.PRODUCTION}" in run.said["restore"]


def test_an_orphan_stops_the_restore_with_the_name_of_its_foreign_key(
    source: Source, bucket: Bucket, now: dt.datetime
) -> None:
    backed_up(source, bucket, now, "UPDATE emissions SET supplier_id = gen_random_uuid() WHERE id = 3")
    run = Run().all()
    assert run.failed >= {"restore.complete"}
    assert "violates foreign key constraint" in run.said["restore"]
    assert "emissions_supplier_id_fkey" in run.said["restore"]
    assert TENANT.slug not in run.said["restore"]


def test_a_server_that_is_too_old_or_lacks_an_extension_says_which(
    source: Source, bucket: Bucket, now: dt.datetime
) -> None:
    source.renew("CREATE EXTENSION citext")
    told, dump = source.sums(now), source.dump()
    version = dump[dump.index(b"15.") : dump.index(b"15.") + 3]
    newer = dump.replace(version, b"99.", 1).replace(b"citext", b"cytext")
    bucket.put(newer, told, taken=now)
    run = Run().all()
    assert "it is PostgreSQL 15, and the dump is of 99: too old" in run.said["restore"]
    assert "it lacks the extension cytext" in run.said["restore"]


def test_a_stream_that_s3_cuts_is_gone_on_with_and_one_that_it_always_cuts_there_is_told(
    box: Sandbox, bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump, told = sound
    bucket.put(dump, told, taken=now)
    at = len(dump) * 6 // 10
    with cutting_s3(box, monkeypatch, at) as front:
        run = Run().all()
        assert f"breaks off at byte {at:,} of {len(dump):,} (60 %), 3 times" in run.said["restore"]
        assert run.outcome == "unknown"
        assert Restoring(box).scratch() == []
        front.times = 2
        assert Run().some(*RESTORED, "drop").said == {}
        assert front.times == 0


class Front(http.server.ThreadingHTTPServer):
    """Stands before S3 and cuts what is read at a byte of the object, so many times."""

    daemon_threads = True
    behind: int
    at: int
    times: int


class Cutting(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        length = int(self.headers.get("Content-Length") or 0)
        behind.request(self.command, self.path, self.rfile.read(length), dict(self.headers))
        got = behind.getresponse()
        body = got.read()
        size = len(body)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if self.command == "GET" and ".dump" in self.path and ".json" not in self.path and size > 10:
            cut = self.server.at - start
            if 0 <= cut < size and self.server.times:
                self.server.times -= 1
                body = body[:cut]
        self.send_response(got.status)
        for name, value in got.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", got.getheader("Content-Length") or str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if len(body) < size:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer


@contextmanager
def cutting_s3(box: Sandbox, monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[Front]:
    front = Front(("127.0.0.1", 0), Cutting)
    front.behind, front.at, front.times = box.port("s3-direct"), at, -1
    threading.Thread(target=front.serve_forever, daemon=True).start()
    connection = json.loads(os.environ["AIRFLOW_CONN_VCCI_S3"])
    connection["extra"]["endpoint_url"] = f"http://127.0.0.1:{front.server_port}"
    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_VCCI_S3", json.dumps(connection))
        yield front
    front.shutdown()
    front.server_close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root can make a full disk")
def test_a_disk_that_fills_up_is_told_as_that(
    bucket: Bucket,
    restoring: Restoring,
    sound: tuple[bytes, dict[str, Any]],
    now: dt.datetime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Where PostgreSQL's own user gets to: a tablespace is reached by its whole path.
    disk = Path(tempfile.mkdtemp(prefix="vcci-ops-small-disk-"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        shutil.chown(disk, "postgres", "postgres")
        with restoring.admin() as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{disk}'".encode())
            connection.execute("GRANT CREATE ON TABLESPACE small TO vcci_restore")
        settings(tmp_path, monkeypatch, tablespace="small")
        bucket.put(*sound, taken=now)
        run = Run()
        assert run.do("choose")
        assert run.do("scratch")
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 200_000))
        assert not run.do("restore")
        assert "the disk of the restore server is full" in run.said["restore"]
        ballast.unlink()
        assert run.do("drop")
        run.do("report")
        assert run.outcome == "unknown", "it says nothing about the backup"
    finally:
        with restoring.admin() as connection:
            connection.execute("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


# What the verdicts find --------------------------------------------------------------------------------

Damage = dict[str, tuple[str, str, str]]
"""What → the statement that does it, which assertion finds it, and words of that."""
CHANGED_SINCE: Damage = {
    "one row missing": ("DELETE FROM audit_log WHERE id = 5", "tables.rows", "audit_log:"),
    "one value changed": (
        "UPDATE users SET role = 'viewer' WHERE id = (SELECT id FROM users WHERE role = 'analyst' LIMIT 1)",
        "tables.checksums",
        "users: its rows are not those that were dumped",
    ),
    "a table missing": ("DROP TABLE emission_attachments", "tables.present", "emission_attachments is missing"),
}
WRONG_FROM_THE_BEGINNING: Damage = {
    "a sequence behind": (
        "SELECT setval('emissions_id_seq', 3)",
        "sequences.ahead",
        f"emissions_id_seq stands at 3, and emissions.id has {EMISSIONS}",
    ),
    "figures that do not add up": (
        "UPDATE emissions SET co2e_kg = co2e_kg + 500 WHERE id = 7",
        "business.emissions_add_up",
        "kg CO2e",
    ),
    "a tenant without an administrator": (
        f"UPDATE users SET role = 'viewer' WHERE role = 'admin' AND tenant_id = '{TENANT.id}'",
        "business.tenant_has_admin",
        TENANT.slug,
    ),
}


def test_what_was_wrong_before_the_backup_and_what_the_manifest_does_not_say_are_found_out(
    source: Source, bucket: Bucket, now: dt.datetime
) -> None:
    source.renew(*(statement for statement, _, _ in WRONG_FROM_THE_BEGINNING.values()))
    told = source.sums(now)
    source.change(*(statement for statement, _, _ in CHANGED_SINCE.values()))
    bucket.put(source.dump(), told, taken=now)
    damage = {**WRONG_FROM_THE_BEGINNING, **CHANGED_SINCE}
    run = require_found(Run().all(), damage)
    beside = {"tables.keys", "sequences.manifest"}  # what comes of the same damage
    assert run.failed - beside == {assertion for _, assertion, _ in damage.values()}


def require_found(run: Run, damage: Damage) -> Run:
    """Pass when each piece of damage was found by its assertion, in its words, and the drill ended red with them."""
    for what, (_, assertion, words) in damage.items():
        assert assertion in run.failed, (what, run.assertions)
        made = run.assertions[assertion]
        assert words in "\n".join(made.lines), what
        assert made.why, what
        assert made.found in run.said[f"verify.{made.part}"], what
    assert run.outcome == "failed"
    assert "assertions do not hold" in run.said["report"]
    return run


def test_last_months_content_under_yesterdays_name_is_found_by_its_rows(
    source: Source, bucket: Bucket, now: dt.datetime
) -> None:
    month = "interval '30 days'"
    backed_up(
        source,
        bucket,
        now,
        f"UPDATE sessions SET last_active = last_active - {month}",
        f"UPDATE emissions SET created_at = created_at - {month}",
    )
    run = Run().some(*RESTORED, "verify.freshness", "measure", "drop", "report")
    assert run.failed - {"measure.rto"} == {"freshness.newest", "measure.rpo"}
    assert run.outcome == "failed"
    assert "30 d" in run.assertions["freshness.newest"].found


def test_a_deleted_tenant_that_comes_back_is_found_and_one_deleted_since_is_named(
    bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    bucket.put(*sound, taken=now - HOUR)
    back, since = data.TENANTS[:2]
    with tombstones({back: now - 3 * 24 * HOUR, since: now}):
        run = Run().some(*RESTORED, "verify.tombstones", "drop", "report")
    assert run.failed == {"tombstones.stay_deleted"}
    assert run.outcome == "failed"
    found = "\n".join(run.assertions["tombstones.stay_deleted"].lines)
    assert f"tenant {back.id} is in tenants" in found
    assert f"tenant {back.id} is in usage_events" in found
    assert since.id not in found, "in the backup it is by right"
    made = run.assertions["tombstones.since"]
    assert (made.status, since.id in made.found, "tenant_delete" in made.why) == ("warning", True, True)


IN_COPY: Damage = {
    "an index that lacks a row": (
        "CREATE FUNCTION public.f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'; "
        "CREATE INDEX broken ON public.suppliers (public.f(name)); "
        "CREATE OR REPLACE FUNCTION public.f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT reverse($1)'",
        "storage.amcheck",
        "index broken",
    ),
    "a foreign key that does not hold": (
        "DELETE FROM public.suppliers WHERE id IN (SELECT supplier_id FROM public.emissions LIMIT 1)",
        "constraints.foreign_keys",
        "emissions_supplier_id_fkey:",
    ),
    "a platform that may not write": (
        "ALTER TABLE public.reports OWNER TO postgres; GRANT SELECT ON public.reports TO vcci_app, PUBLIC",
        "grants.application",
        "vcci_app lacks INSERT on reports",
    ),
    "a schema of another revision": (
        "UPDATE public.alembic_version SET version_num = '0004_documents_and_reports'",
        "schema.revision",
        "0004_documents_and_reports, and the manifest says 0005_activity_indexes",
    ),
}
SABOTAGE = {
    "row-missing": ("tables.rows", "audit_log:"),
    "value-changed": ("tables.checksums", "emissions: its rows"),
    "table-missing": ("tables.present", "emission_attachments is missing"),
    "sequence-behind": ("sequences.ahead", "emissions_id_seq stands at 1,"),
    "orphan": ("business.usage_of_known_tenants", ""),
    "index-corrupt": ("storage.amcheck", "index sabotaged"),
}
"""What the form offers to damage in the copy → which assertion finds it, and words of that."""


def test_a_copy_that_is_damaged_is_found_out_and_sabotage_leaves_no_row_in_the_register(
    bucket: Bucket, restoring: Restoring, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    assert set(SABOTAGE) == set(drill_sabotage.IN_COPY)
    bucket.put(*sound, taken=now)
    first, *others = SABOTAGE

    def more(run: Run) -> None:
        for how in others:
            run.params = {"sabotage": how}
            assert run.do("sabotage")
        restoring.change(run.database, *(one for given, _, _ in IN_COPY.values() for one in given.split("; ")))

    run = require_found(Run({"sabotage": first}).all(more), IN_COPY)
    for how, (assertion, words) in SABOTAGE.items():
        made = run.assertions[assertion]
        assert made.status == "critical", how
        assert words in "\n".join(made.lines), how
    assert "reports" in "\n".join(run.assertions["grants.others"].lines), "PUBLIC may read it"
    assert registered(run) == 0


@pytest.mark.parametrize(
    ("how", "assertion", "words"),
    [
        ("truncated", "choice.usable", "(60 %): truncated"),
        ("bit-flipped", "backup.sha256", ""),
        ("manifest-missing", "choice.usable", "it has no manifest"),
        ("manifest-forged", "tables.rows", "rows, "),
        ("renamed", "choice.usable", "an old dump under a new name"),
    ],
)
def test_sabotage_of_the_backup_is_noticed_and_removed(
    bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime, how: str, assertion: str, words: str
) -> None:
    assert how in drill_sabotage.IN_BACKUP
    bucket.put(*sound, taken=now)
    run = Run({"sabotage": how}).all()
    assert run.failed >= {assertion}, run.assertions
    assert words in run.assertions[assertion].found
    assert run.outcome == "failed"
    assert registered(run) == 0
    left = bucket.client.list_objects_v2(Bucket=s3.BACKUPS, Prefix="sabotage/")
    assert left["KeyCount"] == 0


def registered(run: Run) -> int:
    """Return how many rows the compliance register has of a run."""
    with History().connect() as connection:
        query = "SELECT count(*) FROM compliance_register WHERE source = %s"
        row: Any = connection.execute(query, (run.source,)).fetchone()
    return int(row[0])


# The restore server ------------------------------------------------------------------------------------


def test_the_production_server_is_refused_by_its_system_identifier(
    box: Sandbox, bucket: Bucket, sound: tuple[bytes, dict[str, Any]], now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(*sound, taken=now)
    elsewhere = postgres.airflow_connection(box, "postgres-direct", "vcci_app", "postgres")
    elsewhere["host"] = "localhost"  # another name for the same server
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_POSTGRES_RESTORE", json.dumps(elsewhere))
    run = Run()
    assert run.do("choose")
    assert not run.do("scratch")
    assert "leads to the production server (system identifier" in run.said["scratch"]
    with Source(box).admin("postgres") as connection:
        found = connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'vcci_drill_%'").fetchone()
    assert found == (0,)


def test_no_room_is_told_before_anything_is_made(
    bucket: Bucket,
    sound: tuple[bytes, dict[str, Any]],
    now: dt.datetime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings(tmp_path, monkeypatch, disk_budget=1_000_000)
    bucket.put(*sound, taken=now)
    run = Run().all()
    assert "the restore server has no room for the copy" in run.said["scratch"]
    assert run.outcome == "unknown"


def test_left_overs_of_dead_runs_are_collected_and_those_of_runs_under_way_are_not(
    bucket: Bucket, restoring: Restoring, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    bucket.put(*sound, taken=now)
    dead = Run()
    busy = Run(under_way={dead.run_id})
    for other in (dead, busy):
        assert other.do("choose")
        assert other.do("scratch")
    unsigned = Run(under_way={dead.run_id, busy.run_id})
    assert unsigned.do("choose")
    assert unsigned.do("scratch")  # and killed before its comment was written, which the history makes up for
    with restoring.admin() as connection:
        connection.execute(f"COMMENT ON DATABASE {unsigned.database} IS NULL".encode())
        connection.execute("CREATE DATABASE vcci_drill_nobodys")
    run = Run(under_way={busy.run_id})
    assert run.do("choose")
    assert run.do("scratch")
    assert set(restoring.scratch()) == {busy.database, run.database, "vcci_drill_nobodys"}
    said = "\n".join(run.drills.detail(run.source)["collected"])
    assert f"{dead.database} dropped: left by {dead.source}" in said
    assert f"{unsigned.database} dropped" in said
    assert f"{busy.database} left alone: {busy.source} is under way" in said
    assert "vcci_drill_nobodys left alone: nobody has signed it" in said
    for other in (busy, run):
        assert other.do("drop")
    with restoring.admin() as connection:
        connection.execute("DROP DATABASE vcci_drill_nobodys")


def test_a_copy_goes_whoever_is_in_it_and_only_a_superuser_is_waited_for(
    box: Sandbox, bucket: Bucket, restoring: Restoring, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    bucket.put(*sound, taken=now)
    run = Run()
    assert run.do("choose")
    assert run.do("scratch")
    program = psycopg.connect(**postgres.parameters(box, "postgres-restore", "vcci_drill_app", run.database))
    with restoring.admin(run.database):
        assert not run.do("drop")
        assert f"{run.database} is still there, for postgres is connected to it" in run.said["drop"]
    with pytest.raises(psycopg.OperationalError):
        program.execute("SELECT 1")
    with vacuuming(restoring, run.database):
        assert run.do("drop"), run.said
    assert restoring.scratch() == []


@contextmanager
def vacuuming(restoring: Restoring, database: str) -> Iterator[None]:
    """Let autovacuum work in a database, slowly: PostgreSQL lets only a superuser end it by name."""
    slow = "autovacuum_vacuum_threshold = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    with restoring.admin(database) as connection:
        connection.execute(f"CREATE TABLE public.filler WITH ({slow}) AS SELECT n FROM generate_series(1, 500000) n")
        connection.execute("DELETE FROM public.filler")
    with restoring.admin() as connection:
        connection.execute("ALTER SYSTEM SET autovacuum_naptime = 1")
        connection.execute("SELECT pg_reload_conf()")
        at_work = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND backend_type = 'autovacuum worker'"
        try:
            wait_until(
                "autovacuum is there",
                lambda: connection.execute(at_work, (database,)).fetchone() is not None,
                seconds=60,
            )
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET autovacuum_naptime")
            connection.execute("SELECT pg_reload_conf()")


def test_a_copy_is_kept_when_the_form_says_so_and_goes_when_its_time_is_over(
    bucket: Bucket,
    restoring: Restoring,
    sound: tuple[bytes, dict[str, Any]],
    now: dt.datetime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings(tmp_path, monkeypatch, keep_at_most="1s")
    bucket.put(*sound, taken=now)
    spoil = "UPDATE public.alembic_version SET version_num = 'other'"
    kept = Run({"keep_on_failure": True}).some(*RESTORED)
    restoring.change(kept.database, spoil)
    kept.some("verify.schema", "drop", "report")
    assert restoring.scratch() == [kept.database]
    good = Run()
    wait_until("its time is over", lambda: Run().do("choose") and _collected(good, restoring), seconds=20)


def _collected(run: Run, restoring: Restoring) -> bool:
    """Whether a drill that begins and ends has left nothing."""
    assert run.do("choose")
    assert run.do("scratch")
    assert run.do("drop")
    return restoring.scratch() == []


# The platform's own programs -----------------------------------------------------------------------------

PROGRAM = "import os, psycopg; c = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True); "
KNOWN = ("python", "-c", "print('Rev: 0006_next (head)'); print('Rev: 0005_activity_indexes')")
SMOKE = ("python", "-c", PROGRAM + "c.execute('UPDATE public.users SET role = role'); print('ok')")
UPGRADE = ("python", "-c", PROGRAM + "c.execute(\"UPDATE public.alembic_version SET version_num = '0006_next'\")")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """The played Kubernetes API, which runs what Jobs say."""
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) as admin, furnished("played", admin, folder, changes=True) as made:
        made.deploy("backend-api", "v1")
        yield made


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    given = {"url_scheme": "postgresql", "known": KNOWN, "smoke": SMOKE, "upgrade": UPGRADE, **changes}
    settings(folder, monkeypatch, application={key: list(v) if isinstance(v, tuple) else v for key, v in given.items()})


def test_the_release_that_runs_works_on_the_copy_and_its_login_goes_with_it(
    plane: Plane,
    box: Sandbox,
    bucket: Bucket,
    sound: tuple[bytes, dict[str, Any]],
    now: dt.datetime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connect(monkeypatch, plane.checks_config)
    programs(tmp_path, monkeypatch)
    bucket.put(*sound, taken=now)
    run = Run(namespace=plane.namespace).all()
    assert run.said == {}, run.assertions
    made = {id_: (one.status, one.found) for id_, one in run.assertions.items() if one.part == "application"}
    assert made["application.revision"] == ("ok", "0005_activity_indexes, which it knows")
    assert made["application.smoke"] == ("ok", "exit code 0")
    status, found = made["application.upgrade"]
    assert (status, "0005_activity_indexes → 0006_next, in " in found) == ("ok", True)
    password = box.secret("postgres-vcci_drill_app")
    listed = plane.kubectl("get", "jobs,pods,secrets", "-n", plane.namespace, "-o", "json")
    assert password not in listed + capsys.readouterr().out + json.dumps(list(run.xcom.values()))
    assert plane.kubectl("get", "secrets", "-n", plane.namespace, "-o", "name") == ""


def test_a_release_that_cannot_work_on_the_copy_or_uses_another_database_is_found_out(
    plane: Plane,
    bucket: Bucket,
    sound: tuple[bytes, dict[str, Any]],
    now: dt.datetime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect(monkeypatch, plane.checks_config)
    monkeypatch.setattr("vcci_ops.operators.drill_jobs._WITHIN", 1.0)
    elsewhere = ("python", "-c", "print('all of 12 tests passed')")
    programs(tmp_path, monkeypatch, known=("python", "-c", "print('0001_begin')"), smoke=elsewhere)
    bucket.put(*sound, taken=now)
    restored = (*RESTORED, "verify.schema")
    run = Run(namespace=plane.namespace).some(*restored, *(f"application.{program}" for program in APPLICATION), "drop")
    assert run.failed == {"application.revision", "application.smoke"}
    assert "0005_activity_indexes, which it does not list" in run.said["application.known"]
    assert "they passed without connecting to the copy" in run.said["application.smoke"]
    assert run.states["application.upgrade"] == "skipped"
    assert "a migration must run nowhere else" in run.assertions["application.upgrade"].found
    assert plane.kubectl("get", "secrets", "-n", plane.namespace, "-o", "name") == ""
    programs(tmp_path, monkeypatch, smoke=("python", "-c", PROGRAM + "raise SystemExit('no index for tenants')"))
    failing = Run(namespace=plane.namespace).some(*restored, "application.smoke", "drop", "report")
    assert failing.failed == {"application.smoke"}
    assert "exit code 1" in failing.assertions["application.smoke"].found
    assert failing.outcome == "failed"


# Killed ------------------------------------------------------------------------------------------------

AT = {
    "choose": "ok ",
    "scratch": "is there, empty",
    "restore: read": "read 100 %",
    "restore: tables": "pre-data: 1 of 1",
    "restore: rows": "data: 1 of",
    "restore: indexes": "post-data: 1 of",
    "verify.tables": "rows",
    "verify.constraints": "ok ",
    "measure": "ok ",
    "drop": "was dropped",
    "report": "SHA-256 of report.json",
}
"""Task → what it says when it is killed."""


def test_killed_in_every_phase_and_cleared_the_drill_comes_to_the_same_end(
    bucket: Bucket, restoring: Restoring, sound: tuple[bytes, dict[str, Any]], now: dt.datetime
) -> None:
    bucket.put(*sound, taken=now)
    run = Run()
    for moment, words in AT.items():
        task = moment.partition(":")[0]
        for before in ("choose", "scratch", "restore"):
            if before not in run.states and before != task and task not in ("choose", "scratch"):
                assert run.do(before), run.said
        killed_when(run, task, words)
        if task == "restore":
            wait_until("its pg_restore end with it", lambda: not restores_under_way(run.database), seconds=10)
            run.states.pop("restore", None)
        if task != "restore" or moment.endswith("indexes"):
            assert run.do(task), (moment, run.said)
        if task == "restore" and moment.endswith("indexes"):
            for part in PARTS:
                assert run.do(f"verify.{part}"), run.said
    assert run.outcome == "passed"
    assert run.failed == set()


def killed_when(run: Run, task: str, words: str) -> None:
    """Run a task in a process of its own, and kill that at once when it says something."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(reading)
        code = 1
        try:
            _speak()
            context = run.context(task)
            with current(context):
                run.task(task).execute(context)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    seen: list[str] = []
    with os.fdopen(reading, errors="replace") as lines:
        for line in lines:
            seen.append(line)
            if words in line:
                break
        else:
            pytest.fail(f"{task} never said {words!r}: {''.join(seen)[-3000:]}")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _speak() -> None:
    import logging
    import sys

    handler = logging.StreamHandler(os.fdopen(1, "w", buffering=1, closefd=False))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("airflow.task").setLevel(logging.INFO)
    logging.getLogger("airflow.task").propagate = True
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
