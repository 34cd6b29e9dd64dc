"""The record of deletions on a real PostgreSQL: the first writer wins, and what is repeated finds itself done."""

from __future__ import annotations

import datetime as dt
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.services.postgres import Airflow
from vcci_ops.exceptions import NoData, OpsError, Refused
from vcci_ops.hooks.history import upgrade
from vcci_ops.hooks.tenants import Deletion, Deletions, Tombstone, Tombstones

pytestmark = pytest.mark.integration
NOW = dt.datetime(2026, 12, 1, 9, 0, tzinfo=dt.UTC)
APPROVAL = {"by": ["ada", "bo"], "at": "2026-11-01T09:00:00+00:00"}
record, stones = Deletions("test"), Tombstones("test")


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


def plan(tenant_id: str = "") -> dict[str, Any]:
    tenant = {"id": tenant_id or str(uuid.uuid4()), "slug": f"t-{uuid.uuid4().hex[:8]}", "name": "Ten ant's"}
    return {"tenant": tenant, "reason": "end of contract", "legal_basis": "GDPR", "requested_by": "ines"}


def begun(given: dict[str, Any] | None = None) -> Deletion:
    return record.begin(f"tenant_delete/{uuid.uuid4()}", given or plan(), "hash", APPROVAL)


def waiting(due: dt.datetime = NOW) -> Deletion:
    return record.await_end_of_grace(begun().id, {"tables": {"public.users": {"rows": 3}}}, due)


def test_it_goes_from_approval_to_its_end_and_every_step_may_be_repeated() -> None:
    given, id_ = plan(), f"tenant_delete/{uuid.uuid4()}"
    for _ in range(2):
        first = record.begin(id_, given, "hash", APPROVAL)
    assert (first.state, first.approved_by, first.plan, first.begun) == ("exporting", ["ada", "bo"], given, False)
    for _ in range(2):
        assert record.await_end_of_grace(id_, {"revision": "r5"}, NOW).state == "grace"
    for _ in range(2):
        taken = record.take(id_, NOW)
    assert (taken.state, taken.begun) == ("deleting", False)
    assert record.mark_begun(id_, {"others": {"users": 1}}).detail["others"] == {"users": 1}
    again = record.mark_begun(id_, {"others": {"users": 2}})
    assert again.detail["others"] == {"users": 1}, "what was noted first stays"
    for _ in range(2):
        assert record.prove(id_).state == "proving"
    assert record.take(id_, NOW).state == "proving", "a purge that is cleared goes on where it was"
    for _ in range(2):
        ended = record.finish(id_, {"certificate": "c"})
    assert ended.state == "deleted"
    assert ended.ended_at
    assert record.of_tenant(given["tenant"]["id"]) is None
    assert record.latest(given["tenant"]["slug"]) == ended


def test_a_tenant_is_in_one_deletion_at_a_time() -> None:
    first = begun()
    with pytest.raises(Refused, match=r"the deletion of t-\w+ \(exporting\), asked for by ines is under way"):
        begun(first.plan)


def test_what_stopped_before_its_first_row_gives_way_to_a_new_plan() -> None:
    first = waiting()
    record.stop(first.id, "drift: 3 rows of users are new")
    second = begun(first.plan)
    assert second.state == "exporting"
    assert record.get(first.id).state == "cancelled"
    with pytest.raises(Refused, match="was cancelled meanwhile"):
        record.begin(first.id, first.plan, "hash", APPROVAL)


def test_what_stopped_after_its_first_row_gives_no_way() -> None:
    first = waiting()
    record.take(first.id, NOW)
    record.mark_begun(first.id, {})
    record.stop(first.id, "2 rows of usage_events were left")
    with pytest.raises(Refused, match=r"stopped\).*2 rows of usage_events were left"):
        begun(first.plan)
    with pytest.raises(Refused, match="cannot be cancelled"):
        record.cancel(first.tenant_id, "ines", "stay")


def test_another_plan_under_the_same_name_is_refused() -> None:
    first = begun()
    with pytest.raises(Refused):
        record.begin(first.id, first.plan, "another hash", APPROVAL)


def test_what_is_due() -> None:
    early, due = waiting(NOW + dt.timedelta(seconds=1)), waiting()
    half, stopped, half_stopped = waiting(), waiting(), waiting()
    record.take(half.id, NOW)
    record.stop(stopped.id, "drift")
    record.take(half_stopped.id, NOW)
    record.mark_begun(half_stopped.id, {})
    record.stop(half_stopped.id, "rows were left")
    found = {found.id for found in record.due(NOW)}
    assert {due.id, half.id} <= found
    assert not {early.id, stopped.id, half_stopped.id} & found
    assert [f.id for f in record.due(NOW, half_stopped.slug)] == [half_stopped.id], "a person asked for it"
    assert record.due(NOW, stopped.slug) == []
    assert record.due(NOW, early.slug) == []
    assert Deletions("another environment").due(NOW) == []


@pytest.mark.parametrize("state", ["exporting", "grace", "stopped"])
def test_a_tenant_that_comes_back_cancels(state: str) -> None:
    first = begun() if state == "exporting" else waiting()
    if state == "stopped":
        record.stop(first.id, "drift")
    cancelled = record.cancel(first.tenant_id, "ada", "they pay again")
    assert cancelled
    assert (cancelled.state, cancelled.detail["cancelled_by"]) == ("cancelled", "ada")
    for step in (
        lambda: record.await_end_of_grace(first.id, {}, NOW),
        lambda: record.take(first.id, NOW),
        lambda: record.mark_begun(first.id, {}),
        lambda: record.prove(first.id),
        lambda: record.stop(first.id, "why"),
    ):
        with pytest.raises(Refused):
            step()
    assert record.cancel(first.tenant_id, "ada", "they pay again") is None


def test_of_a_purge_and_a_reactivation_at_the_same_moment_exactly_one_wins() -> None:
    for _ in range(20):
        first, won, start = waiting(), [], threading.Barrier(2)

        def attempt(name: str, act: Callable[[], Any], won: list[str] = won, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                act()
            except OpsError:
                return
            won.append(name)

        acts = {
            "purge": lambda first=first: record.take(first.id, NOW),
            "reactivation": lambda first=first: record.cancel(first.tenant_id, "ada", "stay"),
        }
        threads = [threading.Thread(target=attempt, args=item) for item in acts.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert record.get(first.id).state == {"purge": "deleting", "reactivation": "cancelled"}[won[0]]


def test_a_purge_before_the_time_takes_nothing() -> None:
    early = waiting(NOW + dt.timedelta(seconds=1))
    with pytest.raises(Refused, match=r"grace, due 2026-12-01 09:00 UTC\).* is not to be deleted now"):
        record.take(early.id, NOW)


def test_an_unknown_deletion_is_said_to_be_unknown() -> None:
    with pytest.raises(NoData, match="there is no deletion x/y in test"):
        record.prove("x/y")


def test_a_tombstone_is_put_once_and_tells_the_newest_of_a_slug() -> None:
    first = Tombstone("1", "acme", "Acme", NOW, "a/certificate.html", "f" * 64)
    assert stones.put(first) == first
    changed = Tombstone("1", "acme", "Acme", NOW, "b/certificate.html", "0" * 64)
    assert stones.put(changed) == first, "the first one stays"
    second = Tombstone("2", "acme", "Acme again", NOW + dt.timedelta(days=1), "c/certificate.html", "1" * 64)
    stones.put(second)
    assert stones.of_slug("acme") == second
    assert stones.of_slug("other") is None
    assert stones.all() == [first, second]
    assert Tombstones("another environment").all() == []
