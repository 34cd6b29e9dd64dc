"""Scaling and restarting on the played and the real API, with the shipped rights, a real database and history."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped, TaskDeferred

from sandbox.service import Sandbox, wait_until
from sandbox.services import postgres
from sandbox.services.messages import Messages
from tests.integration.kube_fixtures import Plane, connect, furnished, played_plane, real_plane, until
from vcci_ops.domain.scaling import HOLD
from vcci_ops.hooks.history import History, upgrade
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.hooks.scaling import Scaler
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.restart import RestartOperator, RestartPlanOperator, RestartReportOperator
from vcci_ops.operators.scaling import (
    HoldOperator,
    ScaleApplyOperator,
    ScalePlanOperator,
    ScalePutBackOperator,
    ScaleReadyOperator,
    ScaleReportOperator,
)

pytestmark = [pytest.mark.kube, pytest.mark.integration]
SOON = "2999-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The platform's database, the history and Slack."""
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    production, history = postgres.Production(), postgres.Airflow()
    services = [production, history, Messages()]
    with ExitStack() as stack:
        for service in services:
            service.start(sandbox)
            stack.callback(service.stop, sandbox)
            wait_until(service.name, lambda s=service: s.ready(sandbox), seconds=60)
        history.prepare(sandbox)
        with postgres.admin(sandbox, production) as connection:
            for role in ("vcci_app", "vcci_ops"):
                postgres.create_role(connection, role, sandbox.secret(f"postgres-{role}"))
            connection.execute("GRANT pg_read_all_stats TO vcci_ops")
        yield sandbox


@pytest.fixture(scope="module", params=["played", "real"])
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) if request.param == "played" else real_plane() as admin:
        with furnished(request.param, admin, folder, changes=True) as made:
            for name in ("backend-api", "worker"):
                made.deploy(name, replicas=2)
            made.wait_ready("backend-api", "worker")
            yield made


@pytest.fixture(scope="module")
def config(plane: Plane) -> dict[str, Any]:
    return plane.checks_config


@pytest.fixture(autouse=True)
def connections(box: Sandbox, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, config)
    given = {**postgres.Airflow().connections(box), **Messages().connections(box)}
    given["vcci_postgres"] = postgres.airflow_connection(box, "postgres-direct", "vcci_ops", "postgres")
    for id_, connection in given.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    upgrade()


@pytest.fixture
def fresh(plane: Plane) -> Iterator[Plane]:
    """Two workloads of two replicas, no autoscaler, nobody's note on them, nobody's lock."""
    yield plane
    found = json.loads(plane.kubectl("get", "deployments,hpa,leases", "-n", plane.namespace, "-o", "json"))["items"]
    moved = []
    for item in found:
        name, spec = item["metadata"]["name"], item["spec"]
        if item["kind"] != "Deployment":
            plane.kubectl("delete", item["kind"].lower(), name, "-n", plane.namespace, "--wait=false")
        elif spec["replicas"] != 2 or HOLD in item["metadata"].get("annotations", {}):
            patch = {"metadata": {"annotations": {HOLD: None}}, "spec": {"replicas": 2}}
            plane.kubectl("patch", f"deployment/{name}", "-n", plane.namespace, "-p", json.dumps(patch))
            moved.append(name)
    plane.wait_ready(*moved)


class Ti:
    """Stands for the task instance of one task of a run."""

    map_index = -1

    def __init__(self, run: Run, task_id: str) -> None:
        self.run, self.task_id = run, task_id

    def xcom_push(self, key: str, value: Any) -> None:
        self.run.xcom[self.task_id, key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.run.xcom.get((task_ids, key))


@dataclasses.dataclass
class Run:
    """A run of one of the two DAGs, task by task, as its file wires them."""

    plane: Plane
    params: dict[str, Any]
    dag_id: str = "scale_workloads"
    run_id: str = dataclasses.field(default_factory=lambda: f"manual__{uuid.uuid4().hex[:8]}")
    xcom: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    run_after: dt.datetime = dataclasses.field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def source(self) -> str:
        return f"{self.dag_id}/{self.run_id}"

    def do(self, kind: type[Any], task_id: str = "", **more: Any) -> Any:
        """Run a task as a worker and the triggerer do, deferred parts included."""
        operator = kind(task_id=task_id or kind.__name__, **{"namespace": self.plane.namespace, **more})
        dag_run = SimpleNamespace(
            dag_id=self.dag_id, run_id=self.run_id, triggering_user_name="ada", run_after=self.run_after
        )
        context: Any = {"dag_run": dag_run, "ti": Ti(self, operator.task_id), "params": self.params, "task": operator}
        try:
            outcome = operator.execute(context)
        except TaskDeferred as deferred:
            outcome = self.resume(operator, context, deferred)
        except DownstreamTasksSkipped:
            return "skipped the rest"
        self.xcom[operator.task_id, "return_value"] = outcome
        return outcome

    def resume(self, operator: Any, context: Any, deferred: TaskDeferred) -> Any:
        path, kwargs = deferred.trigger.serialize()
        again = type(deferred.trigger)(**json.loads(json.dumps(kwargs)))
        assert path.rpartition(".")[2] == type(again).__name__

        async def first() -> Any:
            async for event in again.run():
                return event.payload
            return None

        event = asyncio.run(asyncio.wait_for(first(), 60))
        return getattr(operator, deferred.method_name)(context, event=event, **(deferred.kwargs or {}))

    # The steps of scale_workloads

    def plan(self) -> Any:
        return self.do(ScalePlanOperator, "plan")

    def lock(self) -> Any:
        return self.do(AcquireChangeLockOperator, "lock", purpose="a test")

    def apply(self) -> Any:
        return self.do(ScaleApplyOperator, "apply")

    def ready(self, **more: Any) -> Any:
        return self.do(ScaleReadyOperator, "ready", poll=0.2, **more)

    def unlock(self) -> Any:
        return self.do(ReleaseChangeLockOperator, "unlock")

    def report(self, **more: Any) -> Any:
        return self.do(ScaleReportOperator, "report", channel="#vcci-ops", **more)

    def scale(self) -> Any:
        for step in (self.plan, self.lock, self.apply, self.ready, self.unlock):
            step()
        return self.report()

    def put_back(self) -> Any:
        self.lock()
        outcome = self.do(ScalePutBackOperator, "put_back.apply")
        self.unlock()
        return outcome


@pytest.fixture
def run(fresh: Plane) -> Callable[..., Run]:
    """Make a run: custom numbers by workload, or a profile."""

    def made(profile: str = "custom", *, backend_api: Any = None, worker: Any = None, **params: Any) -> Run:
        form = {"profile": profile, "until": None, "reason": "a test of it", "if_locked": "refuse", "dry_run": False}
        numbers = {"replicas_backend_api": backend_api, "replicas_worker": worker}
        return Run(fresh, {**form, **numbers, **params})

    return made


def size(plane: Plane, name: str) -> int:
    return int(plane.kubectl("get", f"deployment/{name}", "-n", plane.namespace, "-o", "jsonpath={.spec.replicas}"))


def bounds(plane: Plane, name: str) -> str:
    return plane.kubectl(
        "get", f"hpa/{name}", "-n", plane.namespace, "-o", "jsonpath={.spec.minReplicas} {.spec.maxReplicas}"
    )


def hold(plane: Plane, name: str) -> str:
    path = HOLD.replace("/", "\\/")
    found = plane.kubectl("get", name, "-n", plane.namespace, "-o", f"jsonpath={{.metadata.annotations.{path}}}")
    return found.strip()


def autoscaler(plane: Plane, name: str, least: int, most: int) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    spec = {"scaleTargetRef": target, "minReplicas": least, "maxReplicas": most, "targetCPUUtilizationPercentage": 75}
    meta = {"name": f"{name}", "namespace": plane.namespace}
    plane.apply({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": meta, "spec": spec})


def changes(run: Run) -> list[tuple[str, str, str]]:
    with History().connect() as connection:
        query = "SELECT kind, actor, summary FROM change_event WHERE source = %s ORDER BY id"
        return [tuple(row) for row in connection.execute(query, (run.source,)).fetchall()]


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


# Scaling without an autoscaler -------------------------------------------------------------------------------


def test_scaling_shows_before_and_after_and_is_recorded(
    run: Callable[..., Run], fresh: Plane, box: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(backend_api=4, worker=3, reason="the <!channel> & deadline")
    rows = made.scale()
    assert rows[1:] == [["backend-api", "2", "4", "4", "4"], ["worker", "2", "3", "3", "3"]]
    assert (size(fresh, "backend-api"), size(fresh, "worker")) == (4, 3)
    assert "backend-api 4 x 3 + worker 3 x 2 = 18 <= 87 = max_connections 100 - 3 of PostgreSQL" in logged(capsys)
    assert changes(made) == [("scale", "ada", "custom: backend-api: 2 → 4; worker: 2 → 3")]
    assert ChangeLock(fresh.namespace).current().holder == ""
    sent = requests.get(f"http://127.0.0.1:{box.port('inbox')}/api/slack", timeout=5).text
    assert "deadline" in sent
    assert "<!channel>" not in sent


def test_what_is_so_already_is_left_alone_and_said(
    run: Callable[..., Run], fresh: Plane, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(backend_api=2, worker=2)
    assert made.plan() == "skipped the rest"
    assert "Nothing to do: all is as custom wants it" in logged(capsys)
    with pytest.raises(AirflowSkipException):
        made.report()
    assert changes(made) == []


def test_a_dry_run_shows_the_plan_and_changes_nothing(
    run: Callable[..., Run], fresh: Plane, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run("reporting-deadline", dry_run=True)
    assert made.plan() == "skipped the rest"
    assert "backend-api: 2 → 10" in logged(capsys)
    with pytest.raises(AirflowSkipException):
        made.report()
    with pytest.raises(AirflowSkipException):
        made.do(HoldOperator, "until")
    assert size(fresh, "backend-api") == 2


def test_hostile_parameters_are_refused_by_name_and_nothing_changes(run: Callable[..., Run], fresh: Plane) -> None:
    for field, params in (
        ("replicas_worker", {"worker": -1}),
        ("replicas_worker", {"worker": 10**9}),
        ("replicas_worker", {"worker": "3; rm -rf /"}),
        ("replicas_worker", {"worker": "٣"}),
        ("until", {"worker": 3, "until": "2026-11-25T12:00:00"}),
        ("until", {"worker": 3, "until": "2020-01-01T00:00:00Z"}),
        ("until", {"worker": 3, "until": SOON}),
    ):
        with pytest.raises(AirflowFailException, match=f"^{field}: "):
            run(**params).plan()
    made = run(worker=-1)
    made.lock()
    with pytest.raises(AirflowFailException, match="left nothing"):
        made.apply()
    with pytest.raises(AirflowFailException, match="there is no plan, nothing was changed"):
        made.report()
    assert size(fresh, "worker") == 2


def test_a_deployment_that_is_missing_is_named(run: Callable[..., Run], plane: Plane) -> None:
    with pytest.raises(AirflowFailException, match="there is no Deployment beat in namespace"):
        run(replicas_beat=1).plan()


def test_a_rollout_under_way_is_in_the_way(run: Callable[..., Run], fresh: Plane) -> None:
    fresh.deploy("backend-api", "bad", replicas=2)
    try:
        until("it rolls out", lambda: len(fresh.pods("backend-api")) == 3)
        with pytest.raises(AirflowFailException, match="backend-api: a rollout is under way"):
            run(backend_api=4).plan()
        assert size(fresh, "backend-api") == 2
    finally:
        fresh.deploy("backend-api", "v2", replicas=2)
        fresh.wait_ready("backend-api")


def test_nothing_is_changed_without_the_lock(run: Callable[..., Run], fresh: Plane) -> None:
    made = run(worker=3)
    made.plan()
    with pytest.raises(AirflowFailException, match="lock"):
        made.apply()
    with pytest.raises(AirflowFailException, match="nothing was changed: see the tasks before"):
        made.report()
    assert size(fresh, "worker") == 2


def test_what_somebody_changed_after_the_plan_is_not_overwritten(run: Callable[..., Run], fresh: Plane) -> None:
    made = run(backend_api=3, worker=3)
    made.plan()
    fresh.kubectl("scale", "deployment/worker", "--replicas=1", "-n", fresh.namespace)
    made.lock()
    with pytest.raises(AirflowFailException) as refused:
        made.apply()
    assert "worker: somebody else made it 1; the plan began at 2" in str(refused.value)
    assert "Changed before that, and not undone: backend-api: 2 → 3" in str(refused.value)
    assert size(fresh, "worker") == 1


def test_pods_that_do_not_come_in_time_are_named(run: Callable[..., Run], fresh: Plane) -> None:
    made = run(worker=3)
    made.plan()
    made.lock()
    made.apply()
    with pytest.raises(AirflowFailException, match="not as it shall be: worker: "):
        made.ready(within=0.001)
    made.ready()
    made.report()


# The database ----------------------------------------------------------------------------------------------


def test_too_many_connections_are_refused_with_the_numbers_and_what_would_fit(
    run: Callable[..., Run], fresh: Plane, box: Sandbox
) -> None:
    with ExitStack() as others:
        for _ in range(6):
            others.enter_context(postgres.admin(box, postgres.Production()))
        with pytest.raises(AirflowFailException) as refused:
            run(backend_api=15, worker=25).plan()
        assert "backend-api 15 x 3 + worker 25 x 2 = 95 > 81 = max_connections 100 - 3 of PostgreSQL" in str(
            refused.value
        )
        assert "- 6 of other clients" in str(refused.value)
        assert "backend-api up to 10; or worker up to 18" in str(refused.value)
        run(backend_api=10, worker=18).plan()
    assert size(fresh, "backend-api") == 2


def test_sessions_of_the_platform_beyond_its_pools_count_too(run: Callable[..., Run], box: Sandbox) -> None:
    with ExitStack() as ours:
        for _ in range(24):
            given = postgres.parameters(box, "postgres-direct", "vcci_app", "postgres")
            ours.enter_context(psycopg.connect(**given))
        # 2 x 3 + 2 x 2 are what four pods may hold.
        with pytest.raises(AirflowFailException, match="- 14 sessions beyond the pools"):
            run(backend_api=11, worker=22).plan()


def test_a_database_that_does_not_answer_stops_scaling_up_and_not_down(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "login": "a", "password": "b", "schema": "c"}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_POSTGRES", json.dumps(nowhere))
    with pytest.raises(Exception, match="PostgreSQL did not answer"):
        run(worker=3).plan()
    run(worker=1).plan()
    assert "connections were not reckoned" in logged(capsys)


# Autoscalers -----------------------------------------------------------------------------------------------


def test_an_autoscaler_is_moved_not_fought_and_put_back(run: Callable[..., Run], fresh: Plane) -> None:
    autoscaler(fresh, "worker", 2, 3)
    soon = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()
    made = run(worker=4, until=soon)
    assert made.scale()[1][:3] == ["worker", "2 to 3 (autoscaler)", "4 to 20 (autoscaler)"]
    assert bounds(fresh, "worker") == "4 20"
    assert size(fresh, "worker") == 4
    assert made.source in hold(fresh, "hpa/worker")
    assert "75" in fresh.kubectl("get", "hpa/worker", "-n", fresh.namespace, "-o", "yaml")
    assert made.put_back() == {"worker": "put back"}
    assert bounds(fresh, "worker") == "2 3"
    assert hold(fresh, "hpa/worker") == ""
    if fresh.name == "played":  # the real controller takes 15 s to look
        made.ready(put_back_task_id="put_back.apply")
        made.report(put_back_task_id="put_back.apply")


def test_several_autoscalers_at_one_workload_are_refused(run: Callable[..., Run], fresh: Plane) -> None:
    autoscaler(fresh, "worker", 2, 3)
    found = json.loads(fresh.kubectl("get", "hpa.v1.autoscaling/worker", "-n", fresh.namespace, "-o", "json"))
    meta = {"name": "second", "namespace": fresh.namespace}
    fresh.apply({k: found[k] for k in ("apiVersion", "kind", "spec")} | {"metadata": meta})
    with pytest.raises(AirflowFailException, match=r"several autoscalers are at worker \(second, worker\)"):
        run(worker=3).plan()


def test_the_best_version_of_the_autoscaling_api_is_found(plane: Plane) -> None:
    version = Scaler().autoscaling[1]
    assert version == ("v2" if plane.name == "played" else "v2beta2") or version == "v2"


# An end time -----------------------------------------------------------------------------------------------


def timed(run: Callable[..., Run], **numbers: int) -> Run:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    made = run(until=soon.isoformat(), **numbers)
    made.scale()
    return made


def test_an_end_time_puts_back_what_was_there(run: Callable[..., Run], fresh: Plane) -> None:
    made = timed(run, backend_api=3, worker=4)
    assert made.source in hold(fresh, "deployment/worker")
    operator = HoldOperator(task_id="until", namespace=fresh.namespace)
    run_ = SimpleNamespace(dag_id=made.dag_id, run_id=made.run_id, triggering_user_name="ada")
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({"dag_run": run_, "params": made.params})  # type: ignore[typeddict-item]
    assert deferred.value.trigger.moment.isoformat()[:16] == made.params["until"][:16]
    assert made.put_back() == {"backend-api": "put back", "worker": "put back"}
    made.ready(put_back_task_id="put_back.apply")
    rows = made.report(put_back_task_id="put_back.apply")
    assert rows[1:] == [["backend-api", "3", "2", "2", "2"], ["worker", "4", "2", "2", "2"]]
    assert hold(fresh, "deployment/worker") == ""
    assert [summary for _, _, summary in changes(made)][1] == "put back after custom: backend-api: 3 → 2; worker: 4 → 2"


def test_what_somebody_changed_meanwhile_is_left_alone_and_said_loudly(run: Callable[..., Run], fresh: Plane) -> None:
    made = timed(run, backend_api=3, worker=4)
    fresh.kubectl("scale", "deployment/worker", "--replicas=1", "-n", fresh.namespace)
    fresh.wait_ready("worker")
    outcome = made.put_back()
    assert outcome["backend-api"] == "put back"
    assert "left alone: worker: somebody else made it 1" in outcome["worker"]
    made.ready(put_back_task_id="put_back.apply")
    with pytest.raises(AirflowFailException, match="left alone: worker: somebody else made it 1"):
        made.report(put_back_task_id="put_back.apply")
    assert (size(fresh, "backend-api"), size(fresh, "worker")) == (2, 1)


def test_a_second_end_time_is_refused_and_a_change_without_one_ends_the_first(
    run: Callable[..., Run], fresh: Plane
) -> None:
    first = timed(run, worker=4)
    soon = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)).isoformat()
    with pytest.raises(AirflowFailException, match=f"by {first.source}; a second end time"):
        run(worker=3, until=soon).plan()
    run(worker=3).scale()
    assert hold(fresh, "deployment/worker") == ""
    assert "left alone" in first.put_back()["worker"]
    assert size(fresh, "worker") == 3


# Killed ----------------------------------------------------------------------------------------------------


def test_a_run_killed_between_two_workloads_goes_on_and_puts_back_the_right_thing(
    run: Callable[..., Run], fresh: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    made = run(backend_api=3, worker=4, until=soon.isoformat())
    made.plan()
    made.lock()
    resize = Scaler.resize

    def killed(self: Scaler, namespace: str, standing: Any, *more: Any) -> None:
        if standing.name == "worker":
            raise SystemExit(137)
        resize(self, namespace, standing, *more)

    with monkeypatch.context() as patched:
        patched.setattr(Scaler, "resize", killed)
        with pytest.raises(SystemExit):
            made.apply()
    assert (size(fresh, "backend-api"), size(fresh, "worker")) == (3, 2)
    made.xcom.clear()  # the whole run is cleared: it must not take what it changed for what was there before
    made.scale()
    assert (size(fresh, "backend-api"), size(fresh, "worker")) == (3, 4)
    assert len(changes(made)) == 1
    made.apply() if made.lock() else None
    made.put_back()
    made.put_back()
    assert (size(fresh, "backend-api"), size(fresh, "worker")) == (2, 2)
    made.lock()
    with pytest.raises(AirflowFailException, match="this run has put back what was there before"):
        made.apply()
    assert len(changes(made)) == 2


# Restarting ------------------------------------------------------------------------------------------------


def restart(plane: Plane, *workloads: str, **params: Any) -> Run:
    form = {"reason": "a test of it", "allow_downtime": False, "if_locked": "refuse", "dry_run": False}
    return Run(plane, {**form, "workloads": list(workloads), **params}, dag_id="restart_workloads")


def go(made: Run, name: str, within: float = 40) -> Any:
    return made.do(RestartOperator, f"restart.{name}", workload=name, within=within, poll=0.2, patience=1.0)


def plan_restart(made: Run) -> Any:
    return made.do(RestartPlanOperator, "plan", workloads=["backend-api", "worker"])


def tell(made: Run) -> Any:
    tasks = {name: f"restart.{name}" for name in ("backend-api", "worker")}
    operator = {"restart_task_ids": tasks, "channel": "#vcci-ops"}
    return made.do(lambda namespace, **more: RestartReportOperator(**more), "report", **operator)  # type: ignore[arg-type]


def pods(plane: Plane, name: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in plane.pods(name)}


def test_a_restart_replaces_the_pods_of_what_was_chosen_once(fresh: Plane) -> None:
    before = {name: pods(fresh, name) for name in ("backend-api", "worker")}
    made = restart(fresh, "worker")
    plan_restart(made)
    made.do(AcquireChangeLockOperator, "lock", purpose="a test")
    with pytest.raises(AirflowSkipException):
        go(made, "backend-api")
    assert go(made, "worker")["changed"] is True
    after = pods(fresh, "worker")
    assert not before["worker"] & after
    assert before["backend-api"] == pods(fresh, "backend-api")
    go(made, "worker")
    assert pods(fresh, "worker") == after
    assert tell(made)["restarted"] == ["worker"]
    assert changes(made) == [("restart", "ada", "worker: a test of it")]


def test_the_first_failure_is_told_with_what_was_not_restarted(fresh: Plane) -> None:
    made = restart(fresh, "backend-api", "worker")
    plan_restart(made)
    made.do(AcquireChangeLockOperator, "lock", purpose="a test")
    fresh.kubectl("patch", "deployment/backend-api", "-n", fresh.namespace, "-p", '{"spec": {"paused": true}}')
    try:
        with pytest.raises(AirflowFailException, match="paused"):
            go(made, "backend-api", within=3)
        with pytest.raises(AirflowFailException, match="not restarted, or not complete: backend-api, worker"):
            tell(made)
    finally:
        fresh.kubectl("patch", "deployment/backend-api", "-n", fresh.namespace, "-p", '{"spec": {"paused": false}}')


def test_a_restart_that_leaves_no_pod_needs_a_tick(fresh: Plane) -> None:
    strategy = '{"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}'
    fresh.kubectl("patch", "deployment/worker", "-n", fresh.namespace, "-p", strategy)
    until("it is seen", lambda: plan_restart(restart(fresh, "worker", allow_downtime=True, dry_run=True)))
    try:
        with pytest.raises(
            AirflowFailException, match="worker would be down during its restart: its strategy is Recreate"
        ):
            plan_restart(restart(fresh, "backend-api", "worker"))
        plan_restart(restart(fresh, "worker", allow_downtime=True))
    finally:
        fresh.kubectl(
            "patch",
            "deployment/worker",
            "-n",
            fresh.namespace,
            "-p",
            '{"spec": {"strategy": {"type": "RollingUpdate"}}}',
        )


def test_a_dry_run_restarts_nothing(fresh: Plane) -> None:
    made = restart(fresh, "worker", dry_run=True)
    assert plan_restart(made) == "skipped the rest"
    with pytest.raises(AirflowSkipException):
        go(made, "worker")
    with pytest.raises(AirflowSkipException):
        tell(made)
