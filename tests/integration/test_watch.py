"""Watches on a real Prometheus, PostgreSQL and Redis, and a Kubernetes API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from sandbox.service import Sandbox, Service, wait_until
from sandbox.services import postgres, redis
from sandbox.services.api import Api
from sandbox.services.kube import Kube
from sandbox.services.messages import Messages
from sandbox.services.prometheus import Prometheus
from tests.conftest import RecordingTask
from tests.integration.kube_fixtures import connect, furnished, played_plane, real_plane
from vcci_ops.domain.watch import Sample
from vcci_ops.domain.watched import change_of, expected_of
from vcci_ops.exceptions import NoData, Refused
from vcci_ops.hooks.history import upgrade
from vcci_ops.hooks.kubernetes_writer import DEPLOYMENTS, KubernetesWriter
from vcci_ops.hooks.prometheus_async import AsyncPrometheus
from vcci_ops.hooks.samples import WatchSamples
from vcci_ops.hooks.watch import MetricReader
from vcci_ops.hooks.watch_live import LiveSources
from vcci_ops.operators.watch import WatchOperator, WatchSubject
from vcci_ops.settings import load_settings
from vcci_ops.settings_watch import Watch
from vcci_ops.triggers.watch import LATE, Watcher, WatchTrigger

pytestmark = pytest.mark.integration
SETTINGS = load_settings("sandbox")
NAMESPACE = "vcci-production"
METRICS = {metric.id: metric.model_dump(mode="json") for metric in SETTINGS.release.watch.metrics}
TRAFFIC = {**METRICS["error_rate"], "min_traffic": 1, "above": 10, "worse_by_at_least": 5}
"""The stage fails a request now and then; here only a spike shall be one."""


class Servers:
    """What a watch looks at, and where it notes what it saw."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        self.pg = next(s for s in postgres.services() if s.name == "pg-airflow")
        production = next(s for s in postgres.services() if s.name == "pg-production")
        self.services: list[Service] = [Api(), Prometheus(), Kube(), redis.Redis(), self.pg, production]
        for service in self.services:
            service.start(self.sandbox)
        for service in self.services:
            wait_until(service.name, lambda s=service: s.ready(self.sandbox), seconds=60)
            service.prepare(self.sandbox)
        self.connections = {k: dict(v) for s in self.services for k, v in s.connections(self.sandbox).items()}
        for id_, port in (("prometheus", "prometheus"), ("redis", "redis"), ("postgres", "postgres")):
            # The proxy in front of them is not running here.
            self.connections[f"vcci_{id_}"]["port"] = self.sandbox.port(f"{port}-direct")

    def fault(self, name: str, **options: Any) -> None:
        fault = next(f for s in self.services for f in s.faults if f.name == name)
        given = {**fault.options, **options}
        self.sandbox.state.set_fault(name, given)
        if fault.apply:
            fault.apply(self.sandbox, given)

    def heal(self) -> None:
        for name, options in self.sandbox.state.faults().items():
            fault = next(f for s in self.services for f in s.faults if f.name == name)
            self.sandbox.state.set_fault(name, None)
            if fault.heal:
                fault.heal(self.sandbox, options)

    def has_data(self) -> bool:
        """Whether Prometheus has scraped often enough for a rate."""
        try:
            reader = MetricReader(watch(TRAFFIC, window=15), NAMESPACE, settings=SETTINGS)
            return (reader.read(reader.watch.metrics[0]).traffic or 0) > 20
        except Exception:
            return False


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("watch")
    os.environ["VCCI_SANDBOX_HOME"] = str(folder)
    servers = Servers(folder)
    try:
        yield servers
    finally:
        for service in reversed(servers.services):
            service.stop(servers.sandbox)
        del os.environ["VCCI_SANDBOX_HOME"]


@pytest.fixture
def servers(started: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    for id_, connection in started.connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    upgrade()
    wait_until("metrics", started.has_data, seconds=40)
    yield started
    started.heal()


def watch(*metrics: dict[str, Any], **more: Any) -> Watch:
    given = {"interval": 1, "warm_up": 0, "window": 15, "failure_limit": 3, "error_limit": 4}
    return Watch.model_validate({**given, **more, "metrics": metrics or [TRAFFIC]})


def trigger(settings: Watch, name: str, total: int = 6, **more: Any) -> WatchTrigger:
    given = {
        "watch": f"sandbox/test/{name}/watch",
        "namespace": NAMESPACE,
        "settings": settings.model_dump(mode="json"),
        "total": total,
        "started_at": time.time(),
        "workloads": {},
        "baseline": {},
    }
    return WatchTrigger(**{**given, **more})


async def fired(made: WatchTrigger) -> dict[str, Any]:
    async for event in made.run():
        return dict(event.payload)
    raise AssertionError("it did not fire")


def stored(made: WatchTrigger) -> list[Sample]:
    return WatchSamples(made.watch).read()


def deployment(name: str) -> dict[str, Any]:
    writer = KubernetesWriter()
    writer.connect()
    return writer.object(DEPLOYMENTS, NAMESPACE, name)


# Outcomes -----------------------------------------------------------------------------------------------


async def test_good_numbers_pass_and_every_sample_is_kept_with_what_was_asked(servers: Servers) -> None:
    made = trigger(watch(), "good", total=4)
    event = await fired(made)
    assert (event["outcome"], event["counts"]["pass"], event["samples"]) == ("passed", 4, 4), event
    samples = stored(made)
    assert [s.number for s in samples] == [0, 1, 2, 3]
    assert "increase(http_requests_total" in samples[0].metrics[0].query
    assert "{window}" not in samples[0].metrics[0].query
    assert max(abs(s.observed_at - s.due_at) for s in samples) < 0.25, "off the grid"


async def test_every_source_of_the_settings_can_be_watched(servers: Servers) -> None:
    settings = watch(*METRICS.values(), interval=4)
    reader = MetricReader(settings, NAMESPACE)
    assert reader.probe() == []
    baseline = reader.baseline()
    assert baseline["error_rate"]["last_hour"] is not None
    assert baseline["error_rate"]["last_week"] is not None
    assert baseline["connections"]["now"] is not None
    workloads = {name: expected_of(deployment(name)) for name in SETTINGS.release.workloads}
    event = await fired(trigger(settings, "all", total=1, baseline=baseline, workloads=workloads))
    assert event["outcome"] == "passed", event


async def test_an_error_spike_fails_after_three_samples_and_says_by_how_much(servers: Servers) -> None:
    servers.fault("errors-5xx", percent=40.0)
    wait_until("metrics", servers.has_data, seconds=40)
    made = trigger(watch(), "spike", total=20, baseline={"error_rate": {"last_hour": 0.1, "last_week": 0.2}})
    event = await fired(made)
    assert (event["outcome"], event["samples"]) == ("failed", 3), event
    assert "is above 10 % and" in event["reason"]
    assert "times the baseline (0.20 %)" in event["reason"]


async def test_too_little_traffic_is_inconclusive_and_not_a_pass(servers: Servers) -> None:
    event = await fired(trigger(watch({**METRICS["error_rate"], "min_traffic": 1e9}), "quiet", total=3))
    assert (event["outcome"], event["counts"]["inconclusive"]) == ("inconclusive", 3), event
    assert "not one sample passed" in event["reason"]


async def test_no_traffic_at_all_never_passes(servers: Servers) -> None:
    servers.fault("no-traffic")
    event = await fired(trigger(watch(METRICS["error_rate"]), "none", total=3))
    assert event["outcome"] in ("inconclusive", "held"), event
    assert event["counts"]["pass"] == event["counts"]["fail"] == 0


async def test_prometheus_lost_in_the_middle_holds_after_four_samples_and_never_fails(servers: Servers) -> None:
    made = trigger(watch(interval=1), "lost", total=30)
    watching = asyncio.create_task(fired(made))
    await until(lambda: len(stored(made)) >= 2)
    await asyncio.to_thread(servers.fault, "prometheus-down")
    event = await watching
    assert event["outcome"] == "held", event
    assert event["counts"]["fail"] == 0
    assert event["counts"]["error"] == 4
    assert "4 samples in a row without data" in event["reason"]
    assert "Prometheus did not answer: connection refused" in event["reason"]


async def test_a_metric_that_does_not_exist_is_named_by_the_probe_and_never_passes(servers: Servers) -> None:
    missing = {**METRICS["latency_p95"], "query": "sum(rate(no_such_metric[{window}]))", "traffic": ""}
    settings = watch(TRAFFIC, missing)
    (problem,) = MetricReader(settings, NAMESPACE).probe()
    assert problem.startswith("Latency p95 (latency_p95): no series in Prometheus matches: sum(rate(no_such_metric")
    with pytest.raises(NoData):
        MetricReader(settings, NAMESPACE).read(settings.metrics[1])
    event = await fired(trigger(settings, "missing", total=10))
    assert (event["outcome"], event["samples"]) == ("held", 4), event


async def test_the_probe_names_a_query_that_prometheus_rejects_and_one_that_gives_several_series(
    servers: Servers,
) -> None:
    wrong = {**TRAFFIC, "id": "wrong", "query": "sum(rate(", "traffic": ""}
    many = {**TRAFFIC, "id": "many", "query": "http_requests_total", "traffic": ""}
    first, second = MetricReader(watch(wrong, many), NAMESPACE).probe()
    assert "parse error" in first
    assert "series where one was expected" in second


# Superseded ---------------------------------------------------------------------------------------------


async def test_a_changed_deployment_ends_the_watch_and_scaling_it_does_not(servers: Servers) -> None:
    writer = KubernetesWriter()
    writer.connect()
    made = trigger(watch(interval=1), "changed", total=60, workloads={"frontend": expected_of(deployment("frontend"))})
    watching = asyncio.create_task(fired(made))
    await until(lambda: len(stored(made)) >= 1)
    before = deployment("frontend")["spec"]["replicas"]
    await asyncio.to_thread(
        writer.patch, DEPLOYMENTS, NAMESPACE, "frontend", {"spec": {"replicas": before + 1}}, subresource=""
    )
    await until(lambda: any(s.notes for s in stored(made)))
    assert f"frontend was scaled to {before + 1}" in stored(made)[-1].notes
    change = {"spec": {"template": {"metadata": {"annotations": {"by": "hand"}}}}}
    await asyncio.to_thread(writer.patch, DEPLOYMENTS, NAMESPACE, "frontend", change)
    event = await watching
    assert event["outcome"] == "superseded", event
    assert event["reason"].startswith("Deployment frontend was changed (generation ")


# Restarts -----------------------------------------------------------------------------------------------


async def test_a_restarted_trigger_goes_on_without_a_gap_and_makes_up_what_it_missed(servers: Servers) -> None:
    settings = watch(TRAFFIC, METRICS["not_ready"], interval=1)
    workloads = {name: expected_of(deployment(name)) for name in ("frontend",)}
    made = trigger(settings, "restart", total=9, workloads=workloads)
    first = asyncio.create_task(fired(made))
    await until(lambda: len(stored(made)) >= 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    had = [s.number for s in stored(made)]
    gone = made.started_at + 5.8
    await until(lambda: time.time() > gone)  # three samples fall due while nobody watches
    _, kwargs = made.serialize()
    event = await fired(WatchTrigger(**json.loads(json.dumps(kwargs))))
    samples = stored(made)
    assert [s.number for s in samples] == list(range(9))
    assert [s.number for s in samples if s.number in had] == had
    late = [s for s in samples if LATE in s.notes]
    assert {3, 4} <= {s.number for s in late}
    assert all([m.id for m in s.metrics] == ["error_rate"] for s in late)
    assert all(s.verdict == "pass" for s in late), [s.line(9) for s in late]
    assert event["outcome"] == "passed", event


async def test_what_is_made_up_waits_for_a_prometheus_that_is_away_too(servers: Servers, monkeypatch: Any) -> None:
    right = os.environ["AIRFLOW_CONN_VCCI_PROMETHEUS"]
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_PROMETHEUS", json.dumps({**json.loads(right), "port": 1}))
    made = trigger(watch(), "both", total=6, started_at=time.time() - 8)
    watching = asyncio.create_task(fired(made))
    await asyncio.sleep(1.5)
    assert stored(made) == []
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_PROMETHEUS", right)
    event = await watching
    assert (event["outcome"], event["samples"]) == ("passed", 6), event


async def test_two_triggers_at_once_do_not_double_samples_and_agree(servers: Servers) -> None:
    made = trigger(watch(), "twice", total=4)
    _, kwargs = made.serialize()
    one, two = await asyncio.gather(fired(made), fired(WatchTrigger(**kwargs)))
    assert one["outcome"] == two["outcome"] == "passed"
    assert one["counts"] == two["counts"]
    with psycopg.connect(**dsn(servers)) as connection:
        rows = connection.execute("SELECT count(*) FROM watch_sample WHERE watch = %s", (made.watch,)).fetchone()
    assert rows == (4,)


def test_a_killed_process_leaves_what_it_saw_and_the_next_one_finishes(servers: Servers, tmp_path: Path) -> None:
    made = trigger(watch(), "killed", total=8)
    program = (
        "import asyncio, json, sys, time\nfrom vcci_ops.triggers.watch import WatchTrigger\n"
        "given = json.load(open(sys.argv[1]))\ngiven['started_at'] = time.time() + 1\n"
        "json.dump(given, open(sys.argv[1], 'w'))\n"
        "async def go():\n"
        "    async for event in WatchTrigger(**given).run(): pass\n"
        "asyncio.run(go())\n"
    )
    given = tmp_path / "kwargs.json"
    given.write_text(json.dumps(made.serialize()[1]))
    env = {**os.environ, "PYTHONPATH": "plugins"}
    process = subprocess.Popen([sys.executable, "-c", program, str(given)], env=env)
    try:
        wait_until("two samples", lambda: len(stored(made)) >= 2, seconds=40)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    had = len(stored(made))
    assert had < 8
    event = asyncio.run(fired(WatchTrigger(**json.loads(given.read_text()))))
    assert [s.number for s in stored(made)] == list(range(8))
    assert event["outcome"] == "passed", event


async def test_samples_outlive_a_history_database_that_is_away(servers: Servers, monkeypatch: Any) -> None:
    made = trigger(watch(error_limit=10), "away", total=8)
    watcher = Watcher(made)
    watching = asyncio.create_task(watcher.run())
    await until(lambda: len(stored(made)) >= 1)
    right = os.environ["AIRFLOW_CONN_VCCI_OPS_DB"]
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", json.dumps({**json.loads(right), "port": 1}))
    watcher._looked_up.clear()  # a watch remembers where it is until it does not answer
    await until(lambda: watcher.unanswered > 0)
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", right)
    event = await watching
    assert (event["outcome"], event["unsaved"]) == ("passed", []), event
    samples = stored(made)
    assert [s.number for s in samples] == list(range(8))


async def test_a_history_database_that_stays_away_holds_and_hands_the_samples_on(
    servers: Servers, monkeypatch: Any
) -> None:
    right = os.environ["AIRFLOW_CONN_VCCI_OPS_DB"]
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", json.dumps({**json.loads(right), "port": 1}))
    event = await fired(trigger(watch(), "gone", total=20))
    assert event["outcome"] == "held", event
    assert "no sample could be stored" in event["reason"]
    assert len(event["unsaved"]) == event["samples"] > 0


async def test_progress_is_one_message_in_the_thread_that_is_edited(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vcci_ops.triggers.watch.TALK_EVERY", 0.4)
    slack = Messages()
    await asyncio.to_thread(slack.start, servers.sandbox)
    try:
        await until(lambda: slack.ready(servers.sandbox))
        for id_, connection in slack.connections(servers.sandbox).items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
        thread = {"channel": "#vcci-ops", "dag_id": "release_deploy", "run_id": "talk", "key": "watch"}
        assert (await fired(trigger(watch(), "talk", total=6, thread=thread)))["outcome"] == "passed"
        said = await asyncio.to_thread(inbox, servers.sandbox)
    finally:
        await asyncio.to_thread(slack.stop, servers.sandbox)
    (told,) = [message for message in said if message["text"].startswith("Watching")]
    assert "of 6 samples: " in told["text"]
    assert told["edited"]


async def test_slack_that_fails_ends_no_watch(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    thread = {"channel": "#nowhere", "dag_id": "d", "run_id": "r"}
    event = await fired(trigger(watch(), "slack", total=2, thread=thread))
    assert event["outcome"] == "passed", event


async def test_a_slow_prometheus_does_not_shift_the_grid(servers: Servers, monkeypatch: Any) -> None:
    asked = AsyncPrometheus.vector

    async def slow(self: Any, query: str, at: float | None = None) -> Any:
        await asyncio.sleep(0.35)
        return await asked(self, query, at)

    monkeypatch.setattr(AsyncPrometheus, "vector", slow)
    made = trigger(watch(interval=1), "slow", total=4)
    assert (await fired(made))["outcome"] == "passed"
    assert max(abs(s.observed_at - s.due_at) for s in stored(made)) < 0.3


# The operator -------------------------------------------------------------------------------------------


class Watching(WatchOperator):
    """Watches one Deployment for a few samples, and remembers whom it paged."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id="watch", namespace=NAMESPACE, watch=watch(), channel="", **kwargs)
        self.paged: list[str] = []
        self.asked = 0

    def subject(self, context: Any) -> WatchSubject:
        self.asked += 1
        return WatchSubject(workloads={"frontend": expected_of(deployment("frontend"))}, baseline={}, minutes=0.05)

    def page(self, subject: str, text: str) -> None:
        self.paged.append(text)


def context(run_id: str) -> tuple[dict[str, Any], RecordingTask]:
    task = RecordingTask()
    return {"ti": task, "dag_run": types.SimpleNamespace(dag_id="release_deploy", run_id=run_id)}, task


def complete(operator: WatchOperator, given: dict[str, Any], event: dict[str, Any] | None = None) -> WatchTrigger:
    """Run the task to its end, as Airflow does."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(given)
    made = deferred.value.trigger
    assert isinstance(made, WatchTrigger)
    operator.execute_complete(given, event or asyncio.run(fired(made)))
    return made


def test_the_task_passes_and_a_cleared_one_finds_the_same_end(servers: Servers) -> None:
    given, task = context("op-pass")
    operator = Watching()
    begun = complete(operator, given)
    assert task.pushed["watch"]["outcome"] == "passed"
    assert task.pushed["watch"]["watch"] == "sandbox/release_deploy/op-pass/watch"
    again = Watching()
    assert complete(again, given).started_at == begun.started_at
    assert again.asked == 0
    assert len(stored(begun)) == 3


def test_a_held_watch_pages_first_fails_with_held_and_a_cleared_one_watches_anew(servers: Servers) -> None:
    given, task = context("op-held")
    servers.fault("prometheus-down")
    operator = Watching()
    operator.watch = watch(error_limit=2)
    with pytest.raises(AirflowFailException, match=r"^HELD: 2 samples in a row without data"):
        complete(operator, given)
    assert task.pushed["watch"]["outcome"] == "held"
    assert "neither passed nor rolled back" in operator.paged[0]
    servers.heal()
    wait_until("metrics", servers.has_data, seconds=40)
    complete(Watching(), given)
    assert task.pushed["watch"]["outcome"] == "passed"
    assert task.pushed["watch"]["watch"].endswith("op-held/watch#2")


def test_a_failed_watch_fails_the_task_after_publishing_why(servers: Servers) -> None:
    given, task = context("op-failed")
    event = {
        "watch": "w", "outcome": "failed", "reason": "3 samples failed", "counts": {}, "samples": 3,
        "started_at": 0.0, "ended_at": 1.0, "unsaved": [],
    }  # fmt: skip
    with pytest.raises(AirflowFailException, match=r"^FAILED: 3 samples failed"):
        complete(Watching(), given, event)
    assert task.pushed["watch"] == {k: v for k, v in event.items() if k != "unsaved"}


def test_a_task_that_is_killed_at_its_start_reads_as_held(servers: Servers) -> None:
    given, task = context("op-killed")

    class Killed(Watching):
        def subject(self, context: Any) -> WatchSubject:
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        Killed().execute(given)
    assert (task.pushed["watch"]["outcome"], task.pushed["watch"]["reason"]) == (
        "held", "the watch did not come to its end",
    )  # fmt: skip


def test_a_trigger_that_dies_or_runs_out_of_time_is_held_and_pages(servers: Servers) -> None:
    given, task = context("op-died")
    operator = Watching()
    with pytest.raises(TaskDeferred):
        operator.execute(given)
    with pytest.raises(AirflowFailException, match=r"^HELD: the watch itself broke off \(Trigger timeout\)"):
        operator.resume_execution("__fail__", {"error": "Trigger timeout"}, given)
    assert task.pushed["watch"]["outcome"] == "held"
    assert len(operator.paged) == 1


def test_an_autoscaler_does_not_end_a_watch_whose_subject_knows_the_generation_only(servers: Servers) -> None:
    given, _ = context("op-digest")

    class Plain(Watching):
        def subject(self, context: Any) -> WatchSubject:
            found = expected_of(deployment("frontend"))
            plain = {"generation": found["generation"], "image": found["image"]}
            return WatchSubject(workloads={"frontend": plain}, baseline={}, minutes=0.05)

    with pytest.raises(TaskDeferred) as deferred:
        Plain().execute(given)
    assert deferred.value.trigger.workloads["frontend"] == expected_of(deployment("frontend"))


def test_a_release_that_is_gone_before_the_watch_begins_is_superseded(servers: Servers) -> None:
    given, task = context("op-refused")

    class Gone(Watching):
        def subject(self, context: Any) -> WatchSubject:
            raise Refused("frontend runs v9: somebody changed it")

    with pytest.raises(AirflowFailException, match=r"^SUPERSEDED: frontend runs v9"):
        Gone().execute(given)
    assert task.pushed["watch"]["outcome"] == "superseded"


async def test_a_fault_of_the_watch_itself_holds(servers: Servers, monkeypatch: Any) -> None:
    def broken(self: Any, *_: Any, **__: Any) -> Any:
        raise KeyError("bug")

    async def broken_later(self: Any, *_: Any, **__: Any) -> Any:
        raise KeyError("bug")

    monkeypatch.setattr(AsyncPrometheus, "vector", broken_later)
    event = await fired(trigger(watch(), "bug", total=9))
    assert event["outcome"] == "held", event
    assert "Prometheus could not be asked: KeyError" in event["reason"]
    monkeypatch.setattr(Watcher, "_begin", broken)
    event = await fired(trigger(watch(), "bug2", total=9))
    assert "fault of its own (KeyError" in event["reason"]


def test_what_could_not_be_stored_by_the_trigger_is_stored_by_the_task(servers: Servers) -> None:
    given, _ = context("op-unsaved")
    sample = Sample(0, time.time(), time.time(), ())
    event = {
        "watch": "w", "outcome": "passed", "reason": "", "counts": {}, "samples": 1,
        "started_at": 0.0, "ended_at": 1.0, "unsaved": [sample.to_dict()],
    }  # fmt: skip
    made = complete(Watching(), given, event)
    assert stored(made) == [sample]


# How ----------------------------------------------------------------------------------------------------


def dsn(servers: Servers) -> dict[str, Any]:
    given = servers.connections["vcci_ops_db"]
    names = {"host": "host", "port": "port", "login": "user", "password": "password", "schema": "dbname"}
    return {new: given[old] for old, new in names.items()}


def inbox(sandbox: Sandbox) -> list[dict[str, Any]]:
    found = requests.get(f"http://127.0.0.1:{sandbox.port('inbox')}/api/slack", timeout=5).json()
    return list(found["messages"])


async def until(probe: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(probe):
        assert time.monotonic() < end, "not so in time"
        await asyncio.sleep(0.05)


def test_it_says_what_a_new_instance_needs() -> None:
    settings = watch()
    made = trigger(settings, "x", total=3, started_at=1.5, connections={"slack": "other"})
    assert made.serialize() == (
        "vcci_ops.triggers.watch.WatchTrigger",
        {
            "watch": "sandbox/test/x/watch",
            "namespace": NAMESPACE,
            "settings": settings.model_dump(mode="json"),
            "total": 3,
            "started_at": 1.5,
            "workloads": {},
            "baseline": {},
            "connections": {"slack": "other"},
            "thread": None,
        },
    )
    assert Watcher(made).due(2) == 3.5


# On both control planes ---------------------------------------------------------------------------------


@pytest.mark.kube
@pytest.mark.parametrize("name", ["played", "real"])
def test_pods_and_changes_are_seen_with_exactly_the_shipped_rights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        played_plane(tmp_path) if name == "played" else real_plane() as admin,
        furnished(name, admin, tmp_path) as plane,
    ):
        plane.deploy("frontend", replicas=2)
        plane.wait_ready("frontend")
        connect(monkeypatch, plane.checks_config)
        live = LiveSources(plane.namespace, ["frontend"], settings=SETTINGS, window=60, grace=0)
        found = live.read("kubernetes", ["restarts", "not_ready"])
        assert [getattr(found[id_], "value", found[id_]) for id_ in ("restarts", "not_ready")] == [0.0, 0.0]
        expected = expected_of(live.manifests()["frontend"])
        plane.kubectl("scale", "deployment/frontend", "--replicas=3", "-n", plane.namespace)
        assert change_of("frontend", expected, live.manifests()["frontend"]) == ""
        plane.kubectl("set", "image", "deployment/frontend", "frontend=vcci/frontend:bad", "-n", plane.namespace)
        changed = change_of("frontend", expected, live.manifests()["frontend"])
        assert changed.startswith("Deployment frontend runs vcci/frontend:bad instead of vcci/frontend:v2")
        if name == "real":
            assert "last written by kubectl" in changed
        wait_until("a pod that is not ready", lambda: _value(live, "not_ready") >= 1, seconds=40)
        missing = LiveSources(plane.namespace, ["nobody"], settings=SETTINGS, window=60, grace=0)
        assert str(missing.read("kubernetes", ["restarts"])["restarts"]).startswith("Deployment nobody in namespace")
        assert change_of("nobody", expected, missing.manifests().get("nobody")) == "Deployment nobody is gone"


def _value(live: LiveSources, id_: str) -> float:
    return getattr(live.read("kubernetes", [id_])[id_], "value", None) or 0.0
