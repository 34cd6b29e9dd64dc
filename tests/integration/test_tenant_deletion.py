"""Deleting a tenant, task by task, on real PostgreSQL servers, Redis, S3 and a played control plane."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped, TaskAwaitingInput

from sandbox.service import Sandbox, wait_until
from sandbox.services import postgres, redis, s3
from sandbox.services.messages import Messages
from tests.integration.kube_fixtures import Plane, connect, furnished, played_plane
from tests.tenant_fixtures import Victim, everything, furnish, insert, rows_of
from vcci_ops.domain.tenant_export import Export
from vcci_ops.hooks.history import upgrade
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.hooks.tenants import Deletions, Tombstones
from vcci_ops.operators import tenant_delete as delete
from vcci_ops.operators import tenant_purge as purge
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.settings import load_settings

pytestmark = [pytest.mark.kube, pytest.mark.integration]
FORM = {"reason": "contract ended", "legal_basis": "end of contract", "grace_days": 0, "dry_run": False}
NAMESPACE = "vcci-production"


class Box:
    """The servers."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.s3 = s3.client(sandbox)
        self.cache = redis.client(sandbox, redis.CACHE_DB)

    def admin(self) -> Any:
        """A superuser's connection to production."""
        return postgres.admin(self.sandbox, postgres.Production(), postgres.PRODUCTION)

    def victim(self, slug: str = "") -> Victim:
        with self.admin() as connection:
            victim = insert(connection, slug)
        furnish(victim, self.s3, self.cache)
        return victim

    def sql(self, query: str, *given: Any) -> list[Any]:
        with self.admin() as connection:
            cursor = connection.execute(query.encode(), given)
            return cursor.fetchall() if cursor.description else []

    def rows(self, victim: Victim) -> dict[str, int]:
        with self.admin() as connection:
            return rows_of(connection, victim)

    def others(self, victim: Victim) -> dict[str, Any]:
        with self.admin() as connection:
            return everything(connection, victim)

    def objects(self, victim: Victim) -> int:
        return int(self.s3.list_objects_v2(Bucket="vcci-documents", Prefix=victim.prefix)["KeyCount"])

    def keys(self, victim: Victim) -> int:
        return len(list(self.cache.scan_iter(f"*{victim.id}*")))

    def said(self, kind: str = "slack") -> str:
        return requests.get(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/{kind}", timeout=5).text


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Production with the platform's schema and the shipped grants, and one other tenant; all that tasks talk to."""
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    production, history, restore = postgres.Production(), postgres.Airflow(), postgres.Restore()
    servers = [production, history, restore, redis.Redis(), s3.S3(), Messages()]
    with ExitStack() as stack:
        for server in servers:
            server.start(sandbox)
            stack.callback(sandbox.end, server.name)
        for server in servers:
            wait_until(server.name, lambda s=server: s.ready(sandbox), seconds=60)
        history.prepare(sandbox)
        restore.prepare(sandbox)
        migrated(sandbox, production)
        for bucket in s3.BUCKETS:
            s3.client(sandbox).create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": s3.REGION})
        made = Box(sandbox)
        made.victim("bystander")
        yield made


def migrated(sandbox: Sandbox, production: postgres.Production) -> None:
    with postgres.admin(sandbox, production) as connection:
        for role in ("vcci_app", "vcci_ops", *postgres.ACTING):
            postgres.create_role(connection, role, sandbox.secret(f"postgres-{role}"))
        postgres.create_database(connection, postgres.PRODUCTION, "vcci_app")
    postgres.migrate(postgres.url(sandbox, "postgres-direct", "vcci_app", postgres.PRODUCTION))
    with postgres.admin(sandbox, production, postgres.PRODUCTION) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        for file in sorted(postgres.GRANTS.glob("*.sql")):
            connection.execute(file.read_bytes())


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) as admin, furnished("played", admin, folder, NAMESPACE, changes=True) as made:
        yield made


@pytest.fixture(scope="module")
def config(plane: Plane) -> dict[str, Any]:
    return plane.checks_config


@pytest.fixture(autouse=True)
def connections(box: Box, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, config)
    sandbox = box.sandbox
    given = {**postgres.Airflow().connections(sandbox), **Messages().connections(sandbox)}
    given |= postgres.Restore().connections(sandbox)
    for role, id_ in {"vcci_ops": "vcci_postgres", **postgres.ACTING}.items():
        given[id_] = postgres.airflow_connection(sandbox, "postgres-direct", role, postgres.PRODUCTION)
    given["vcci_s3"] = s3.S3().connections(sandbox)["vcci_s3"]
    given["vcci_s3"]["extra"]["endpoint_url"] = f"http://127.0.0.1:{sandbox.port('s3-direct')}"
    given["vcci_redis"] = {**redis.Redis().connections(sandbox)["vcci_redis"], "port": sandbox.port("redis-direct")}
    for id_, connection in given.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    upgrade()


@dataclasses.dataclass
class Run:
    """A run of one of the DAGs, task by task, as its file wires them."""

    params: dict[str, Any]
    dag_id: str = "tenant_delete"
    by: str | None = "ines"
    run_id: str = dataclasses.field(default_factory=lambda: f"manual__{uuid.uuid4().hex[:8]}")
    xcom: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    states: dict[str, str] = dataclasses.field(default_factory=dict)
    start_date: dt.datetime = dataclasses.field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def source(self) -> str:
        return f"{self.dag_id}/{self.run_id}"

    def context(self, operator: Any) -> Any:
        run = SimpleNamespace(
            dag_id=self.dag_id, run_id=self.run_id, triggering_user_name=self.by, start_date=self.start_date
        )
        ti = SimpleNamespace(
            id="ti",
            task_id=operator.task_id,
            dag_id=self.dag_id,
            run_id=self.run_id,
            xcom_push=lambda key, value: self.xcom.__setitem__((operator.task_id, key), json.loads(json.dumps(value))),
            xcom_pull=lambda task_ids, key="return_value": self.xcom.get((task_ids, key)),
            get_task_states=lambda dag_id, run_ids: {self.run_id: self.states},
        )
        return {"dag_run": run, "ti": ti, "params": self.params, "task": operator}

    def do(self, operator: Any) -> Any:
        """Run a task as a worker does."""
        self.states[operator.task_id] = "running"
        try:
            outcome = operator.execute(self.context(operator))
        except AirflowFailException:
            self.states[operator.task_id] = "failed"
            raise
        self.states[operator.task_id] = "success"
        if outcome is not None:
            self.xcom[operator.task_id, "return_value"] = json.loads(json.dumps(outcome))
        return outcome

    # The tasks of tenant_delete

    def plan(self) -> Any:
        return self.do(delete.DeletionPlanOperator(task_id="plan"))

    def lock(self) -> Any:
        return self.do(AcquireChangeLockOperator(task_id="lock", namespace=NAMESPACE, purpose="a test"))

    def unlock(self) -> Any:
        return self.do(ReleaseChangeLockOperator(task_id="unlock", namespace=NAMESPACE))

    def approve(self, by: tuple[str, ...] = ("ada", "bo")) -> None:
        """Approve it, as the approval task would leave it."""
        from vcci_ops.domain.plans import plan_hash

        self.xcom["approve", "approval"] = {
            "approved": True,
            "by": ", ".join(by),
            "votes": list(by),
            "at": "2026-11-25T12:00:00+00:00",
            "plan_hash": plan_hash(self.xcom["plan", "return_value"]),
            "reason": "",
        }

    def suspend(self) -> Any:
        return self.do(delete.SuspendForDeletionOperator(task_id="suspend"))

    def export(self) -> Any:
        return self.do(delete.ExportTenantOperator(task_id="export"))

    def prove(self) -> Any:
        return self.do(delete.ProveExportOperator(task_id="prove_export"))

    def grace(self) -> Any:
        return self.do(delete.GraceOperator(task_id="grace"))

    def report(self) -> Any:
        return self.do(delete.DeletionReportOperator(task_id="report"))

    def up_to_grace(self) -> None:
        """Everything until the days of grace."""
        self.plan()
        self.approve()
        self.lock()
        for step in (self.suspend, self.export, self.prove, self.grace, self.unlock, self.report):
            step()

    # The tasks of tenant_purge_due

    def due(self) -> Any:
        return self.do(purge.DueDeletionsOperator(task_id="due"))

    def purge(self, *deletions: str) -> None:
        """All four tasks for each."""
        for deletion in deletions:
            for step in STEPS:
                self.step(step, deletion)

    def step(self, step: str, deletion: str) -> Any:
        return self.do(STEPS[step](task_id=f"tenant.{step}", deletion=deletion))

    def purge_report(self) -> Any:
        return self.do(purge.PurgeReportOperator(task_id="report"))


STEPS = {
    "take": purge.TakeDueOperator,
    "erase": purge.EraseOperator,
    "prove": purge.ProveErasureOperator,
    "certify": purge.CertifyOperator,
}


@pytest.fixture
def free(box: Box) -> Iterator[None]:
    """Leave the lock free."""
    yield
    state = ChangeLock(NAMESPACE).current()
    if state and state.holder:
        ChangeLock(NAMESPACE).release(state.holder)


pytestmark.append(pytest.mark.usefixtures("free"))


def deletion_of(victim: Victim, **form: Any) -> Run:
    return Run({"slug": victim.slug, **FORM, **form})


def waiting(box: Box) -> tuple[Victim, Run]:
    """A tenant whose grace is over; what it takes to export one, other tests see."""
    from vcci_ops.hooks.tenant_belongings import Belongings

    victim, run = begun(box)
    where, deletion = Belongings(load_settings()), record().get(run.source)
    before = where.baseline(where.catalog.graph(victim.id), deletion)
    record().await_end_of_grace(run.source, {"export": EXPORTED, "baseline": before}, dt.datetime.now(dt.UTC))
    run.unlock()
    return victim, run


EXPORTED = Export(
    bucket="vcci-exports",
    folder="tenants/played/",
    manifest="tenants/played/manifest.json",
    manifest_sha256="f" * 64,
    tables={},
    documents={"count": 6, "bytes": 57},
    plan_hash="e" * 64,
    revision="0005_activity_indexes",
    snapshot_at="2026-11-25T12:00:00+00:00",
    encryption="AES256",
).to_dict()


def record() -> Deletions:
    return Deletions(load_settings().environment)


def purging() -> Run:
    run = Run({"slug": None}, "tenant_purge_due", by=None)
    run.lock()
    return run


# All the way ---------------------------------------------------------------------------------------------


def test_a_tenant_is_gone_everywhere_others_are_as_they_were_and_the_certificate_tells(box: Box) -> None:
    victim = box.victim()
    others, rows = box.others(victim), box.rows(victim)
    assert all(rows.values()), rows
    run = deletion_of(victim)
    run.up_to_grace()
    assert box.rows(victim) == {**rows, "sessions": 0}, "suspended, nothing deleted but sessions"
    assert box.sql("SELECT status FROM tenants WHERE id = %s", victim.id) == [("suspended",)]
    assert box.keys(victim) == 0
    assert "NOT deleted yet" in box.said()
    again = Run({"slug": None}, "tenant_purge_due", by=None)
    assert run.source in again.due()
    again.lock()
    again.purge(run.source)
    again.xcom["due", "return_value"] = [run.source]
    assert again.purge_report() == {victim.slug: "deleted"}
    assert set(box.rows(victim).values()) == {0}
    assert box.objects(victim) == box.keys(victim) == 0
    assert box.others(victim) == others
    stone = next(s for s in Tombstones(load_settings().environment).all() if s.tenant_id == victim.id)
    document = box.s3.get_object(Bucket="vcci-reports", Key=stone.certificate)["Body"].read()
    assert hashlib.sha256(document).hexdigest() == stone.certificate_sha256
    page = box.s3.get_object(Bucket="vcci-reports", Key=stone.certificate.replace(".json", ".html"))["Body"].read()
    for content in (document.decode(), page.decode()):
        for words in (victim.slug, victim.id, "ada", "bo", "end of contract"):
            assert words in content
        assert not re.search(r"Person \d|\.example", content), "nobody of the tenant is named"
    ended = record().get(run.source)
    assert (ended.state, ended.approved_by) == ("deleted", ["ada", "bo"])
    with pytest.raises(AirflowFailException, match=f"tenant {victim.slug} was deleted on .* The certificate: s3://"):
        deletion_of(victim).plan()


# What speaks against it, before anything changes ----------------------------------------------------------------


def refused(run: Run, words: str, task: str = "plan") -> None:
    with pytest.raises(AirflowFailException, match=words):
        getattr(run, task)()


def test_a_dry_run_plans_and_changes_nothing(box: Box) -> None:
    victim = box.victim()
    before = box.rows(victim)
    run = deletion_of(victim, dry_run=True)
    with pytest.raises(DownstreamTasksSkipped):
        run.plan()
    assert box.rows(victim) == before
    assert record().known(run.source) is None
    run.xcom["plan", "return_value"] = {"tenant": {}}
    run.approve()
    refused(run, "this is a dry run", "suspend")


def test_a_plan_names_everything_and_nobody(box: Box) -> None:
    victim = box.victim()
    run = deletion_of(victim)
    plan = run.plan()
    found = {place["table"]: place["rows"] for place in plan["graph"]["places"]}
    assert found == box.rows(victim)
    assert (plan["documents"]["count"], sum(plan["keys"].values())) == (6, 6)
    told = json.dumps(plan)
    assert "Person" not in told
    assert "@" not in told


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"slug": "bystender"}, "there is no tenant bystender; near it: bystander"),
        ({"slug": str(uuid.uuid4())}, "not of the form of an id"),
        ({"slug": "bystander\n"}, "slug: "),
        ({"slug": "x' OR '1'='1"}, "slug: "),
        ({"legal_basis": "none"}, "legal_basis"),
        ({"grace_days": -1}, "grace_days"),
        ({"reason": ""}, "reason"),
        ({"dry_run": "no"}, "dry_run"),
    ],
)
def test_a_form_that_cannot_be_used_is_refused(given: dict[str, Any], words: str) -> None:
    refused(Run({"slug": "bystander", **FORM, **given}), words)


def test_nobody_can_ask_without_a_name(box: Box) -> None:
    refused(Run({"slug": "bystander", **FORM}, by=None), "nobody is known to have asked")


def test_a_legal_hold_refuses(box: Box) -> None:
    victim = box.victim()
    hold(box, victim)
    refused(deletion_of(victim), "a legal hold is on tenant .*: case 7")


def hold(box: Box, victim: Victim) -> None:
    box.sql('UPDATE tenants SET settings = \'{"legal_hold": "case 7"}\' WHERE id = %s', victim.id)


def test_a_tenant_that_is_being_onboarded_is_not_deleted(box: Box) -> None:
    from vcci_ops.hooks.tenant_history import Onboardings

    victim = box.victim()
    Onboardings(load_settings().environment).begin(victim.slug, victim.id, "h", "tenant_onboard/r1", anew=True)
    refused(deletion_of(victim), "is being onboarded by tenant_onboard/r1")


def test_a_row_of_another_tenant_that_refers_to_this_one_refuses_and_is_named(box: Box) -> None:
    victim, other = box.victim(), box.victim()
    (found,) = box.sql(
        "UPDATE documents SET supplier_id = (SELECT min(id::text)::uuid FROM suppliers WHERE tenant_id = %s) "
        "WHERE tenant_id = %s RETURNING id",
        victim.id,
        other.id,
    )
    refused(deletion_of(victim), f"refer to it.*public.documents.*id={found[0]}")


def test_a_tenant_is_deleted_once_at_a_time(box: Box) -> None:
    victim, run = waiting(box)
    refused(deletion_of(victim), r"the deletion of gone-\w+ \(grace, due .*\), asked for by ines is under way already")
    assert run.plan() == run.xcom["plan", "return_value"], "its own run keeps its plan"


def test_nothing_acts_unapproved_or_without_the_lock(box: Box) -> None:
    victim = box.victim()
    run = deletion_of(victim)
    run.plan()
    refused(run, "was not approved", "suspend")
    run.approve()
    refused(run, "does not hold the change lock", "suspend")
    run.lock()
    run.xcom["plan", "return_value"]["tenant"]["name"] = "another"
    refused(run, "not the one that was approved", "suspend")
    assert box.sql("SELECT status FROM tenants WHERE id = %s", victim.id) == [("active",)]


# The approval -------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the approval shows in Airflow's form."""
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("airflow.sdk.execution_time.hitl.upsert_hitl_detail", lambda **given: shown.append(given))
    return shown


def test_two_people_who_type_the_slug_approve(
    box: Box, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    victim = box.victim()
    run = deletion_of(victim)
    run.plan()
    operator = delete.DeletionApprovalOperator(
        task_id="approve", plan_task_id="plan", own_approval=False, within=600, approvers=2
    )
    with pytest.raises(TaskAwaitingInput) as wait:
        operator.execute(run.context(operator))
    state = wait.value.kwargs["state"]
    for who, given in (
        ("ines", {"slug": victim.slug}),  # asked for it
        ("ada", {"slug": "nonsense"}),
        ("ada", {}),
        ("ada", {"slug": ["x"]}),
        ("ada", {"slug": victim.slug, "more": 1}),
        ("ada", {"slug": victim.slug, "comment": "fine"}),
        ("ada", {"slug": victim.slug}),  # the same person again
        ("bo", {"slug": None}),
    ):
        with pytest.raises(TaskAwaitingInput) as wait:
            answer(run, operator, state, who, given)
        state = wait.value.kwargs["state"]
    answer(run, operator, state, "bo", {"slug": f" {victim.slug} "})
    approval = run.xcom["approve", "approval"]
    assert (approval["approved"], approval["votes"]) == (True, ["ada", "bo"])
    assert set(asked[0]["params"]) == {"slug", "comment"}
    assert f"Delete Gone {victim.slug}" in asked[0]["subject"]
    assert "| `public.emissions` | 100 |" in asked[0]["body"]
    out = capsys.readouterr().out
    for words in (
        "ines asked for it and may not approve it",
        f"ada did not type the slug {victim.slug} of the tenant: this approval does not count",
        "approved by ada; 1 more needed",
        "ada has approved already",
        "bo did not type the slug",
    ):
        assert words in out
    assert "nonsense" not in out + box.said(), "what was typed instead is not repeated"


def answer(run: Run, operator: Any, state: dict[str, Any], who: str, given: dict[str, Any]) -> Any:
    event = {"chosen_options": ["Approve"], "params_input": given, "responded_by_user": {"id": who, "name": who}}
    return operator.execute_complete(run.context(operator), event, state=state)


# Up to the grace -----------------------------------------------------------------------------------------


def begun(box: Box) -> tuple[Victim, Run]:
    """A tenant that is suspended and about to be exported."""
    victim = box.victim()
    run = deletion_of(victim)
    run.plan()
    run.approve()
    run.lock()
    run.suspend()
    return victim, run


def stopped(run: Run, words: str) -> None:
    found = record().get(run.source)
    assert (found.state, found.begun) == ("stopped", False)
    assert words in found.detail["why"]


def test_every_task_up_to_the_grace_may_be_repeated(box: Box) -> None:
    victim = box.victim()
    run = deletion_of(victim)
    run.plan()
    run.approve()
    for step in (run.lock, run.suspend, run.export, run.prove, run.grace, run.unlock, run.report):
        step()
        if step is not run.unlock:
            again = step()
    assert again == "grace"
    due = record().get(run.source).due_at
    run.lock()
    run.suspend()
    assert run.grace() == str(due), "the days count from the first time"
    assert set(box.rows(victim)) >= {"users"}


def test_a_bucket_that_refuses_stops_it_and_nothing_is_deleted(
    box: Box, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    victim, run = begun(box)
    text = (settings_file()).read_text().replace("export_bucket: vcci-exports", "export_bucket: no-such-bucket")
    (tmp_path / "sandbox.yaml").write_text(text)
    with monkeypatch.context() as patch:
        patch.setenv("VCCI_OPS_SETTINGS", str(tmp_path / "sandbox.yaml"))
        refused(run, "no-such-bucket", "export")
    stopped(run, "no-such-bucket")
    assert record().due(dt.datetime.now(dt.UTC), victim.slug) == []
    run.unlock()
    refused(run, "tenant_delete again", "report")
    assert f"the deletion of tenant {victim.slug} stopped before anything was deleted" in box.said("mail")
    # Cleared from the lock on, the same run comes to its end.
    for step in (run.lock, run.suspend, run.export, run.prove, run.grace, run.unlock, run.report):
        step()
    assert record().get(run.source).state == "grace"


def settings_file() -> Any:
    from vcci_ops.settings import INCLUDE

    return INCLUDE / "settings" / "sandbox.yaml"


def test_a_corrupted_export_is_not_proven_and_nothing_is_deleted(box: Box) -> None:
    victim, run = begun(box)
    exported = run.export()["export"]
    listed = box.s3.list_objects_v2(Bucket="vcci-exports", Prefix=exported["folder"])["Contents"]
    key = next(found["Key"] for found in listed if "public.emissions" in found["Key"])
    box.s3.put_object(Bucket="vcci-exports", Key=key, Body=b"\x00" * 100)
    refused(run, "the export is not proven: .*emissions", "prove")
    stopped(run, "emissions")
    run.unlock()
    assert box.rows(victim)["emissions"] == 100


def test_a_platform_that_still_writes_during_the_export_stops_it(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    from vcci_ops.hooks.tenant_belongings import Belongings

    victim, run = begun(box)
    counted = Belongings.baseline

    def busy(self: Belongings, graph: Any, deletion: Any) -> Any:
        found = counted(self, graph, deletion)
        write(box, victim)
        return found

    monkeypatch.setattr(Belongings, "baseline", busy)
    run.export()
    refused(run, "usage_events: 7 rows counted, 8 rows exported", "prove")
    stopped(run, "usage_events")


def write(box: Box, victim: Victim) -> None:
    """What a service does that knows tenants by id only."""
    box.sql("INSERT INTO usage_events (tenant_id, kind, quantity) VALUES (%s, 'api', 1)", victim.id)


# When the grace is over: everything is looked at again ----------------------------------------------------


def test_a_new_plan_takes_the_place_of_what_stopped(box: Box) -> None:
    victim, run = waiting(box)
    write(box, victim)
    with pytest.raises(AirflowFailException):
        purging().step("take", run.source)
    purging_ended()
    again = deletion_of(victim)
    assert "this takes the place of the deletion of" in again.plan()["warnings"][0]
    again.approve()
    for step in (again.lock, again.suspend, again.export, again.prove, again.grace, again.unlock, again.report):
        step()
    assert record().get(run.source).state == "cancelled"
    purging().purge(again.source)
    assert set(box.rows(victim).values()) == {0}


def purging_ended() -> None:
    state = ChangeLock(NAMESPACE).current()
    assert state
    ChangeLock(NAMESPACE).release(state.holder)


def changed_row(box: Box, victim: Victim) -> None:
    box.sql("UPDATE users SET name = 'Another' WHERE tenant_id = %s", victim.id)


def row_less(box: Box, victim: Victim) -> None:
    box.sql("DELETE FROM usage_events WHERE id = (SELECT max(id) FROM usage_events WHERE tenant_id = %s)", victim.id)


def another_document(box: Box, victim: Victim) -> None:
    box.s3.put_object(Bucket="vcci-documents", Key=f"{victim.prefix}new.pdf", Body=b"new")


def active(box: Box, victim: Victim) -> None:
    box.sql("UPDATE tenants SET status = 'active' WHERE id = %s", victim.id)


def another_tenant(box: Box, victim: Victim) -> None:
    box.sql("UPDATE tenants SET slug = slug || '-old' WHERE id = %s", victim.id)


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        pytest.param(write, "public.usage_events: 7 rows exported, 8 rows now", id="a row more"),
        pytest.param(row_less, "public.usage_events: 7 rows exported, 6 rows now", id="a row less"),
        pytest.param(changed_row, "public.users: rows were changed since the export", id="a row changed"),
        pytest.param(another_document, "documents: 6 (57 B) exported, 7 (60 B) now", id="a document"),
        pytest.param(hold, "a legal hold is on tenant", id="a hold"),
        pytest.param(active, "is active, not suspended", id="active"),
        pytest.param(another_tenant, "it is gone", id="renamed"),
    ],
)
def test_whatever_moved_in_the_grace_stops_it_before_the_first_row_and_calls_a_person(
    box: Box, happens: Any, words: str
) -> None:
    victim, run = waiting(box)
    happens(box, victim)
    before = box.rows(victim)
    again = purging()
    with pytest.raises(AirflowFailException, match=re.escape(words)):
        again.step("take", run.source)
    stopped(run, words)
    for step in ("erase", "prove", "certify"):
        with pytest.raises(AirflowFailException, match="is not being deleted; nothing was deleted by this task"):
            again.step(step, run.source)
    assert box.rows(victim) == before
    assert f"the deletion of tenant {victim.slug} stopped before anything was deleted" in box.said("mail")
    assert record().due(dt.datetime.now(dt.UTC), victim.slug) == []


def test_a_tenant_that_comes_back_in_its_grace_stays_whole(box: Box) -> None:
    from vcci_ops.hooks.tenant_admin import TenantAdmin

    victim, run = waiting(box)
    before = box.rows(victim)
    again = purging()
    assert record().cancel(victim.id, "ines", "they pay again")
    TenantAdmin().reactivate(victim.id)
    with pytest.raises(AirflowFailException, match="is not to be deleted now; nothing was deleted"):
        again.step("take", run.source)
    assert box.rows(victim) == before
    assert record().get(run.source).state == "cancelled"
    assert deletion_of(victim).plan(), "it may be asked for again"


def test_nothing_is_deleted_without_the_lock(box: Box) -> None:
    victim, run = waiting(box)
    for step in STEPS:
        with pytest.raises(AirflowFailException, match="does not hold the change lock"):
            Run({}, "tenant_purge_due").step(step, run.source)
    assert record().get(run.source).state == "grace"
    assert box.rows(victim)["users"] == 3


def test_nothing_due_is_nothing_done(box: Box) -> None:
    run = Run({"slug": None}, "tenant_purge_due")
    for deletion in record().due(dt.datetime.now(dt.UTC)):
        record().stop(deletion.id, "of another test")
    with pytest.raises(DownstreamTasksSkipped):
        run.due()
    with pytest.raises(AirflowSkipException):
        run.purge_report()
    with pytest.raises(AirflowFailException, match="nothing of bystander is due: nobody asked to delete it"):
        Run({"slug": "bystander"}, "tenant_purge_due").due()


def test_a_tenant_whose_days_are_not_over_waits(box: Box) -> None:
    victim = box.victim()
    run = deletion_of(victim, grace_days=30)
    run.up_to_grace()
    with pytest.raises(
        AirflowFailException, match=r"nothing of gone-\w+ is due: the deletion of gone-\w+ \(grace, due"
    ):
        Run({"slug": victim.slug}, "tenant_purge_due").due()
    with pytest.raises(AirflowFailException, match="is not to be deleted now"):
        purging().step("take", run.source)
    assert record().get(run.source).state == "grace"


# Deleting ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The worker is gone."""


def test_killed_in_every_task_and_cleared_it_ends_as_undisturbed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    from vcci_ops.hooks import tenant_belongings

    victim, run = waiting(box)
    others, again = box.others(victim), purging()
    again.step("take", run.source)
    batches: list[Any] = []

    def dies(self: Any, batch: Any) -> None:
        batches.append(batch)
        if len(batches) in (1, 4):
            raise Killed

    monkeypatch.setattr(tenant_belongings._Progress, "__call__", dies)
    for _ in range(2):
        with pytest.raises(Killed):
            again.step("erase", run.source)
        left = box.rows(victim)
        assert left["tenants"] == 1
        assert any(left.values())
        again.step("take", run.source)
    refused_cancel(victim)
    for step in ("erase", "erase", "prove", "prove", "certify", "certify", "take", "erase", "prove"):
        again.step(step, run.source)
    assert set(box.rows(victim).values()) == {0}
    assert box.objects(victim) == 0
    assert box.others(victim) == others
    assert record().get(run.source).state == "deleted"
    certificates = box.s3.list_objects_v2(Bucket="vcci-reports", Prefix="")["Contents"]
    assert sum(run.run_id in found["Key"] and "certificate" in found["Key"] for found in certificates) == 2


def test_a_hold_stops_a_deletion_that_is_half_done(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    from vcci_ops.hooks import tenant_belongings

    victim, run = waiting(box)
    again = purging()
    again.step("take", run.source)

    def dies(self: Any, batch: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tenant_belongings._Progress, "__call__", dies)
        with pytest.raises(Killed):
            again.step("erase", run.source)
    hold(box, victim)
    with pytest.raises(AirflowFailException, match=r"a legal hold is on tenant .*: case 7"):
        again.step("erase", run.source)
    found, left = record().get(run.source), box.rows(victim)
    assert (found.state, found.begun) == ("stopped", True)
    assert "stopped half-way, rows are gone" in box.said("mail")
    purging_ended()
    by_hand = Run({"slug": victim.slug}, "tenant_purge_due")
    by_hand.lock()
    with pytest.raises(AirflowFailException, match="a legal hold is on tenant"):
        by_hand.step("take", run.source)
    assert box.rows(victim) == left
    box.sql("UPDATE tenants SET settings = '{}' WHERE id = %s", victim.id)
    by_hand.purge(run.source)
    assert set(box.rows(victim).values()) == {0}


def test_half_a_document_that_is_still_being_uploaded_is_left_over(box: Box) -> None:
    victim, run = waiting(box)
    again = purging()
    for step in ("take", "erase"):
        again.step(step, run.source)
    upload = {"Bucket": "vcci-documents", "Key": f"{victim.prefix}late.pdf"}
    half = box.s3.create_multipart_upload(**upload)["UploadId"]
    with pytest.raises(AirflowFailException, match=r"still there after the deletion: 1 versions of documents"):
        again.step("prove", run.source)
    box.s3.abort_multipart_upload(**upload, UploadId=half)


def refused_cancel(victim: Victim) -> None:
    from vcci_ops.exceptions import Refused

    with pytest.raises(Refused, match="what is deleted does not come back by itself"):
        record().cancel(victim.id, "ines", "too late")


def test_what_comes_in_after_the_deletion_is_found_and_a_person_sends_it_on(box: Box) -> None:
    victim, run = waiting(box)
    again = purging()
    again.step("take", run.source)
    again.step("erase", run.source)
    write(box, victim)
    with pytest.raises(AirflowFailException, match=r"still there after the deletion: 1 row in public\.usage_events"):
        again.step("prove", run.source)
    found = record().get(run.source)
    assert (found.state, found.begun) == ("stopped", True)
    assert "stopped half-way, rows are gone" in box.said("mail")
    assert run.source not in [one.id for one in record().due(dt.datetime.now(dt.UTC))], "not by itself"
    by_hand = Run({"slug": victim.slug}, "tenant_purge_due")
    assert by_hand.due() == [run.source]
    purging_ended()
    by_hand.lock()
    by_hand.purge(run.source)
    assert by_hand.purge_report() == {victim.slug: "deleted"}
    assert set(box.rows(victim).values()) == {0}


def test_one_tenant_that_fails_keeps_none_of_the_others(box: Box) -> None:
    (bad, failing), (good, fine) = waiting(box), waiting(box)
    write(box, bad)
    again = purging()
    again.xcom["due", "return_value"] = [failing.source, fine.source]
    with pytest.raises(AirflowFailException):
        again.purge(failing.source)
    again.purge(fine.source)
    with pytest.raises(AirflowFailException, match=f"{bad.slug}: stopped not as it was exported") as verdict:
        again.purge_report()
    assert good.slug not in str(verdict.value)
    assert "1 of 2 due tenants deleted" in box.said()
    assert box.rows(bad)["users"] == 3
    assert set(box.rows(good).values()) == {0}


def test_a_tenant_that_a_restore_brought_back_is_deleted_again(box: Box) -> None:
    victim, run = waiting(box)
    purging().purge(run.source)
    purging_ended()
    with box.admin() as connection:
        connection.execute(
            "INSERT INTO tenants (id, name, slug, subscription_tier) VALUES (%s, 'Back', %s, 'starter')",
            (victim.id, victim.slug),
        )
    again = deletion_of(victim)
    assert "this tenant was deleted before and is back, as after a restore of an old backup" in again.plan()["warnings"]
    again.approve()
    for step in (again.lock, again.suspend, again.export, again.prove, again.grace, again.unlock, again.report):
        step()
    purging().purge(again.source)
    assert set(box.rows(victim).values()) == {0}
    first, second = (record().get(one.source).detail["certificate"]["key"] for one in (run, again))
    assert first != second
