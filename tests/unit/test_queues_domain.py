from __future__ import annotations

import json
from typing import Any

import pytest

from vcci_ops.domain import queues
from vcci_ops.domain.queues import Broker, Layout, Task, Workers
from vcci_ops.exceptions import UnexpectedAnswer
from vcci_ops.hooks.redis import reading
from vcci_ops.settings import load_settings

LAYOUT = Layout(queues=("intake", "calc"), prefix="celery:")
CHECKS = load_settings("sandbox").checks


def broker(**given: Any) -> Broker:
    empty = {"intake": dict.fromkeys(LAYOUT.steps, 0), "calc": dict.fromkeys(LAYOUT.steps, 0)}
    return Broker(**{"waiting": empty, "routes": {}, "in_flight": 0, "tasks": {}, "taken": {}, **given})


def test_keys_are_kombus() -> None:
    """Compare with kombu's own channel, so that a change of its layout does not go unnoticed."""
    from kombu.transport.redis import Channel

    assert Channel.sep == LAYOUT.separator
    assert tuple(Channel.priority_steps) == LAYOUT.steps
    named = type("Named", (), {"priority": Channel.priority, "priority_steps": LAYOUT.steps, "sep": Channel.sep})()
    for step in LAYOUT.steps:
        key = LAYOUT.lists("intake")[step]
        assert key == "celery:" + Channel._q_for_pri(named, "intake", step)
    assert LAYOUT.binding("x") == "celery:" + Channel.keyprefix_queue % "x"
    assert (LAYOUT.unacked, LAYOUT.index) == (f"celery:{Channel.unacked_key}", f"celery:{Channel.unacked_index_key}")


def test_one_round_trip_reads_everything() -> None:
    commands = reading(LAYOUT)
    assert [c[0] for c in commands] == ["LLEN"] * 20 + ["SMEMBERS"] * 3 + ["HLEN", "HSCAN", "ZRANGE"]


def test_a_task_belongs_to_the_queue_its_binding_says() -> None:
    routes = {("vcci", "in.files"): "intake"}
    raw = json.dumps([{"headers": {"task": "t", "id": "1"}}, "vcci", "in.files"]).encode()
    assert queues.read_task("tag", raw, routes, LAYOUT.queues) == Task("tag", "intake", "t", "1")
    anonymous = json.dumps([{"headers": {}}, "", "calc"]).encode()
    assert queues.read_task("tag", anonymous, {}, LAYOUT.queues).queue == "calc"
    elsewhere = json.dumps([{}, "other", "other"]).encode()
    assert queues.read_task("tag", elsewhere, {}, LAYOUT.queues).queue == ""


@pytest.mark.parametrize("raw", [b"", b"\xff", b"{}", b"[1]", b"[1, 2, 3]", b'["x", "", "calc"]'])
def test_an_entry_that_cannot_be_read_belongs_to_none(raw: bytes) -> None:
    assert queues.read_task("tag", raw, {}, LAYOUT.queues).queue == ""


def test_zero_counts_only_where_it_is_proven() -> None:
    proven = broker(routes={("intake", "intake"): "intake"})
    assert queues.depth(CHECKS["queues.depth"], "intake", proven, LAYOUT).status == "ok"
    other = queues.depth(CHECKS["queues.depth"], "calc", proven, LAYOUT)
    assert (other.status, other.reason) == ("unknown", "no_data")
    assert "calc" in other.summary
    lost = queues.depth(CHECKS["queues.depth"], "intake", broker(), LAYOUT)
    assert "'celery:'" in lost.summary


def test_a_priority_that_is_no_step_counts_and_is_named() -> None:
    layout = Layout(queues=("intake",), steps=(0, 6, 20))
    assert set(layout.lists("intake")) == {*range(10), 20}
    found = broker(waiting={"intake": {0: 1, 5: 12, 6: 2}})
    result = queues.depth(CHECKS["queues.depth"], "intake", found, layout)
    assert result.value == 15
    assert result.details == (
        "priority 0: 1 waiting",
        "priority 5: 12 waiting, not in priority_steps",
        "priority 6: 2 waiting",
    )


def test_an_error_of_one_list_is_that_queues_alone() -> None:
    failed = UnexpectedAnswer("Redis", "WRONGTYPE")
    mixed = broker(waiting={"intake": failed, "calc": {0: 3, 3: 0, 6: 0, 9: 0}})
    assert queues.depth(CHECKS["queues.depth"], "intake", mixed, LAYOUT).reason == "unexpected_answer"
    assert queues.depth(CHECKS["queues.depth"], "calc", mixed, LAYOUT).value == 3
    said = queues.consumers(CHECKS["queues.consumers"], "intake", mixed, LAYOUT, Workers({}, 0))
    assert said.status == "unknown"


def test_shares_of_very_many_tasks_in_flight_are_estimated() -> None:
    tasks = {str(n): Task(str(n), "intake" if n < 250 else "calc", "t", "1") for n in range(1000)}
    many = broker(in_flight=40_000, tasks=tasks)
    assert many.flying("intake") == 10_000
    assert "about 10000" in queues.depth(CHECKS["queues.depth"], "intake", many, LAYOUT).summary


def test_the_oldest_of_a_queue_is_its_own() -> None:
    tasks = {"a": Task("a", "calc", "t.calc", "1"), "b": Task("b", "intake", "t.in", "2")}
    two = broker(in_flight=2, tasks=tasks, taken={"a": 1000.0, "b": 4000.0})
    result = queues.oldest(CHECKS["queues.oldest"], "intake", two, LAYOUT, now=5000.0)
    assert result.value == 1000
    assert result.status == "warning"
    assert result.details == ("16 min 40 s: t.in 2",)


def test_what_is_not_among_the_oldest_is_no_older_than_they() -> None:
    tasks = {"a": Task("a", "calc", "t", "1"), "b": Task("b", "intake", "t", "2")}
    result = queues.oldest(
        CHECKS["queues.oldest"], "intake", broker(in_flight=2, tasks=tasks, taken={"a": 4990.0}), LAYOUT, now=5000.0
    )
    assert result.value == 10


@pytest.mark.parametrize(
    ("workers", "status", "words"),
    [
        pytest.param(Workers({"w@1": frozenset({"intake"})}, 1), "ok", "1 of 1 workers: w@1", id="consumed"),
        pytest.param(Workers({"w@1": frozenset({"calc"})}, 1), "critical", "None of 1 workers", id="deserted"),
        pytest.param(Workers({}, 0), "critical", "There is no worker; 5 tasks wait", id="no-worker"),
        pytest.param(Workers({"w@1": frozenset()}, 3), "unknown", "2 of 3 workers did not say", id="silent-workers"),
        pytest.param(Workers({"w@1": frozenset({"intake"})}, 3), "ok", "1 of 3 workers", id="one-is-enough"),
    ],
)
def test_consumers(workers: Workers, status: str, words: str) -> None:
    waiting = broker(waiting={"intake": {0: 5, 3: 0, 6: 0, 9: 0}, "calc": {0: 1, 3: 0, 6: 0, 9: 0}})
    result = queues.consumers(CHECKS["queues.consumers"], "intake", waiting, LAYOUT, workers)
    assert result.status == status
    assert words in result.summary


def test_answers_of_any_shape_are_read() -> None:
    answers = {"a": [{"name": "intake"}, "junk", {}], "b": {"error": "no consumer"}, "c": None}
    assert queues.read_workers(answers, 3).queues == {"a": {"intake"}, "b": frozenset(), "c": frozenset()}
