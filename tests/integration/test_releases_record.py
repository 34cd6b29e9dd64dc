"""What runs leave in the history, on a real PostgreSQL: noted once, whoever comes twice."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sandbox.service import Sandbox
from sandbox.services.postgres import Airflow
from vcci_ops.exceptions import NoData
from vcci_ops.hooks.history import upgrade
from vcci_ops.hooks.releases import Journal, Releases

pytestmark = pytest.mark.integration
PLAN = {"version": "v2.1.0", "from_version": "v2.0.0"}


@pytest.fixture(scope="module", autouse=True)
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    box, server = Sandbox(tmp_path_factory.mktemp("history")), Airflow()
    server.start(box)
    with pytest.MonkeyPatch.context() as patch:
        try:
            server.prepare(box)
            patch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", json.dumps(server.connections(box)["vcci_ops_db"]))
            upgrade()
            yield
        finally:
            server.stop(box)


def journal(run: str) -> Journal:
    return Journal("test", "release_deploy", run)


def test_a_step_is_noted_once_and_the_first_one_stays() -> None:
    assert journal("a").recall("tag") is None
    assert journal("a").remember("tag", {"at": 1}) == {"at": 1}
    assert journal("a").remember("tag", {"at": 2}) == {"at": 1}
    assert list(journal("a").steps()) == ["tag"]
    assert journal("b").recall("tag") is None


def test_a_release_is_recorded_once_and_its_end_replaced() -> None:
    releases = Releases("test")
    by = {"requested_by": "ada", "approved_by": "eve", "reason": "why"}
    for _ in range(2):
        releases.begin(journal("c"), "deploy", PLAN, "abc", by)
    assert releases.latest()[0]["outcome"] == "running"
    for outcome in ("failed", "released"):
        releases.end(journal("c"), outcome, {})
    (found,) = releases.latest()
    assert (found["version"], found["outcome"], found["approved_by"]) == ("v2.1.0", "released", "eve")


def test_an_incident_has_one_number_and_bars_until_somebody_closes_it() -> None:
    releases = Releases("test")
    first = journal("d").open_incident("P0", "the rollback failed")
    assert journal("d").open_incident("P0", "the rollback failed") == first
    second = journal("e").open_incident("P1", "another")
    assert (first[-3:], second[-3:]) == ("001", "002")
    assert [incident["id"] for incident in releases.open_incidents()] == [first, second]
    assert releases.close_incident(first, "ada", "brought back by hand") == "the rollback failed"
    assert [incident["id"] for incident in releases.open_incidents()] == [second]
    with pytest.raises(NoData, match="INC-1999-01-01-001"):
        releases.close_incident("INC-1999-01-01-001", "ada", "none")
