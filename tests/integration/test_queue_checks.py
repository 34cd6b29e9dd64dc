"""The queue checks on a real Redis with a real Celery worker."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py

from sandbox.platform import celery_app
from sandbox.service import Sandbox, wait_until
from sandbox.services import redis
from vcci_ops.operators.queues import QueueCheckOperator

pytestmark = pytest.mark.integration
QUEUES = ("intake", "calculator", "hotspot", "engagement", "reporting")
ALL = {f"{check}/{queue}" for check in QueueCheckOperator.measures for queue in QUEUES}


class Recorder:
    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value))


def run(**more: Any) -> SimpleNamespace:
    recorder = Recorder()
    given = {"queues": QUEUES, "key_prefix": celery_app.KEY_PREFIX, "fail": False, **more}
    operator = QueueCheckOperator(task_id="queues", **given)
    operator.execute({"ti": recorder})
    results = {f"{r['check']}/{r['subject']}": r for r in recorder.pushed["results"]}
    return SimpleNamespace(results=results, operator=operator, text=json.dumps(results))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    service = redis.Redis()
    service.start(sandbox)
    try:
        wait_until("Redis up", lambda: service.ready(sandbox))
        service.prepare(sandbox)
        wait_until("the worker answers", lambda: redis.consumed(redis.application(sandbox)) == set(QUEUES))
        yield sandbox
    finally:
        service.stop(sandbox)


@pytest.fixture(autouse=True)
def connection(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    given = {**redis.Redis().connections(box)["vcci_redis"], "port": box.port("redis-direct")}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_REDIS", json.dumps(given))
    monkeypatch.setenv("VCCI_OPS_SETTINGS", "sandbox")
    return given


@pytest.fixture
def client(box: Sandbox) -> Iterator[redis_py.Redis]:
    with redis.client(box) as opened:
        yield opened


def test_healthy_queues_are_ok_with_priorities_and_tasks_in_flight(client: redis_py.Redis) -> None:
    done = run()
    assert set(done.results) == ALL
    assert {r["status"] for r in done.results.values()} == {"ok"}
    depth = done.results["queues.depth/calculator"]
    keys = ["celery:calculator", *(f"celery:calculator\x06\x16{step}" for step in (3, 6, 9))]
    waiting = sum(client.llen(key) for key in keys)
    assert depth["value"] == pytest.approx(waiting + 2, abs=12)
    assert any(line.startswith("priority 3: ") for line in depth["details"])
    assert done.results["queues.consumers/intake"]["summary"] == "1 of 1 workers: worker@vcci"
    flying = [done.results[f"queues.oldest/{queue}"] for queue in QUEUES]
    assert any(f"was taken {r['display']} ago" in r["summary"] for r in flying)


def test_it_agrees_with_celerys_own_inspection(box: Sandbox) -> None:
    done = run()
    assert {q for q in QUEUES if done.results[f"queues.consumers/{q}"]["value"]} == redis.consumed(
        redis.application(box)
    )


def test_it_leaves_nothing_behind(client: redis_py.Redis) -> None:
    def ours() -> set[bytes]:
        return set(client.scan_iter("*reply*", count=1000))

    before = ours()
    run()
    assert ours() <= before


def test_everything_is_read_over_one_connection(box: Sandbox, client: redis_py.Redis) -> None:
    before = client.info("stats")["total_connections_received"]
    run()
    # One for the check; the worker and this client have theirs already.
    assert client.info("stats")["total_connections_received"] - before == 1


def test_a_backlog_over_all_priorities_is_counted(box: Sandbox) -> None:
    app = redis.application(box)
    celery_app.publish(app, "calculator", 600)
    try:
        result = run().results["queues.depth/calculator"]
    finally:
        celery_app.purge(app, "calculator")
    assert result["status"] == "warning"
    assert 600 <= result["value"] < 700


def test_tasks_under_a_priority_that_no_worker_looks_at_are_seen(client: redis_py.Redis) -> None:
    key = "celery:calculator\x06\x165"
    client.rpush(key, *["x"] * 700)
    try:
        result = run().results["queues.depth/calculator"]
    finally:
        client.delete(key)
    assert result["status"] == "warning"
    assert result["value"] >= 700
    assert "priority 5: 700 waiting, not in priority_steps" in result["details"]


def test_a_queue_that_nobody_consumes_is_critical(box: Sandbox) -> None:
    app = redis.application(box)
    app.control.cancel_consumer("reporting")
    wait_until("not consumed", lambda: "reporting" not in redis.consumed(app), seconds=10)
    try:
        done = run()
    finally:
        app.control.add_consumer("reporting")
        wait_until("consumed", lambda: "reporting" in redis.consumed(app), seconds=10)
    result = done.results.pop("queues.consumers/reporting")
    assert result["status"] == "critical"
    assert result["summary"].startswith("None of 1 workers takes from it")
    assert {r["status"] for r in done.results.values()} == {"ok"}


def test_no_worker_at_all_is_critical_for_every_queue_and_costs_no_waiting(
    box: Sandbox, client: redis_py.Redis
) -> None:
    box.end(redis.WORKER, how=signal.SIGKILL)
    wait_until("Redis noticed", lambda: client.pubsub_numpat() == 0, seconds=10)
    begun = time.monotonic()
    try:
        done = run(patience=4)
        assert time.monotonic() - begun < 4
    finally:
        redis.start_worker(box)
        wait_until("the worker answers", lambda: redis.consumed(redis.application(box)) == set(QUEUES))
    for queue in QUEUES:
        assert done.results[f"queues.consumers/{queue}"]["status"] == "critical"
        assert "There is no worker" in done.results[f"queues.consumers/{queue}"]["summary"]
        assert done.results[f"queues.depth/{queue}"]["status"] == "ok"


def test_a_worker_that_does_not_answer_is_not_taken_for_none(box: Sandbox) -> None:
    pid = box.pid(redis.WORKER)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        done = run(patience=1.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    result = done.results["queues.consumers/intake"]
    assert result["status"] == "unknown"
    assert result["summary"] == "1 of 1 workers did not say what they consume"


def test_an_empty_queue_is_ok_only_when_it_is_proven(client: redis_py.Redis) -> None:
    done = run(queues=("intake", "intkae"))
    assert done.results["queues.depth/intake"]["status"] == "ok"
    for check in QueueCheckOperator.measures:
        result = done.results[f"{check}/intkae"]
        assert (result["status"], result["reason"]) == ("unknown", "no_data")
        assert "no worker or producer ever bound a queue intkae" in result["summary"]
    # Bound, and empty: that is a proven zero.
    client.sadd("celery:_kombu.binding.quiet", "quiet\x06\x16\x06\x16quiet")
    try:
        assert run(queues=("quiet",)).results["queues.depth/quiet"]["status"] == "ok"
    finally:
        client.delete("celery:_kombu.binding.quiet")


@pytest.mark.parametrize("change", [{"key_prefix": "clery:"}, {"key_prefix": ""}])
def test_a_wrong_prefix_makes_everything_unknown_and_is_named(change: dict[str, str]) -> None:
    done = run(**change)
    assert {r["status"] for r in done.results.values()} == {"unknown"}
    assert "are key_prefix and db right?" in done.results["queues.depth/intake"]["summary"]
    assert repr(change["key_prefix"]) in done.results["queues.consumers/intake"]["summary"]


def test_the_wrong_database_makes_everything_unknown(
    connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_REDIS", json.dumps({**connection, "extra": {"db": 1}}))
    assert {r["status"] for r in run().results.values()} == {"unknown"}


def test_a_key_of_another_type_makes_only_its_queue_unknown(client: redis_py.Redis) -> None:
    client.set("celery:oddity", "a string")
    try:
        done = run(queues=("intake", "oddity"))
    finally:
        client.delete("celery:oddity")
    assert "WRONGTYPE" in done.results["queues.depth/oddity"]["summary"]
    assert done.results["queues.depth/oddity"]["reason"] == "unexpected_answer"
    assert done.results["queues.depth/intake"]["status"] == "ok"


def test_the_oldest_in_flight_is_found_among_very_many(client: redis_py.Redis) -> None:
    """2,500 unacknowledged tasks: a sample tells the shares, the oldest are read for themselves."""
    now = time.time()
    message = {"headers": {"task": "vcci.slow", "id": "x" * 36}, "body": "secret-argument"}
    with client.pipeline() as pipe:
        for number in range(2500):
            queue = "hang" if number % 5 == 0 else "rest"
            pipe.hset("big:unacked", f"tag{number}", json.dumps([message, "", queue]))
            pipe.zadd("big:unacked_index", {f"tag{number}": now - 7200 + number})
        pipe.execute()
    try:
        done = run(queues=("hang", "rest"), key_prefix="big:")
    finally:
        client.delete("big:unacked", "big:unacked_index")
    oldest = done.results["queues.oldest/hang"]
    assert oldest["status"] == "critical"
    assert oldest["value"] == pytest.approx(7200, abs=30)
    assert "vcci.slow was taken" in oldest["summary"]
    depth = done.results["queues.depth/hang"]
    assert "about" in depth["summary"]
    assert 300 < depth["value"] < 700
    assert "secret-argument" not in done.text


def test_an_unreadable_entry_is_counted_and_harms_nothing(client: redis_py.Redis) -> None:
    client.hset("odd:unacked", "tag", b"\xff\xfe not json")
    client.zadd("odd:unacked_index", {"tag": time.time() - 9999})
    client.rpush("odd:intake", "x")
    try:
        done = run(queues=("intake",), key_prefix="odd:")
    finally:
        client.delete("odd:unacked", "odd:unacked_index", "odd:intake")
    assert done.results["queues.depth/intake"]["value"] == 1


def test_a_wrong_password_is_named_and_not_shown(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "correct-horse-battery"
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_REDIS", json.dumps({**connection, "password": wrong}))
    done = run()
    assert {(r["status"], r["reason"]) for r in done.results.values()} == {("unknown", "forbidden")}
    assert wrong not in done.text
    assert connection["password"] not in done.text


def test_a_user_who_may_only_read_gets_depth_and_learns_what_is_missing(
    client: redis_py.Redis, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.execute_command("ACL", "SETUSER", "reader", "on", ">reading-only", "~*", "+@read", "+@connection")
    monkeypatch.setenv(
        "AIRFLOW_CONN_VCCI_REDIS", json.dumps({**connection, "login": "reader", "password": "reading-only"})
    )
    try:
        done = run()
    finally:
        client.execute_command("ACL", "DELUSER", "reader")
    assert done.results["queues.depth/intake"]["status"] == "ok"
    result = next(r for key, r in done.results.items() if key.startswith("queues.consumers"))
    assert (result["status"], result["reason"]) == ("unknown", "forbidden")
    assert "publish" in result["summary"]


def test_a_frozen_redis_is_unknown_within_20_seconds(box: Sandbox) -> None:
    pid = box.pid("redis")
    assert pid
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        done = run()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - begun < 20
    assert {(r["status"], r["reason"]) for r in done.results.values()} == {("unknown", "unreachable")}
    assert "no answer within 10 s" in next(iter(done.results.values()))["summary"]


def test_a_stopped_redis_is_unknown_with_the_reason(box: Sandbox) -> None:
    fault = next(fault for fault in redis.Redis.faults if fault.name == "redis-down")
    assert fault.apply
    assert fault.heal
    fault.apply(box, {})
    try:
        done = run()
    finally:
        fault.heal(box, {})
    assert {(r["status"], r["reason"]) for r in done.results.values()} == {("unknown", "unreachable")}
    assert "Connection refused" in next(iter(done.results.values()))["summary"]
