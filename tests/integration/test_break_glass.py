"""Breaking a dead run's lock: written down first, told in Slack, done once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sandbox.service import Sandbox, Service, wait_until
from sandbox.services import postgres
from sandbox.services.messages import Messages
from tests.integration.acting_fixtures import Run, Ti
from tests.integration.kube_fixtures import ROOT, Plane, connect, furnished, played_plane
from vcci_ops.hooks.history import History, upgrade
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.operators.lock import BreakChangeLockOperator
from vcci_ops.settings import load_settings

pytestmark = [pytest.mark.kube, pytest.mark.integration]
DEAD = "release_deploy/manual__2026-11-24T09:00:00+00:00"
REASON = "the worker's node is gone"


class Places:
    """A namespace with a lock that a dead run holds, the history, and Slack."""

    def __init__(self, folder: Path, plane: Plane) -> None:
        self.plane, self.sandbox = plane, Sandbox(folder)
        pg = next(s for s in postgres.services() if s.name == "pg-airflow")
        self.services: list[Service] = [pg, Messages()]
        for service in self.services:
            service.start(self.sandbox)
            wait_until(service.name, lambda s=service: s.ready(self.sandbox), seconds=60)
        pg.prepare(self.sandbox)
        self.connections = {k: v for s in self.services for k, v in s.connections(self.sandbox).items()}

    def events(self, run_id: str) -> list[tuple[Any, ...]]:
        query = "SELECT kind, actor, summary, detail FROM change_event WHERE source = %s"
        with History().connect() as connection:
            return connection.execute(query, (f"break_glass_unlock/{run_id}",)).fetchall()

    def told(self) -> list[str]:
        """Return what the channel got."""
        slack = self.connections["vcci_slack"]
        header = {"Authorization": f"Bearer {slack['password']}"}

        def call(method: str, **args: Any) -> Any:
            return requests.post(f"{slack['extra']['base_url']}{method}", json=args, headers=header, timeout=5).json()

        channel = load_settings().slack.channel.removeprefix("#")
        id_ = next(c["id"] for c in call("conversations.list", limit=1000)["channels"] if c["name"] == channel)
        return [message["text"] for message in call("conversations.history", channel=id_)["messages"]]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("glass")
    os.environ["VCCI_SANDBOX_HOME"] = str(folder)
    with played_plane(folder / "kube") as admin, furnished("played", admin, folder, changes=True) as plane:
        places = Places(folder, plane)
        try:
            yield places
        finally:
            for service in reversed(places.services):
                service.stop(places.sandbox)
            del os.environ["VCCI_SANDBOX_HOME"]


@pytest.fixture
def places(started: Places, monkeypatch: pytest.MonkeyPatch) -> Places:
    for id_, connection in started.connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    connect(monkeypatch, started.plane.checks_config)
    upgrade()
    started.plane.kubectl("delete", "lease", "--all", "-n", started.plane.namespace)
    ChangeLock(started.plane.namespace).acquire(DEAD, "release v2.1.0", "ines")
    return started


def given(run_id: str, states: dict[str, str]) -> Any:
    return {"dag_run": Run(run_id, "break_glass_unlock", "omar"), "ti": Ti(states), "params": {}}


def breaking(places: Places, **more: Any) -> BreakChangeLockOperator:
    arguments = {"expected_holder": DEAD, "reason": REASON, "confirm": "True", "even_if_running": "False", **more}
    return BreakChangeLockOperator(task_id="break_lock", namespace=places.plane.namespace, **arguments)


def test_it_is_written_down_told_and_done_once(places: Places) -> None:
    context = given("b1", {DEAD: "failed"})
    left = breaking(places).execute(context)
    ((kind, actor, summary, detail),) = places.events("b1")
    assert (kind, actor) == ("lock-broken", "omar")
    assert (
        summary == left["summary"] == f"change lock of namespace {places.plane.namespace} taken from {DEAD}: {REASON}"
    )
    assert (detail["holder_state"], detail["reason"]) == ("failed", REASON)
    state = ChangeLock(places.plane.namespace).current()
    assert state
    assert (state.holder, state.broken["by"], state.broken["holder"]) == ("", "omar", DEAD)
    # Killed after it broke the lock, and run again, when somebody else has the lock already.
    ChangeLock(places.plane.namespace).acquire("scale_workloads/r9", "scale", "ines")
    assert breaking(places).execute(context)["summary"] == summary
    assert len(places.events("b1")) == 1
    assert ChangeLock(places.plane.namespace).require("scale_workloads/r9")
    context["ti"].pulled["break_lock", "return_value"] = left
    tell = DagBag(dag_folder=str(ROOT / "dags" / "break_glass_unlock.py")).dags["break_glass_unlock"].get_task("slack")
    for _ in range(2):
        tell.execute(context)
    (said,) = [text for text in places.told() if "Break glass" in text]
    assert f"omar broke a lock: {summary}" in said
    assert "Airflow says that run is: failed" in said


def test_without_its_record_the_lock_is_not_broken(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"conn_type": "postgres", "host": "127.0.0.1", "port": 9, "login": "x", "password": "y", "schema": "z"}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", json.dumps(nowhere))
    with pytest.raises(AirflowException, match="history database did not answer") as failure:
        breaking(places).execute(given("b2", {DEAD: "failed"}))
    assert not isinstance(failure.value, AirflowFailException), "tried again"
    assert ChangeLock(places.plane.namespace).require(DEAD)


def test_a_running_holder_is_spared_unless_told_otherwise(places: Places) -> None:
    with pytest.raises(AirflowFailException, match="is running: it may be changing the platform"):
        breaking(places).execute(given("b3", {DEAD: "running"}))
    assert places.events("b3") == []
    assert ChangeLock(places.plane.namespace).require(DEAD)
    breaking(places, even_if_running="True").execute(given("b4", {DEAD: "running"}))
    assert places.events("b4")[0][3]["holder_state"] == "running"


def test_a_run_that_this_airflow_has_forgotten_can_be_broken(places: Places) -> None:
    assert breaking(places).execute(given("b5", {}))["holder_state"] == "unknown to this Airflow"


@pytest.mark.parametrize("reason", ["x" * 501, "too short", " " * 40], ids=["long", "short", "blank"])
def test_a_reason_that_says_nothing_or_too_much_is_refused(places: Places, reason: str) -> None:
    with pytest.raises(AirflowFailException, match="reason: "):
        breaking(places, reason=reason).execute(given("b6", {DEAD: "failed"}))
    assert ChangeLock(places.plane.namespace).require(DEAD)
