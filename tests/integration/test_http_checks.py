"""Readiness, traffic and certificate checks against the sandbox's API and a real Prometheus."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.service import Sandbox, Service, wait_until
from sandbox.services.api import Api
from sandbox.services.prometheus import Prometheus
from tests.conftest import RecordingTask
from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.traffic import judge_requests
from vcci_ops.exceptions import Unreachable
from vcci_ops.hooks.http import Prometheus as PrometheusHook
from vcci_ops.operators.http import ReadinessCheckOperator, TlsCheckOperator
from vcci_ops.operators.prometheus import PromQLCheckOperator, TrafficCheckOperator
from vcci_ops.settings import Check, Threshold, load_settings

pytestmark = pytest.mark.integration
SETTINGS = load_settings("sandbox")


class Servers:
    """The API and Prometheus of a sandbox, without the rest."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        self.services: list[Service] = [Api(), Prometheus()]
        for service in self.services:
            service.start(self.sandbox)
            wait_until(service.name, lambda s=service: s.ready(self.sandbox), seconds=60)
            service.prepare(self.sandbox)

    def connection(self, id_: str) -> dict[str, Any]:
        found = {k: v for s in self.services for k, v in s.connections(self.sandbox).items()}[id_]
        if id_ == "vcci_prometheus":  # the proxy in front of it is not running here
            found = {**found, "port": self.sandbox.port("prometheus-direct")}
        return dict(found)

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


@pytest.fixture(scope="module")
def all_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Start API and Prometheus once."""
    folder = tmp_path_factory.mktemp("web")
    os.environ["VCCI_SANDBOX_HOME"] = str(folder)
    servers = Servers(folder)
    try:
        yield servers
    finally:
        for service in reversed(servers.services):
            service.stop(servers.sandbox)
        del os.environ["VCCI_SANDBOX_HOME"]


@pytest.fixture
def servers(all_servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Give the servers with their connections in the environment; heal afterwards."""
    for id_ in ("vcci_api", "vcci_prometheus"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(all_servers.connection(id_)))
    yield all_servers
    all_servers.heal()


@pytest.fixture
def run(recording_task: Any) -> Callable[[Any], dict[str, Result]]:
    """Return a function that executes a check operator and returns its results by check."""

    def execute(operator: Any) -> dict[str, Result]:
        task = recording_task()
        operator.fail = False
        operator.execute({"ti": task, "params": {}})
        return {r["check"]: Result.from_dict(r) for r in task.pushed["results"]}

    return execute


def traffic(**more: Any) -> TrafficCheckOperator:
    given = {"requests": SETTINGS.metrics.requests, "errors": SETTINGS.metrics.errors, "up": SETTINGS.metrics.up}
    return TrafficCheckOperator(task_id="traffic", **{**given, **more})


def test_ready_api_is_ok_with_its_version(servers: Servers, run: Any) -> None:
    results = run(ReadinessCheckOperator(task_id="t"))
    assert results["api.ready"].status is Status.OK
    assert "version v2.0.0" in results["api.ready"].summary
    assert results["api.latency"].status is Status.OK


def test_unready_api_is_critical_and_names_the_dependency(servers: Servers, run: Any) -> None:
    servers.fault("api-503")
    result = run(ReadinessCheckOperator(task_id="t"))["api.ready"]
    assert result.status is Status.CRITICAL
    assert "NOT ready: HTTP 503" in result.summary
    assert any(line.startswith("database:") for line in result.details)


def test_api_that_hangs_is_unknown_within_20_s(servers: Servers, run: Any) -> None:
    pid = servers.sandbox.pid("api")
    assert pid
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        results = run(ReadinessCheckOperator(task_id="t"))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - begun < 20.5
    assert {r.status for r in results.values()} == {Status.UNKNOWN}
    assert "The API did not answer: no " in results["api.ready"].summary


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"port": 1}, "connection refused or no route", id="nobody listens"),
        pytest.param({"host": "no-such-host.invalid"}, "the host name is not known", id="no such host"),
        pytest.param(
            {"extra": json.dumps({"verify": True})},
            "certificate not accepted: unable to get local issuer",
            id="unknown authority",
        ),
    ],
)
def test_reasons_are_in_words(servers: Servers, run: Any, monkeypatch: Any, change: Any, words: str) -> None:
    connection = {**servers.connection("vcci_api"), **change}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_API", json.dumps(connection))
    result = run(ReadinessCheckOperator(task_id="t"))["api.ready"]
    assert (result.status, result.reason) == (Status.UNKNOWN, "unreachable")
    assert words in result.summary
    assert "0x" not in result.summary


def test_traffic_is_compared_with_the_same_weekday(servers: Servers, run: Any) -> None:
    results = run(traffic())
    assert results["api.requests"].status is Status.OK
    assert "of the same weekday's usual" in results["api.requests"].summary
    assert len(results["api.requests"].details) == 4
    assert 60 < (results["api.requests"].value or 0) < 160
    assert results["api.error_rate"].status is Status.OK
    assert "offset" not in results["api.requests"].query
    assert "[24h]" in results["api.requests"].query


def test_no_traffic_is_critical_not_zero_percent_errors(servers: Servers, run: Any) -> None:
    servers.fault("no-traffic")
    results = run(traffic())
    assert results["api.requests"].status is Status.CRITICAL
    assert "no requests at all" in results["api.requests"].summary
    assert results["api.error_rate"].status is Status.UNKNOWN


def test_renamed_metric_is_unknown_with_the_query(servers: Servers, run: Any) -> None:
    servers.fault("metric-renamed")
    results = run(traffic())
    for id_ in ("api.requests", "api.error_rate"):
        assert (results[id_].status, results[id_].reason) == (Status.UNKNOWN, "no_data")
        assert "no series in Prometheus matches: sum(increase(http_requests_total" in results[id_].summary


def test_5xx_spike_is_critical(servers: Servers, run: Any) -> None:
    servers.fault("errors-5xx")
    wait_until("spike scraped", lambda: run(traffic())["api.error_rate"].status is Status.CRITICAL, seconds=15)


def test_too_few_requests_say_nothing_about_errors(servers: Servers, run: Any) -> None:
    result = run(traffic(min_requests=1e12))["api.error_rate"]
    assert (result.status, result.reason) == (Status.UNKNOWN, "no_data")
    assert "a rate needs 1,000,000,000,000" in result.summary


def test_a_past_that_fails_does_not_hide_the_errors_of_today(servers: Servers, run: Any, monkeypatch: Any) -> None:
    servers.fault("errors-5xx")
    number = PrometheusHook.number

    def failing(self: Any, query: str) -> float:
        if "offset" in query:
            raise Unreachable("Prometheus", "no answer within 12 s")
        return number(self, query)

    monkeypatch.setattr(PrometheusHook, "number", failing)
    wait_until("spike scraped", lambda: run(traffic())["api.error_rate"].status is Status.CRITICAL, seconds=15)
    assert run(traffic())["api.requests"].reason == "unreachable"


def test_few_requests_without_a_past_are_unknown_and_many_are_ok() -> None:
    check = SETTINGS.checks["api.requests"]
    assert judge_requests(check, 3, {1: None}, minimum=100).status is Status.UNKNOWN
    assert judge_requests(check, 300, {1: None}, minimum=100).status is Status.OK
    assert judge_requests(check, 1000, {1: 100.0}, minimum=100).status is Status.WARNING


def test_hosts_that_hang_do_not_hide_a_certificate_that_runs_out(servers: Servers, run: Any) -> None:
    servers.fault("tls-near-expiry")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        hanging = [
            SETTINGS.tls[0].model_copy(
                update={"host": "127.0.0.1", "port": silent.getsockname()[1], "server_name": f"h{i}.example"}
            )
            for i in range(4)
        ]
        task = TlsCheckOperator(task_id="t", hosts=[*hanging, *SETTINGS.tls], fail=False)
        recorder = RecordingTask()
        begun = time.monotonic()
        task.execute({"ti": recorder, "params": {}})
    found = {r["subject"]: r["status"] for r in recorder.pushed["results"]}
    assert time.monotonic() - begun < 15
    assert found.pop("api.vcci.greenlang.io") == "critical"
    assert found == {f"h{i}.example at 127.0.0.1": "unknown" for i in range(4)}


def test_unknown_window_is_refused(servers: Servers) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match="window: 'soon' is not accepted; expected a duration"):
        traffic(window="soon").execute({"ti": None, "params": {}})


def test_any_query_can_be_a_check(servers: Servers, run: Any) -> None:
    threshold = Threshold(unit="targets", warning=0, **{"for": 5})
    check = Check(id="my.targets", section="S", title="T", meaning="M", action="A", runbook="R", threshold=threshold)

    def result(query: str) -> Result:
        return run(PromQLCheckOperator(task_id="t", check_id="my.targets", query=query, checks=[check]))["my.targets"]

    wait_until("up long enough", lambda: result('up{job="backend-api"}').status is Status.WARNING, seconds=20)
    assert result('up{job="nobody"}').reason == "no_data"
    assert result("sum(").reason == "unexpected_answer"
    assert "parse error" in result("sum(").summary
    assert result('0/0 * up{job="backend-api"}').reason == "no_data"


def test_prometheus_down_is_unknown(servers: Servers, run: Any) -> None:
    servers.fault("prometheus-down")
    results = run(traffic())
    assert {r.reason for r in results.values()} == {"unreachable"}
    assert results["api.requests"].summary.startswith("Prometheus did not answer")


def test_certificate_is_ok_near_expiry_critical_and_untrusted_critical(
    servers: Servers, run: Any, monkeypatch: Any
) -> None:
    def result() -> Result:
        return run(TlsCheckOperator(task_id="t", hosts=SETTINGS.tls))["certificates.expiry"]

    good = result()
    assert good.status is Status.OK
    assert good.subject == "api.vcci.greenlang.io"
    servers.fault("tls-near-expiry")
    wait_until("served", lambda: result().status is Status.CRITICAL, seconds=10)
    servers.heal()
    connection = {**servers.connection("vcci_api"), "extra": json.dumps({})}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_API", json.dumps(connection))
    untrusted = result()
    assert untrusted.status is Status.CRITICAL
    assert "clients refuse it: unable to get local issuer certificate" in untrusted.summary
    hosts = [SETTINGS.tls[0].model_copy(update={"server_name": "other.example"})]
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_API", json.dumps(servers.connection("vcci_api")))
    named = run(TlsCheckOperator(task_id="t", hosts=hosts))["certificates.expiry"]
    assert named.status is Status.CRITICAL
    assert "Hostname mismatch" in named.summary
