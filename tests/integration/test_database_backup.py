"""The backup on a real PostgreSQL with the shipped grants, a real history, moto's S3 behind a valve, Slack and mail."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import requests
from airflow.sdk.exceptions import AirflowException, AirflowFailException, DownstreamTasksSkipped
from psycopg.sql import SQL

from sandbox.platform import RELEASE_REVISION
from sandbox.service import Sandbox, wait_until
from sandbox.services import postgres, s3
from sandbox.services.messages import Messages
from tests.integration.valve import Valve
from vcci_ops.exceptions import ChangeFailed, MeasurementError, Refused, Unreachable
from vcci_ops.hooks import table_sums
from vcci_ops.hooks.backup import BackupMaker
from vcci_ops.hooks.backup_record import BackupRecord
from vcci_ops.hooks.backup_source import Claimed
from vcci_ops.hooks.backup_store import BackupStore
from vcci_ops.hooks.history import History, upgrade
from vcci_ops.operators.acting import FAILURE
from vcci_ops.operators.backups import BackupCheckOperator
from vcci_ops.operators.database_backup import (
    BackupDumpOperator,
    BackupReadBackOperator,
    BackupReportOperator,
    BackupRetentionOperator,
)
from vcci_ops.settings import Settings, load_settings

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
BULK = 60_000
"""Rows that make the dump some 11 MB: two parts of an upload."""
MEBIBYTE = 1 << 20


@dataclasses.dataclass
class Box:
    """What a backup talks to."""

    sandbox: Sandbox
    valve: Valve

    @cached_property
    def s3(self) -> Any:
        return s3.client(self.sandbox)

    def admin(self, database: str = postgres.PRODUCTION) -> Any:
        return postgres.admin(self.sandbox, postgres.Production(), database)

    def kept(self) -> list[str]:
        return [item["Key"] for item in self.s3.list_objects_v2(Bucket=s3.BACKUPS).get("Contents", ())]

    def uploads(self) -> list[Any]:
        found = self.s3.list_multipart_uploads(Bucket=s3.BACKUPS).get("Uploads", [])
        return list(found)

    def body(self, key: str) -> bytes:
        content: bytes = self.s3.get_object(Bucket=s3.BACKUPS, Key=key)["Body"].read()
        return content

    def put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=s3.BACKUPS, Key=key, Body=body)

    def manifest(self, key: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.body(f"{key}.manifest.json"))
        return read

    def said(self, kind: str = "slack") -> str:
        return requests.get(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/{kind}", timeout=5).text


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Production with the platform's schema, the shipped grants and a table that is not small."""
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    production, history = postgres.Production(), postgres.Airflow()
    servers = [production, history, s3.S3(), Messages()]
    with ExitStack() as stack:
        for server in servers:
            server.start(sandbox)
            stack.callback(sandbox.end, server.name)
        for server in servers:
            wait_until(server.name, lambda s=server: s.ready(sandbox), seconds=60)
        history.prepare(sandbox)
        furnish(sandbox, production)
        s3.client(sandbox).create_bucket(Bucket=s3.BACKUPS, CreateBucketConfiguration={"LocationConstraint": s3.REGION})
        valve = Valve(sandbox.port("s3-direct"))
        stack.callback(valve.close)
        yield Box(sandbox, valve)


def furnish(sandbox: Sandbox, production: postgres.Production) -> None:
    with postgres.admin(sandbox, production) as connection:
        for role in ("vcci_app", "vcci_ops_backup"):
            postgres.create_role(connection, role, sandbox.secret(f"postgres-{role}"))
        postgres.create_database(connection, postgres.PRODUCTION, "vcci_app")
    postgres.migrate(postgres.url(sandbox, "postgres-direct", "vcci_app", postgres.PRODUCTION))
    with postgres.admin(sandbox, production, postgres.PRODUCTION) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        connection.execute((postgres.GRANTS / "vcci_ops_backup.sql").read_bytes())
        connection.execute("""
            CREATE SCHEMA "odd schema";
            CREATE TYPE "odd schema".mood AS ENUM ('b', 'a');
            CREATE TABLE "odd schema"."a.b c" (
                x int, y text, mood "odd schema".mood, price numeric, at timestamp, due timestamptz, raw bytea,
                PRIMARY KEY (x, y));
            INSERT INTO "odd schema"."a.b c" VALUES
                (1, 'ö''"', 'b', 1.0, '2026-01-01', 'infinity', '\\x00ff'),
                (2, '', 'a', 1.00, NULL, '2999-01-01', NULL);
            CREATE TABLE keyless (a int, b text);
            INSERT INTO keyless VALUES (1, 'twice'), (1, 'twice'), (NULL, NULL);
            CREATE TABLE parted (id bigint GENERATED ALWAYS AS IDENTITY, day date) PARTITION BY RANGE (day);
            CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
            INSERT INTO parted (day) VALUES ('2026-02-03'), ('2026-02-04');
            CREATE SEQUENCE unused;
            INSERT INTO tenants (name, slug, subscription_tier) VALUES ('Nordwind', 'nordwind', 'starter');
            CREATE TABLE bulk (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, body text,
                               created_at timestamptz NOT NULL DEFAULT now())""")
        connection.execute(
            # What pg_dump cannot pack: digests, ten to a row.
            "INSERT INTO bulk (body) SELECT string_agg(md5((10 * row + part)::text), '') "
            "FROM generate_series(1, %s) row, generate_series(1, 10) part GROUP BY row ORDER BY row",
            (BULK,),
        )


@pytest.fixture(autouse=True)
def connections(box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    sandbox = box.sandbox
    given = {**postgres.Airflow().connections(sandbox), **Messages().connections(sandbox)}
    given["vcci_postgres_backup"] = postgres.airflow_connection(
        sandbox, "postgres-direct", "vcci_ops_backup", postgres.PRODUCTION
    )
    given["vcci_s3"] = s3.S3().connections(sandbox)["vcci_s3"]
    given["vcci_s3"]["extra"]["endpoint_url"] = f"http://127.0.0.1:{box.valve.port}"
    for id_, connection in given.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    upgrade()
    with History().connect() as connection:
        connection.execute("TRUNCATE backup, tombstone, step")
    for key in box.kept():
        box.s3.delete_object(Bucket=s3.BACKUPS, Key=key)
    for upload in box.uploads():
        box.s3.abort_multipart_upload(Bucket=s3.BACKUPS, Key=upload["Key"], UploadId=upload["UploadId"])
    with box.admin() as connection:
        connection.execute("DELETE FROM tenants WHERE slug = 'late'")
    yield
    assert box.uploads() == []


def settings(**more: Any) -> Settings:
    given = load_settings("sandbox")
    return given.model_copy(update={"database_backup": given.database_backup.model_copy(update=more)})


def maker(source: str = "database_backup/r1", **more: Any) -> BackupMaker:
    return BackupMaker(settings(**more), source)


def record() -> BackupRecord:
    return BackupRecord("sandbox")


def row(key: str) -> Any:
    return record().known()[key]


@dataclasses.dataclass
class Run:
    """A run of the DAG, as its tasks see it."""

    run_id: str = dataclasses.field(default_factory=lambda: f"manual__{uuid.uuid4().hex[:8]}")
    run_type: str = "manual"
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    xcom: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    states: dict[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, operator: Any) -> Any:
        task = operator.task_id

        def push(key: str, value: Any) -> None:
            self.xcom[task, key] = json.loads(json.dumps(value))

        ti = SimpleNamespace(
            dag_id="database_backup",
            run_id=self.run_id,
            xcom_push=push,
            xcom_pull=lambda task_ids, key="return_value": self.xcom.get((task_ids, key)),
            get_task_states=lambda **_: {self.run_id: self.states},
        )
        run = SimpleNamespace(
            dag_id="database_backup", run_id=self.run_id, run_type=self.run_type, triggering_user_name=None
        )
        try:
            result = operator.execute({"dag_run": run, "ti": ti, "params": self.params, "task": operator})
        except AirflowException as error:
            self.states[task] = "failed"
            self.xcom[task, FAILURE] = str(error)
            raise
        self.xcom[task, "return_value"] = result
        return result


# Making -----------------------------------------------------------------------------------------


def test_dump_and_manifest_are_of_one_moment_whatever_happens_meanwhile_and_agree_when_restored(box: Box) -> None:
    with History().connect() as history:
        history.execute(
            "INSERT INTO tombstone (environment, tenant_id, slug, name, certificate, certificate_sha256) "
            "VALUES ('sandbox', 'gone-1', 'gone', 'Gone', 'c', 'c'), ('production', 'not-ours', 'x', 'x', 'c', 'c')"
        )
    # Sampled: bulk is larger than 4 MB.
    backup = maker(hashed_whole=4 * MEBIBYTE)
    with ExitStack() as stack, box.valve.stalling(after=4 * MEBIBYTE) as valve:
        dumping = in_thread(stack, backup.dump)
        assert valve.reached.wait(30)
        with box.admin() as connection:  # the dump is half-way: what comes now is not in it
            connection.execute("INSERT INTO bulk (body) VALUES ('late')")
            connection.execute("UPDATE bulk SET body = 'changed' WHERE id <= 100")
            connection.execute("DELETE FROM keyless WHERE a IS NULL")
            connection.execute("INSERT INTO tenants (name, slug, subscription_tier) VALUES ('Late', 'late', 'starter')")
        assert box.kept() == []
    made = dumping.result(30)
    assert box.kept() == [made.key]
    made = backup.read_back()
    assert (made.state, made.key) == ("made", made.key)
    assert made.verified_at
    manifest = box.manifest(made.key)
    assert manifest["tombstones"] == ["gone-1"]
    tables = manifest["tables"]
    assert tables["bulk"]["rows"] == BULK
    assert tables["bulk"]["sampled"]["one_in"] == 8
    assert tables["bulk"]["sampled"]["rows"] == pytest.approx(BULK / 8, rel=0.05)
    assert tables["bulk"]["max_key"] == str(BULK)
    assert tables["tenants"]["rows"] == 1
    assert tables["keyless"] == {**tables["keyless"], "rows": 3, "max_key": None, "sampled": None}
    assert tables["parted_1"]["rows"] == 2
    assert "parted" not in tables
    odd = tables["odd schema.a.b c"]
    assert (odd["rows"], odd["max_timestamp"]) == (2, "2026-01-01T00:00:00.000000Z")
    assert odd["max_key"].startswith("sha256:")
    restored_agrees(box, made.key, manifest)
    box_is_told_well(box, made.key, manifest)


def in_thread(stack: ExitStack, call: Any) -> Any:
    """Run something beside the test; the dump's process belongs to that thread, which lives until it is done."""
    from concurrent.futures import ThreadPoolExecutor

    return stack.enter_context(ThreadPoolExecutor(1)).submit(call)


def restored_agrees(box: Box, key: str, manifest: dict[str, Any]) -> None:
    """Restore the object into a database of its own, and sum it up as a drill does."""
    with box.admin("postgres") as connection:
        connection.execute("DROP DATABASE IF EXISTS copy WITH (FORCE)")
        connection.execute("CREATE DATABASE copy TEMPLATE template0")
        at = connection.info
        argv = ["pg_restore", "--no-owner", "--exit-on-error", f"--host={at.host}", f"--port={at.port}"]
        done = subprocess.run(
            [*argv, f"--username={at.user}", "--dbname=copy"],
            input=box.body(key),
            env={**os.environ, "PGPASSWORD": at.password},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    taken = dt.datetime.fromisoformat(manifest["taken_at"])
    with box.admin("copy") as connection:
        connection.execute("SET datestyle = 'German'; SET extra_float_digits = 0; SET timezone = 'Asia/Tokyo'")
        table_sums.alike(connection)
        for table in table_sums.tables(connection):
            noted = manifest["tables"].pop(table.label)
            one_in = noted["sampled"]["one_in"] if noted["sampled"] else 1
            found = table_sums.sums(connection, table, taken, one_in)
            assert dataclasses.astuple(found)[:4] == (
                noted["rows"],
                noted["max_key"],
                noted["max_timestamp"],
                noted["checksum"],
            ), table.label
        sequences = dict(connection.execute((ROOT / "include" / "sql" / "recovery" / "sequences.sql").read_bytes()))
        assert sequences.pop("bulk_id_seq") >= manifest["sequences"].pop("bulk_id_seq") == BULK
        assert sequences == manifest["sequences"]
        assert not connection.execute("SELECT FROM pg_extension WHERE extname = 'pg_stat_statements'").fetchone()
    assert manifest["tables"] == {}
    with box.admin("postgres") as connection:
        connection.execute("DROP DATABASE copy WITH (FORCE)")


def box_is_told_well(box: Box, key: str, manifest: dict[str, Any]) -> None:
    """What stands in manifest, history and S3 about it."""
    noted, body = row(key), box.body(key)
    assert (manifest["schema_version"], manifest["key"]) == (2, key)
    assert (manifest["size"], manifest["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert (noted.bytes, noted.sha256) == (manifest["size"], manifest["sha256"])
    assert noted.detail["manifest_sha256"] == hashlib.sha256(box.body(f"{key}.manifest.json")).hexdigest()
    assert "manifest" not in noted.detail
    assert noted.taken_at.isoformat() == manifest["taken_at"]
    with box.admin() as connection:
        found = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
    assert found
    assert (manifest["system_identifier"], manifest["database"]) == (found[0], "vcci_production")
    assert manifest["schema_revision"] == RELEASE_REVISION
    assert set(manifest["extensions"]) == {"plpgsql", "pg_stat_statements"}
    assert manifest["sequences"]["unused"] is None
    for name in (key, f"{key}.manifest.json"):
        assert box.s3.head_object(Bucket=s3.BACKUPS, Key=name)["ServerSideEncryption"] == "AES256"


def test_the_morning_check_is_green_with_it(box: Box) -> None:
    backup = maker()
    backup.dump()
    backup.read_back()
    check, found = BackupCheckOperator(task_id="backups", bucket=s3.BACKUPS), Run()
    found(check)
    results = {r["check"]: r for r in found.xcom["backups", "results"]}
    assert {r["status"] for r in results.values()} == {"ok"}
    assert f"{len(box.manifest(row(box.kept()[0]).key)['tables'])} tables counted" in str(results["backups.integrity"])


def test_what_is_not_summed_while_the_snapshot_may_be_held_is_unknown_and_said(
    box: Box, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = table_sums.sums_query
    slow = SQL("SELECT pg_sleep(60), 1, 1, 1, 1")
    monkeypatch.setattr(
        table_sums, "sums_query", lambda table, *more: slow if table.name == "bulk" else real(table, *more)
    )
    backup = maker(sums_after_dump=0.1)
    made = backup.dump()
    backup.read_back()
    table = box.manifest(made.key)["tables"]["bulk"]
    assert (table["rows"], table["checksum"]) == (None, None)
    assert table["why"] == "not summed while the snapshot could be held"
    assert box.manifest(made.key)["tables"]["tenants"]["rows"] == 1
    assert "bulk was not summed in time" in caplog.text
    assert "1 of them NOT counted" in row(made.key).detail["summary"]
    with box.admin() as connection:  # nobody holds the past any more
        held = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'vcci_ops_backup' AND backend_xmin IS NOT NULL"
        wait_until("snapshot gone", lambda: connection.execute(held).fetchone() == (0,), seconds=10)


# Killed, and run again --------------------------------------------------------------------------

_DUMP = """
import sys
from vcci_ops.hooks import backup
from vcci_ops.settings import load_settings
backup._PART, backup._SENDERS = 5 << 20, 1  # so that pg_dump has to wait for S3
backup.BackupMaker(load_settings("sandbox"), sys.argv[1]).dump()
"""


def test_killed_in_the_middle_of_the_upload_it_makes_the_same_backup_when_it_runs_again(box: Box) -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    with box.valve.stalling(after=4 * MEBIBYTE) as valve:
        process = subprocess.Popen([sys.executable, "-c", _DUMP, "database_backup/killed"], env=env)
        try:
            assert valve.reached.wait(60)
            (upload,) = box.uploads()
            (dumping,) = children(process.pid)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
    wait_until("pg_dump gone", lambda: not Path(f"/proc/{dumping}").exists(), seconds=10)
    assert box.kept() == []
    assert row(upload["Key"]).state == "running"
    again = maker("database_backup/killed")
    made = dumped_when_free(again)
    assert made.key == upload["Key"]
    assert box.uploads() == []
    assert again.read_back().state == "made"
    assert sorted(box.kept()) == [made.key, f"{made.key}.manifest.json"]


def children(pid: int) -> list[int]:
    """Return the pg_dump that a process has started."""
    tasks = Path(f"/proc/{pid}/task")
    found = [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]
    return [c for c in found if "pg_dump" in Path(f"/proc/{c}/cmdline").read_text()]


def dumped_when_free(backup: BackupMaker) -> Any:
    """Dump as a retry would: the server may need a moment to notice that the first process is dead."""
    made: list[Any] = []

    def tried() -> bool:
        try:
            made.append(backup.dump())
        except Claimed:
            return False
        return True

    wait_until("claim free", tried, seconds=20)
    return made[0]


PHASES = {
    "noted, nothing dumped": (BackupMaker, "_stream"),
    "dumped, not noted": (BackupRecord, "dumped"),
    "read back, no manifest": (BackupStore, "put"),
    "manifest written, not noted": (BackupRecord, "made"),
    "one object of an old backup deleted": (BackupRecord, "deleted"),
    "all deleted, nobody told": (BackupReportOperator, "_good"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_any_phase_and_cleared_it_comes_to_the_same_end(
    box: Box, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping(tmp_path, monkeypatch, "{daily: 1, weekly: 0, monthly: 0}")
    old, run = kept(box, 80), Run(run_type="scheduled")
    child = os.fork()
    if not child:
        place, name = PHASES[phase]
        setattr(place, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        try:
            all_tasks(run)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    told = all_tasks(run)
    (made,) = record().known().values()
    assert (made.state, old in box.kept()) == ("made", False)
    assert sorted(box.kept()) == [made.key, f"{made.key}.manifest.json"]
    assert made.detail["manifest_sha256"] == hashlib.sha256(box.body(f"{made.key}.manifest.json")).hexdigest()
    assert made.key.rpartition("/")[2] in told


def all_tasks(run: Run) -> str:
    """Run a DAG run's tasks, the dump again as long as the server does not know that a killed one is dead."""

    def dumped() -> bool:
        try:
            run(BackupDumpOperator(task_id="dump"))
        except AirflowException as error:
            if "another process is making" not in str(error):
                raise
            return False
        return True

    wait_until("dumped", dumped, seconds=20)
    run.states.clear()
    run(BackupReadBackOperator(task_id="read_back"))
    run(BackupRetentionOperator(task_id="retention"))
    return str(run(BackupReportOperator(task_id="report")))


def test_killed_before_it_was_read_back_the_dump_is_not_made_again(box: Box) -> None:
    first = maker().dump()
    assert box.kept() == [first.key]  # no manifest: no backup
    stored = box.s3.head_object(Bucket=s3.BACKUPS, Key=first.key)["LastModified"]
    second = maker().dump()
    assert second.key == first.key
    assert box.s3.head_object(Bucket=s3.BACKUPS, Key=first.key)["LastModified"] == stored
    made = maker().read_back()
    assert made.state == "made"
    assert maker().dump() == made
    assert maker().read_back() == made


def test_begun_again_much_later_it_gets_a_name_of_its_own_time_and_leaves_nothing(box: Box) -> None:
    early = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=20)
    old = maker().names.key(early)
    record().begin(old, "database_backup/r1", early)
    box.put(old, b"PGDMP, and a killed process")
    made = maker().dump()
    assert made.key != old
    assert box.kept() == [made.key]
    assert row(old).state == "failed"
    assert row(old).detail["given_up"]
    assert maker().read_back().key == made.key


def test_two_processes_do_not_make_the_same_backup(box: Box) -> None:
    now = dt.datetime.now(dt.UTC)
    key = maker().names.key(now)
    record().begin(key, "database_backup/r1", now)
    with box.admin() as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 5))", (key,))
        with pytest.raises(Unreachable, match=f"another process is making {key}"):
            maker().dump()
    assert box.kept() == []


def test_an_object_that_is_there_already_is_left_as_it_is(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings()
    daily = given.backups.model_copy(update={"key_format": "vcci_production-%Y%m%d.dump"})
    backup = BackupMaker(given.model_copy(update={"backups": daily}), "database_backup/r1")
    key = backup.names.key(dt.datetime.now(dt.UTC))
    box.put(key, b"PGDMP of another tool")
    with pytest.raises(Refused, match=f"{key} is there already, and not by this run; it is left as it is"):
        backup.dump()
    assert box.body(key) == b"PGDMP of another tool"
    assert record().known() == {}


# Things that go wrong ---------------------------------------------------------------------------


def test_an_upload_that_is_refused_pages_and_says_what_is_missing(box: Box) -> None:
    run, dump = Run(), BackupDumpOperator(task_id="dump")
    with box.valve.refusing(b"POST /vcci-backups/daily/"), pytest.raises(AirflowFailException) as caught:
        run(dump)
    assert "S3 refused: missing permission to s3:PutObject" in str(caught.value)
    assert "AccessDenied" in str(caught.value)
    with pytest.raises(AirflowFailException, match="No backup of vcci_production was made: dump failed"):
        run(BackupReportOperator(task_id="report"))
    assert "No backup of vcci_production was made: dump failed: S3 refused" in box.said()
    assert "[vcci-ops sandbox] the database was not backed up" in box.said("mail")
    (noted,) = record().known().values()
    assert noted.state == "failed"
    assert box.kept() == []
    # The right was given, the run is cleared.
    run.states.clear()
    for task in (dump, BackupReadBackOperator(task_id="read_back"), BackupReportOperator(task_id="report")):
        run(task)
    assert row(noted.key).state == "made"
    assert "Backup vcci_production-" in box.said()


def test_a_read_back_that_is_cut_off_is_tried_again_and_until_then_there_is_no_backup(box: Box) -> None:
    made = maker().dump()
    with (
        box.valve.cutting(after=made.bytes * 6 // 10) as valve,
        pytest.raises(Unreachable, match="S3 did not answer: it broke off in the middle of vcci-backups/daily/"),
    ):
        maker().read_back()
    assert valve.reached.is_set()
    assert box.kept() == [made.key]
    assert row(made.key).verified_at is None
    assert maker().read_back().state == "made"


def test_a_flipped_bit_is_found_and_a_cleared_run_makes_another_backup(box: Box) -> None:
    made = maker().dump()
    body = bytearray(box.body(made.key))
    body[len(body) // 2] ^= 1
    box.s3.put_object(Bucket=s3.BACKUPS, Key=made.key, Body=bytes(body), ServerSideEncryption="AES256")
    with pytest.raises(ChangeFailed, match="is not what was dumped"):
        maker().read_back()
    assert row(made.key).state == "failed"
    assert box.kept() == [made.key]
    wait_until("next second", lambda: maker().names.key(dt.datetime.now(dt.UTC)) != made.key, seconds=2)
    another = maker().dump()
    assert another.key != made.key
    assert maker().read_back().key == another.key


def test_a_pg_dump_that_is_too_old_is_refused(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.9'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(AirflowFailException, match=r"the server is PostgreSQL 15.* and pg_dump here is 14\.9"):
        Run()(BackupDumpOperator(task_id="dump"))
    assert record().known() == {}


def test_a_table_that_somebody_alters_is_not_waited_for_for_ever(box: Box) -> None:
    with box.admin() as connection, connection.transaction():
        connection.execute("LOCK TABLE keyless IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unreachable, match=r"pg_dump ended with 1: .* timeout; .*LOCK TABLE public\.keyless"):
            maker(lock_timeout=0.3).dump()
    assert box.kept() == []
    assert maker().dump().dumped


def test_rows_that_row_level_security_hides_are_never_left_out_silently(box: Box) -> None:
    with box.admin() as connection:
        connection.execute("ALTER TABLE keyless ENABLE ROW LEVEL SECURITY")
    try:
        with pytest.raises(MeasurementError, match="row-level security"):
            maker().dump()
        assert box.kept() == []
    finally:
        with box.admin() as connection:
            connection.execute("ALTER TABLE keyless DISABLE ROW LEVEL SECURITY")


def test_where_another_tool_makes_the_backups_the_run_says_so_and_ends(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "include" / "settings" / "sandbox.yaml").read_text()
    file = tmp_path / "off.yaml"
    file.write_text(text.replace("database_backup:\n", "database_backup:\n  enabled: false\n  made_by: pgBackRest\n"))
    monkeypatch.setenv("VCCI_OPS_SETTINGS", str(file))
    with pytest.raises(DownstreamTasksSkipped):
        Run()(BackupDumpOperator(task_id="dump"))
    assert "by the settings (database_backup.enabled), pgBackRest makes the backups" in capsys.readouterr().out
    assert box.kept() == []


def test_a_parameter_that_is_none_of_the_choices_is_refused_first(box: Box) -> None:
    with pytest.raises(
        AirflowFailException, match="retention: 'all' is not accepted; expected one of auto, apply, plan"
    ):
        Run(params={"retention": "all"})(BackupDumpOperator(task_id="dump"))
    assert record().known() == {}


def test_the_role_can_read_all_and_write_nothing(box: Box) -> None:
    given = postgres.parameters(box.sandbox, "postgres-direct", "vcci_ops_backup", postgres.PRODUCTION)
    with psycopg.connect(**given, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
        connection.execute("SET default_transaction_read_only = off")
        for statement in ("DELETE FROM bulk", "CREATE TABLE t (a int)", "SELECT setval('bulk_id_seq', 1)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


# Retention --------------------------------------------------------------------------------------


def keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: str) -> None:
    """Keep fewer backups than the sandbox does."""
    text = (ROOT / "include" / "settings" / "sandbox.yaml").read_text()
    usual = "retention: {daily: 30, weekly: 8, monthly: 11}"
    assert usual in text
    file = tmp_path / "short.yaml"
    file.write_text(text.replace(usual, f"retention: {rules}"))
    monkeypatch.setenv("VCCI_OPS_SETTINGS", str(file))


def kept(box: Box, days: float, *, manifest: bool = True) -> str:
    """Put a backup of another tool, with a manifest of version 1."""
    taken = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    key, body = maker().names.key(taken), b"PGDMP of long ago"
    box.put(key, body)
    if manifest:
        noted = {
            "schema_version": 1,
            "taken_at": taken.isoformat(),
            "size": len(body),
            "sha256": "0" * 64,
            "tables": {},
        }
        box.put(f"{key}.manifest.json", json.dumps(noted).encode())
    return key


def test_retention_deletes_what_a_newer_verified_backup_replaces_and_nothing_else(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held, old, begun = kept(box, 90), kept(box, 80), kept(box, 70)
    bare, recent = kept(box, 75, manifest=False), kept(box, 1)
    others = ["daily/vcci_production-latest.dump", "daily/README.txt", "weekly/vcci_production-20260101T000000Z.dump"]
    for key in others:
        box.put(key, b"something else")
    # A run that was killed between the two objects of a backup.
    record().deleting(begun, dt.datetime.now(dt.UTC) - dt.timedelta(days=70), "database_backup/dead", "test")
    box.s3.delete_object(Bucket=s3.BACKUPS, Key=f"{begun}.manifest.json")
    keeping(tmp_path, monkeypatch, f"{{daily: 2, weekly: 0, monthly: 0, hold: [{held}]}}")
    run, retention = Run(), BackupRetentionOperator(task_id="retention")
    run(BackupDumpOperator(task_id="dump"))
    new = run(BackupReadBackOperator(task_id="read_back"))
    before = set(box.kept())
    assert run(retention) == "1 backups could go (17 B), none was deleted: only planned"  # by hand
    assert set(box.kept()) == before
    run.run_type = "scheduled"
    assert run(retention) == "1 older backups deleted (17 B)"
    assert set(box.kept()) == before - {old, f"{old}.manifest.json", begun}
    logged = capsys.readouterr().out
    assert f"delete {old}: beyond 2 daily, 0 weekly, 0 monthly ones; replaced by {recent}" in logged
    assert f"keep {held}: on hold, by the settings" in logged
    assert f"keep {bare}: not verified, it has no manifest" in logged
    assert f"keep {new}: the newest verified backup" in logged
    assert not record().known().keys() & {old, begun}
    assert run(retention) == ""
    told = run(BackupReportOperator(task_id="report"))
    assert f"Backup {new.rpartition('/')[2]}: " in told
    assert "made and read back in" in told


def test_nothing_is_deleted_when_what_replaces_it_has_vanished(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    from vcci_ops.domain.backup_retention import plan
    from vcci_ops.hooks.backup_store import Shelf

    old, new = kept(box, 80), kept(box, 1)
    given = settings(
        retention=settings().database_backup.retention.model_copy(update={"daily": 1, "weekly": 0, "monthly": 0})
    )
    backup = BackupMaker(given, "database_backup/r1")
    shelf = Shelf(backup.store, record(), given, "database_backup/r1")
    known = shelf.known()
    fates = plan(known, shelf.rules, dt.datetime.now(dt.UTC))
    assert [fate.key for fate in fates if fate.delete] == [old]
    box.s3.delete_object(Bucket=s3.BACKUPS, Key=f"{new}.manifest.json")
    with pytest.raises(Refused, match=f"{old} is kept: {new}, which replaces it, is not there"):
        shelf.clear(fates, known)
    assert old in box.kept()
