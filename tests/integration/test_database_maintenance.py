"""Maintenance on a real PostgreSQL with the shipped grants: what is worth it, what is in the way, killed."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped, TaskDeferred

from sandbox.service import Sandbox, wait_until
from sandbox.services import postgres, s3
from sandbox.services.messages import Messages
from tests.integration.kube_fixtures import Plane, connect, furnished, played_plane
from vcci_ops.hooks.history import History, upgrade
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.maintenance import MaintenancePlanOperator
from vcci_ops.operators.maintenance_act import ReindexOperator, VacuumOperator
from vcci_ops.operators.maintenance_report import MaintenanceReportOperator
from vcci_ops.settings import INCLUDE, load_settings

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
ROWS = 60_000
EVERY_DAY = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


@dataclasses.dataclass
class Box:
    """What maintenance talks to."""

    sandbox: Sandbox
    plane: Plane
    settings: Path

    def admin(self) -> Any:
        return postgres.admin(self.sandbox, postgres.Production(), postgres.PRODUCTION)

    def one(self, query: str) -> Any:
        with self.admin() as connection:
            row = connection.execute(query).fetchone()
            return row[0] if row else None

    def set(self, **limits: Any) -> None:
        """Write the settings of maintenance; ``vacuum`` and ``reindex`` are merged, the others replaced."""
        data = yaml.safe_load((INCLUDE / "settings" / "sandbox.yaml").read_text())
        quick = {"speed": 1_000_000_000, "lock_timeout": 1}
        made = {
            "windows": [
                {"days": EVERY_DAY, "begin": "00:00", "end": "12:00"},
                {"days": EVERY_DAY, "begin": "12:00", "end": "00:00"},
            ],
            "volumes": {"pg_default": 1_000_000_000_000},
            "blocked_after": 0.1,
            **{key: value for key, value in limits.items() if key not in ("vacuum", "reindex")},
            "vacuum": {"dead_rows": 1000, **quick, **limits.get("vacuum", {})},
            "reindex": {
                "bloat_bytes": 500_000,
                **quick,
                "transactions_older_than": 30,
                "wait_for_transactions": 1,
                **limits.get("reindex", {}),
            },
        }
        self.settings.write_text(yaml.safe_dump({**data, "maintenance": made}))

    def said(self, kind: str = "slack") -> str:
        return requests.get(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/{kind}", timeout=5).text


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    production, history = postgres.Production(), postgres.Airflow()
    servers = [production, history, s3.S3(), Messages()]
    folder = tmp_path_factory.mktemp("kube")
    with ExitStack() as stack:
        for server in servers:
            server.start(sandbox)
            stack.callback(sandbox.end, server.name)
        admin = stack.enter_context(played_plane(folder))
        plane = stack.enter_context(furnished("played", admin, folder, changes=True))
        for server in servers:
            wait_until(server.name, lambda s=server: s.ready(sandbox), seconds=60)
        history.prepare(sandbox)
        bucket = load_settings("sandbox").reports.bucket
        s3.client(sandbox).create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": s3.REGION})
        with postgres.admin(sandbox, production) as connection:
            for role in ("vcci_app", "vcci_ops_maintenance", "stranger"):
                postgres.create_role(connection, role, sandbox.secret(f"postgres-{role}"))
            postgres.create_database(connection, postgres.PRODUCTION, "vcci_app")
        with postgres.admin(sandbox, production, postgres.PRODUCTION) as connection:
            connection.execute((postgres.GRANTS / "vcci_ops_maintenance.sql").read_bytes())
            connection.execute("""
                CREATE SCHEMA "odd schema" AUTHORIZATION vcci_app; GRANT CREATE ON SCHEMA public TO stranger;
                SET ROLE stranger; CREATE TABLE public.theirs (id int PRIMARY KEY);
                SET ROLE vcci_app; CREATE TABLE "odd schema"."a.b ""c" (id int PRIMARY KEY); RESET ROLE""")
        yield Box(sandbox, plane, folder / "settings.yaml")


@pytest.fixture(autouse=True)
def worn(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with dead rows and an index that is mostly waste; no history, nobody's lock."""
    connect(monkeypatch, box.plane.checks_config)
    sandbox = box.sandbox
    given = {**postgres.Airflow().connections(sandbox), **Messages().connections(sandbox)}
    given["vcci_postgres_maintenance"] = postgres.airflow_connection(
        sandbox, "postgres-direct", "vcci_ops_maintenance", postgres.PRODUCTION
    )
    given["vcci_s3"] = s3.S3().connections(sandbox)["vcci_s3"]
    given["vcci_s3"]["extra"]["endpoint_url"] = f"http://127.0.0.1:{sandbox.port('s3-direct')}"
    for id_, connection in given.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    monkeypatch.setenv("VCCI_OPS_SETTINGS", str(box.settings))
    box.set()
    upgrade()
    with History().connect() as connection:
        connection.execute("TRUNCATE maintenance_action, run, step, change_event CASCADE")
    box.plane.kubectl("delete", "leases", "--all", "-n", box.plane.namespace)
    with box.admin() as connection:
        connection.execute("DROP TABLE IF EXISTS worn")
        connection.execute("SET ROLE vcci_app")
        connection.execute("CREATE TABLE worn (id int PRIMARY KEY, body text) WITH (autovacuum_enabled = false)")
        connection.execute("CREATE INDEX worn_body ON worn (body)")
        connection.execute("INSERT INTO worn SELECT n, md5(n::text) FROM generate_series(1, %s) n", (ROWS,))
        connection.execute("DELETE FROM worn WHERE id % 5 <> 0")


class Ti:
    """Stands for a task instance: XComs, and the states of the run's tasks."""

    map_index = -1

    def __init__(self, run: Run, task_id: str) -> None:
        self.run, self.task_id, self.dag_id, self.run_id = run, task_id, run.dag_id, run.run_id

    def xcom_push(self, key: str, value: Any) -> None:
        self.run.xcom[self.task_id, key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.run.xcom.get((task_ids, key))

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
        return {self.run_id: self.run.states}


@dataclasses.dataclass
class Run:
    """A run of the DAG, task by task, as its file wires them."""

    box: Box
    params: dict[str, Any]
    scheduled: bool = False
    dag_id: str = "database_maintenance"
    run_id: str = dataclasses.field(default_factory=lambda: f"manual__{uuid.uuid4().hex[:8]}")
    xcom: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    states: dict[str, str] = dataclasses.field(default_factory=dict)

    def do(self, kind: type[Any], task_id: str, **more: Any) -> Any:
        operator = kind(task_id=task_id, namespace=self.box.plane.namespace, **more)
        dag_run = SimpleNamespace(
            dag_id=self.dag_id,
            run_id=self.run_id,
            triggering_user_name=None if self.scheduled else "ada",
            run_type="scheduled" if self.scheduled else "manual",
            start_date=dt.datetime.now(dt.UTC),
        )
        context: Any = {"dag_run": dag_run, "ti": Ti(self, task_id), "params": self.params, "task": operator}
        try:
            outcome = operator.execute(context)
        except TaskDeferred as deferred:
            outcome = self.resume(operator, context, deferred)
        except DownstreamTasksSkipped:
            return "skipped"
        self.xcom[task_id, "return_value"] = outcome
        return outcome

    def resume(self, operator: Any, context: Any, deferred: TaskDeferred) -> Any:
        async def first() -> Any:
            async for event in deferred.trigger.run():
                return event.payload
            return None

        while True:
            event = asyncio.run(asyncio.wait_for(first(), 60))
            try:
                return getattr(operator, deferred.method_name)(context, event=event, **(deferred.kwargs or {}))
            except TaskDeferred as again:
                deferred = again

    def plan(self) -> Any:
        return self.do(MaintenancePlanOperator, "plan")

    def lock(self) -> Any:
        return self.do(AcquireChangeLockOperator, "lock", purpose="a test")

    def vacuum(self) -> Any:
        return self.do(VacuumOperator, "vacuum")

    def reindex(self) -> Any:
        return self.do(ReindexOperator, "reindex", poll=0.2)

    def unlock(self) -> Any:
        return self.do(ReleaseChangeLockOperator, "unlock")

    def report(self) -> str:
        return str(self.do(MaintenanceReportOperator, "report", channel="#vcci-ops"))

    def whole(self) -> str:
        if self.plan() != "skipped":
            for step in (self.lock, self.vacuum, self.reindex, self.unlock):
                step()
        return self.report()

    @property
    def document(self) -> dict[str, Any]:
        found = History().report("sandbox", self.dag_id, self.run_id)
        assert found is not None
        return found

    def row(self, kind: str, name: str) -> dict[str, Any]:
        (row,) = [r for r in self.document["rows"] if (r["kind"], r["object"]) == (kind, name)]
        return dict(row)

    def findings(self) -> str:
        return "\n".join(f"{f['what']} → {f['action']}" for f in self.document["findings"])


@pytest.fixture
def run(box: Box) -> Callable[..., Run]:
    def make(scheduled: bool = False, **params: Any) -> Run:
        given = {"kind": "both", "tables": [], "ignore_window": False, "reason": "", "dry_run": False, **params}
        return Run(box, given, scheduled)

    return make


@contextmanager
def holding(box: Box, *statements: str) -> Iterator[int]:
    """Hold a transaction open in another session; yields its process id."""
    with box.admin() as connection, connection.transaction():
        for statement in statements:
            connection.execute(statement)
        yield connection.info.backend_pid


def invalid(box: Box) -> list[str]:
    with box.admin() as connection:
        found = connection.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid").fetchall()
    return sorted(name for (name,) in found)


def size(box: Box) -> int:
    return int(box.one("SELECT pg_relation_size('worn_body')"))


# What is worth it ---------------------------------------------------------------------------------------


def test_what_is_due_is_listed_then_done_with_sizes_before_and_after_and_then_no_longer_due(
    box: Box, run: Callable[..., Run]
) -> None:
    before = size(box)
    listed = run(dry_run=True)
    assert listed.whole().startswith("Listed only (dry run): ")
    works = {(work["kind"], work["object"][1]) for work in listed.document["plan"]["works"]}
    assert ("vacuum", "worn") in works
    assert box.one("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'worn'") > 40_000
    assert size(box) == before

    done = run(scheduled=True)
    verdict = done.whole()
    assert "1 table vacuumed" in verdict
    assert "given back" in verdict
    assert size(box) < before / 2
    rebuilt, vacuumed = done.row("reindex", "public.worn_body"), done.row("vacuum", "public.worn")
    assert (rebuilt["state"], rebuilt["detail"]["bytes_before"], rebuilt["detail"]["bytes_after"]) == (
        "done",
        before,
        size(box),
    )
    assert vacuumed["detail"]["dead_after"] == 0
    assert f"Database maintenance: {verdict}" in box.said().replace("\\u", "\\u")
    page = s3.client(box.sandbox).list_objects_v2(Bucket=load_settings("sandbox").reports.bucket)["Contents"]
    assert any(done.run_id in item["Key"] and item["Key"].endswith(".html") for item in page)
    kinds = [kind for (kind,) in _history("SELECT kind FROM change_event")]
    assert set(kinds) == {"maintenance"}
    again = run(scheduled=True)
    assert again.plan() == "skipped"
    assert again.report() == "Nothing was due"
    assert _history(
        "SELECT count(*) FROM maintenance_action WHERE source = %s", f"database_maintenance/{again.run_id}"
    ) == [(0,)]


def _history(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with History().connect() as connection:
        return list(connection.execute(query, parameters).fetchall())


def test_named_tables_are_done_whether_due_or_not_by_the_names_that_people_use(
    box: Box, run: Callable[..., Run]
) -> None:
    named = run(kind="vacuum", tables=['"odd schema"."a.b ""c"', "worn"])
    assert "2 tables vacuumed" in named.whole()
    assert {row["object"] for row in named.document["rows"]} == {'"odd schema"."a.b ""c"', "public.worn"}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        pytest.param({"tables": ["worm"]}, r"tables: 'worm' .*a table that exists of .*public\.worn", id="unknown"),
        pytest.param({"tables": ["worn; DROP TABLE worn"]}, "tables: .*a table that exists", id="hostile"),
        pytest.param({"tables": ["worn\n"]}, "tables: ", id="newline"),
        pytest.param({"tables": ["w" * 1_000_000]}, "tables: ", id="long"),
        pytest.param({"kind": "full"}, "kind: .*vacuum", id="kind"),
        pytest.param({"ignore_window": True}, "reason: ", id="no reason"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name_before_anything_is_done(
    box: Box, run: Callable[..., Run], params: dict[str, Any], words: str
) -> None:
    refused = run(**params)
    with pytest.raises(AirflowFailException, match=words) as error:
        refused.plan()
    assert len(str(error.value)) < 5000
    assert _history("SELECT * FROM maintenance_action") == []


def test_outside_of_its_windows_a_person_has_to_say_so_and_the_schedule_says_that_it_was_late(
    box: Box, run: Callable[..., Run]
) -> None:
    now = dt.datetime.now(dt.UTC)
    other = EVERY_DAY[(now.weekday() + 3) % 7]
    box.set(windows=[{"days": [other], "begin": "02:00", "end": "06:00"}])
    with pytest.raises(AirflowFailException, match=r"ignore_window: .*no window is open; the next: \w{3} "):
        run().plan()
    late = run(scheduled=True)
    assert late.plan() == "skipped"
    late.report()
    assert "The run began outside of its window" in late.findings()
    ignoring = run(kind="vacuum", ignore_window=True, reason="the disk is nearly full")
    assert "1 table vacuumed" in ignoring.whole()


# What is in the way -------------------------------------------------------------------------------------


def test_a_transaction_that_keeps_dead_rows_is_named_and_a_rebuild_gives_up_on_it(
    box: Box, run: Callable[..., Run]
) -> None:
    box.set(reindex={"transactions_older_than": 0.1})
    with holding(box, "SELECT pg_current_xact_id()", "SELECT pg_sleep(0.3)") as pid:
        with box.admin() as connection:
            connection.execute("DELETE FROM worn WHERE id % 10 = 0")
        blocked = run()
        blocked.whole()
    said = blocked.findings()
    assert f"dead rows could not be removed, for they may still be needed by process {pid}" in said
    assert f"SELECT pg_terminate_backend({pid})" in said + json.dumps(blocked.document["seen"]["blockers"])
    row = blocked.row("reindex", "public.worn_body")
    assert row["state"] == "given-up"
    assert "a rebuild has to wait for every older transaction, and after 1 s there still was" in row["detail"]["words"]


def test_a_lock_that_does_not_land_is_left_with_who_holds_it_and_the_next_run_goes_on(
    box: Box, run: Callable[..., Run]
) -> None:
    with holding(box, "LOCK TABLE worn IN SHARE UPDATE EXCLUSIVE MODE") as pid:
        first = run(kind="vacuum")
        first.whole()
    row = first.row("vacuum", "public.worn")
    assert row["state"] != "done"
    assert f"waited 1 s for a lock or a transaction; held by process {pid}" in row["detail"]["words"]
    assert first.document["passes"] == {"vacuum": "partial"}
    assert "1 table vacuumed" in run(scheduled=True).whole()


def test_a_rebuild_for_which_there_is_no_room_is_not_begun(box: Box, run: Callable[..., Run]) -> None:
    box.set(volumes={"pg_default": 60_000_000}, keep_free_percent=50)
    run(kind="vacuum").whole()
    full = run(kind="reindex", tables=["worn"])
    full.whole()
    words = full.row("reindex", "public.worn_body")["detail"]["words"]
    assert "it needs " in words
    assert "of the volume's 60.00 MB" in words
    assert invalid(box) == []


def test_what_does_not_fit_into_any_window_is_not_begun_and_says_so(box: Box, run: Callable[..., Run]) -> None:
    box.set(reindex={"speed": 0.001})
    slow = run(kind="reindex", tables=["worn"])
    slow.whole()
    row = slow.row("reindex", "public.worn_body")
    assert "no window is that long: lengthen one, or run it by hand with ignore_window" in row["detail"]["words"]
    assert "Lengthen a window in the settings" in slow.findings()


def test_tables_of_others_are_left_alone_with_their_owners_name(box: Box, run: Callable[..., Run]) -> None:
    theirs = run(kind="vacuum", tables=["theirs"])
    theirs.whole()
    (left,) = [item for item in theirs.document["left"] if item["object"] == "public.theirs"]
    assert "stranger" in left["why"]


def test_without_the_change_lock_nothing_is_touched(box: Box, run: Callable[..., Run]) -> None:
    bare = run(kind="vacuum")
    bare.plan()
    with pytest.raises(AirflowFailException, match="lock"):
        bare.vacuum()
    assert box.one("SELECT last_vacuum FROM pg_stat_user_tables WHERE relname = 'worn'") is None


# Killed -------------------------------------------------------------------------------------------------

KILLED = """
import sys
from vcci_ops.hooks.maintenance_session import MaintenanceSession
from vcci_ops.domain.maintenance import Work
from vcci_ops.settings import load_settings
work = Work("reindex", ("public", "worn_body"), "public.worn", "a test", 0, 1.0)
with MaintenanceSession.open("vcci_postgres_maintenance", load_settings().maintenance, sys.argv[1]) as session:
    session.reindex(work, 600.0)
"""


def test_killed_in_a_rebuild_the_next_run_drops_what_is_left_over_and_rebuilds(
    box: Box, run: Callable[..., Run]
) -> None:
    box.set(reindex={"lock_timeout": 60, "transactions_older_than": 600})
    before = size(box)
    again = run(kind="reindex", tables=["worn"])
    again.plan()
    again.lock()
    with holding(box, "SELECT pg_current_xact_id()", "INSERT INTO worn VALUES (-1, 'held')"):
        argv = [sys.executable, "-c", KILLED, f"database_maintenance/{again.run_id}"]
        env = {**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}"}
        with subprocess.Popen(argv, env=env, cwd=ROOT) as dead:
            wait_until("the half-built index", lambda: bool(invalid(box)), seconds=30)
            dead.send_signal(signal.SIGKILL)
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'vcci_ops_maintenance'"
        wait_until("the server has noticed", lambda: box.one(gone), seconds=30)
    assert invalid(box) == ["worn_body_ccnew"]
    again.reindex()
    again.unlock()
    again.report()
    assert again.row("reindex", "public.worn_body")["state"] == "done"
    assert again.row("drop-invalid", "public.worn_body_ccnew")["state"] == "done"
    assert invalid(box) == []
    assert size(box) < before / 2


def test_an_invalid_index_that_somebody_builds_right_now_is_left_alone(box: Box, run: Callable[..., Run]) -> None:
    def build() -> None:
        with box.admin() as connection:
            connection.execute("CREATE INDEX CONCURRENTLY worn_theirs ON worn (id)")

    builder = threading.Thread(target=build)
    with holding(box, "SELECT pg_current_xact_id()", "INSERT INTO worn VALUES (-1, 'held')"):
        builder.start()
        wait_until("it is being built", lambda: bool(invalid(box)), seconds=30)
        beside = run(kind="reindex", tables=["theirs"])
        beside.whole()
        assert invalid(box) == ["worn_theirs"]
        assert "worn_theirs" in beside.findings()
    builder.join(30)
    assert invalid(box) == []
