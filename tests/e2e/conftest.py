"""One whole platform with its Airflow for all end-to-end tests; runs go through the REST API as a person's do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from sandbox.__main__ import break_, heal
from sandbox.airflow import Client
from sandbox.demo import DAG, Demo, page_url
from tests.e2e.release_fixtures import Released
from vcci_ops.settings import INCLUDE


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

    @contextmanager
    def setting(self, path: str, value: Any) -> Iterator[None]:
        """Let a setting, ``release.approvals.within``, have another value; tasks read it when they start."""
        file = Path(os.environ["VCCI_OPS_SETTINGS"])
        before = file.read_text()
        settings = yaml.safe_load(before)
        *parents, last = path.split(".")
        place = settings
        for name in parents:
            place = place[name]
        assert last in place, path
        place[last] = value
        try:
            file.write_text(yaml.safe_dump(settings))
            yield
        finally:
            file.write_text(before)

    def heal(self, fault: str | None = None) -> None:
        """Undo it."""
        heal(self.sandbox, self.demo.services, fault)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Start everything once; stop it at the end."""
    before = os.environ.get("VCCI_SANDBOX_HOME")
    kept = os.environ.get("VCCI_TEST_SANDBOX_HOME")
    home = Path(kept) if kept else tmp_path_factory.mktemp("platform")
    settings, given = home / "settings.yaml", os.environ.get("VCCI_OPS_SETTINGS")
    settings.write_text((INCLUDE / "settings" / "sandbox.yaml").read_text())
    os.environ["VCCI_SANDBOX_HOME"], os.environ["VCCI_OPS_SETTINGS"] = str(home), str(settings)
    os.environ.pop("VCCI_KUBECONFIG", None)
    demo = Demo()
    try:
        client = demo.start()
        yield Platform(demo, client)
    finally:
        demo.stop()
        for name, value in (("VCCI_SANDBOX_HOME", before), ("VCCI_OPS_SETTINGS", given)):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture
def healthy(platform: Platform) -> Iterator[Platform]:
    """Give a platform without faults, and heal what the test broke."""
    platform.heal()
    yield platform
    platform.heal()


@pytest.fixture(scope="session")
def shared(platform: Platform) -> Released:
    """Give the platform as releases see it; made once, for it keeps what ran in the beginning."""
    return Released(platform)


@pytest.fixture
def released(shared: Released) -> Iterator[Released]:
    """Give a platform at v2.0.0."""
    shared.set_back()
    yield shared
    shared.platform.heal()
