"""One whole platform with its Airflow for all end-to-end tests; runs go through the REST API as a person's do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.__main__ import break_, heal
from sandbox.airflow import Client
from sandbox.demo import DAG, Demo, page_url


@dataclasses.dataclass
class Outcome:
    """What a run left behind."""

    run_id: str
    state: str
    tasks: dict[str, str]
    report: dict[str, Any]
    document: dict[str, Any] | None

    def statuses(self, check: str) -> dict[str, str]:
        """Return status by subject of a check."""
        found = (self.document or {}).get("results", [])
        return {r["subject"]: r["status"] for r in found if r["check"] == check}

    def words(self, check: str) -> str:
        """Return everything said about a check."""
        found = (self.document or {}).get("results", [])
        return "\n".join(
            "\n".join([r["subject"], r["summary"], r["action"], *r["details"]]) for r in found if r["check"] == check
        )


class Platform:
    """The sandbox and Airflow, and what a test does with them."""

    def __init__(self, demo: Demo, client: Client) -> None:
        self.demo = demo
        self.client = client
        self.sandbox = demo.sandbox

    def run(self, conf: dict[str, Any] | None = None) -> Outcome:
        """Run the daily health check to its end."""
        run_id = self.client.trigger(DAG, conf)
        state = self.client.wait(DAG, run_id, seconds=150)
        try:
            report = self.client.xcom(DAG, run_id, "report", "report")
        except requests.HTTPError:
            report = {}
        document = self.document(run_id, report)
        return Outcome(run_id, state, self.client.tasks(DAG, run_id), report, document)

    def document(self, run_id: str, report: dict[str, Any]) -> dict[str, Any] | None:
        """Return the report's document from S3, else from the history."""
        from sandbox.history import _connect

        if report.get("arrived", {}).get("s3"):
            page = requests.get(page_url(self.demo, report).replace("report.html", "report.json"), timeout=10)
            if page.ok:
                return dict(page.json())
        with _connect(self.sandbox) as connection:
            row = connection.execute("SELECT report FROM run WHERE run_id = %s", (run_id,)).fetchone()
        return row[0] if row else None

    def inbox(self, kind: str) -> Any:
        """Return what Slack (or mail, or statuspage) got."""
        return requests.get(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/{kind}", timeout=10).json()

    def break_(self, fault: str, *options: str) -> None:
        """Make something go wrong."""
        break_(self.sandbox, self.demo.services, fault, list(options))

    def heal(self, fault: str | None = None) -> None:
        """Undo it."""
        heal(self.sandbox, self.demo.services, fault)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Start everything once; stop it at the end."""
    before = os.environ.get("VCCI_SANDBOX_HOME")
    kept = os.environ.get("VCCI_TEST_SANDBOX_HOME")
    home = Path(kept) if kept else tmp_path_factory.mktemp("platform")
    os.environ["VCCI_SANDBOX_HOME"] = str(home)
    os.environ.pop("VCCI_KUBECONFIG", None)
    demo = Demo()
    try:
        client = demo.start()
        yield Platform(demo, client)
    finally:
        demo.stop()
        if before is None:
            os.environ.pop("VCCI_SANDBOX_HOME", None)
        else:
            os.environ["VCCI_SANDBOX_HOME"] = before


@pytest.fixture
def healthy(platform: Platform) -> Iterator[Platform]:
    """Give a platform without faults, and heal what the test broke."""
    platform.heal()
    yield platform
    platform.heal()
