"""What customers are told on Statuspage: once, in order, and never more than is true."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from sandbox.service import Sandbox, wait_until
from sandbox.services.messages import Messages
from vcci_ops.exceptions import DeliveryFailed, Forbidden, InvalidInput, MeasurementError, NoData, Unreachable
from vcci_ops.hooks.statuspage import Statuspage

pytestmark = pytest.mark.integration
HOUR = dt.timedelta(hours=1)


class Page:
    """The stand-in, and what stands on it."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        self.service = Messages()
        self.service.start(self.sandbox)
        wait_until("messages", lambda: self.service.ready(self.sandbox), seconds=60)
        self.connection = self.service.connections(self.sandbox)["vcci_statuspage"]

    def _inbox(self, how: str = "get") -> Any:
        return getattr(requests, how)(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/statuspage", timeout=5)

    def incidents(self) -> list[dict[str, Any]]:
        return list(self._inbox().json()["incidents"])

    def components(self) -> dict[str, str]:
        return {component["name"]: component["status"] for component in self._inbox().json()["components"]}

    def clear(self) -> None:
        self._inbox("delete")

    def incident(self, **given: Any) -> None:
        """Open an incident as a person would on the page."""
        url = f"http://127.0.0.1:{self.sandbox.port('statuspage')}/v1/pages/{self.connection['extra']['page_id']}/incidents"
        header = {"Authorization": f"OAuth {self.connection['password']}"}
        assert requests.post(url, json={"incident": given}, headers=header, timeout=5).status_code == 201


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Start the stand-in once."""
    folder = tmp_path_factory.mktemp("statuspage")
    os.environ["VCCI_SANDBOX_HOME"] = str(folder)
    page = Page(folder)
    try:
        yield page
    finally:
        page.service.stop(page.sandbox)
        del os.environ["VCCI_SANDBOX_HOME"]


@pytest.fixture
def page(started: Page, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Give an empty page with its connection in the environment."""
    started.clear()
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_STATUSPAGE", json.dumps(started.connection))
    return started


def begin(key: str = "release_deploy/r1", at: dt.datetime | None = None, components: Any = ("API", "Reports")) -> str:
    at = at or dt.datetime.now(dt.UTC)
    return Statuspage().begin_maintenance(key, "Release v2.1.0", "We are releasing.", components, at, at + HOUR)


def test_a_maintenance_that_begins_now_is_in_progress_and_its_components_say_so(page: Page) -> None:
    made = begin()
    (incident,) = page.incidents()
    assert incident["id"] == made
    assert (incident["status"], incident["impact"]) == ("in_progress", "maintenance")
    assert not any(value for key, value in incident.items() if key.startswith("scheduled_auto"))
    assert page.components()["API"] == page.components()["Reports"] == "under_maintenance"
    assert page.components()["Single sign-on"] == "operational"


def test_a_repeated_task_finds_its_maintenance(page: Page) -> None:
    assert begin() == begin()
    assert begin("release_deploy/r2") != begin()
    assert len(page.incidents()) == 2


def test_a_maintenance_of_tomorrow_is_scheduled_and_changes_no_component(page: Page) -> None:
    begin(at=dt.datetime.now(dt.UTC) + 24 * HOUR)
    assert page.incidents()[0]["status"] == "scheduled"
    assert page.components()["API"] == "operational"


def test_it_goes_on_in_order_and_says_each_thing_once(page: Page) -> None:
    made = begin()
    for status, body in (("verifying", "Watching."), ("verifying", "Watching."), ("completed", "Done.")):
        Statuspage().update(made, status, body)
    Statuspage().update(made, "in_progress", "An old task, repeated.")
    (incident,) = page.incidents()
    assert incident["status"] == "completed"
    assert [note["body"] for note in incident["incident_updates"]] == ["Done.", "Watching.", "We are releasing."]
    assert set(page.components().values()) == {"operational"}


def test_components_can_be_left_in_another_state_at_the_end(page: Page) -> None:
    Statuspage().update(begin(), "completed", "Ended with trouble.", {"API": "partial_outage"})
    assert page.components()["API"] == "partial_outage"


def test_components_are_set_by_name(page: Page) -> None:
    Statuspage().set_components({"API": "degraded_performance", "vccicomponent02": "major_outage"})
    assert page.components()["API"] == "degraded_performance"
    assert page.components()["Web application"] == "major_outage"


def test_a_component_that_is_not_there_is_named_with_those_that_are(page: Page) -> None:
    with pytest.raises(DeliveryFailed, match=r"no component 'Api'; it has API, Calculation engine, Reports"):
        begin(components=["Api"])
    assert page.incidents() == []
    with pytest.raises(InvalidInput, match="component status: 'broken'"):
        Statuspage().set_components({"API": "broken"})


def test_open_grave_incidents_are_told_and_nothing_else(page: Page) -> None:
    assert Statuspage().unresolved() == []
    begin()
    page.incident(name="Slow reports", components={"vccicomponent04": "degraded_performance"})
    page.incident(name="API down", components={"vccicomponent01": "major_outage"})
    page.incident(name="Over", impact_override="critical", status="resolved")
    (found,) = Statuspage().unresolved()
    assert (found["name"], found["impact"], found["status"]) == ("API down", "critical", "investigating")
    assert found["shortlink"].startswith("https://")
    assert [incident["name"] for incident in Statuspage().unresolved(("minor",))] == ["Slow reports"]


def test_without_a_connection_it_is_not_configured_and_asking_is_an_error(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Statuspage().configured
    monkeypatch.delenv("AIRFLOW_CONN_VCCI_STATUSPAGE")
    assert not Statuspage().configured
    with pytest.raises(MeasurementError, match="no Airflow connection vcci_statuspage"):
        Statuspage().unresolved()


def broken(page: Page, monkeypatch: pytest.MonkeyPatch, **change: Any) -> Statuspage:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_STATUSPAGE", json.dumps({**page.connection, **change}))
    return Statuspage()


def test_what_can_go_wrong_is_told_apart_and_never_shows_the_key(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Forbidden, match=r"GET incidents/unresolved \(HTTP 401\)") as refused:
        broken(page, monkeypatch, password="not-the-key-at-all").unresolved()
    assert "not-the-key" not in str(refused.value)
    with pytest.raises(Unreachable, match="ConnectionError"):
        broken(page, monkeypatch, port=1).unresolved()
    with pytest.raises(NoData, match="has no page_id"):
        broken(page, monkeypatch, extra={"page_id": "../../../admin"}).unresolved()
    with pytest.raises(MeasurementError, match="HTTP 404 Page not found"):
        broken(page, monkeypatch, extra={"page_id": "another"}).unresolved()
    broken(page, monkeypatch, port=1)
    with pytest.raises(DeliveryFailed, match="the maintenance was not announced: Statuspage did not answer"):
        begin()


@pytest.mark.parametrize(("status", "error"), [(420, Unreachable), (429, Unreachable), (503, Unreachable)])
def test_too_many_calls_and_failures_of_its_own_may_be_tried_again(
    page: Page, monkeypatch: pytest.MonkeyPatch, status: int, error: type[Exception]
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(error, match=f"HTTP {status}"):
            broken(page, monkeypatch, port=server.server_port).unresolved()
    finally:
        server.shutdown()
        server.server_close()
