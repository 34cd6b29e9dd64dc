"""The report: verdict, changes, since when; its page and its Slack message."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from typing import Any

import pytest

from vcci_ops.domain.checks import judged, stated, unknown
from vcci_ops.domain.pages import render, sparkline
from vcci_ops.domain.report import Point, Report
from vcci_ops.domain.results import Result, Status
from vcci_ops.exceptions import Unreachable
from vcci_ops.hooks.slack_blocks import message, thread
from vcci_ops.settings import load_settings

CHECKS = load_settings("sandbox").checks
NOW = dt.datetime(2026, 11, 23, 9, 0, tzinfo=dt.UTC)
HOSTILE = "<script>alert(1)</script> <!channel> <https://evil.example|click> & \" '"


def report(results: list[Result], **more: Any) -> Report:
    fields: dict[str, Any] = {
        "title": "Daily health check",
        "environment": "sandbox",
        "dag_id": "daily_health_check",
        "run_id": "manual__2026-11-23T09:00:00+00:00",
        "started_at": NOW,
        "finished_at": NOW + dt.timedelta(seconds=9),
        "parameters": {"lookback": "24h"},
    }
    return Report(**{**fields, **more}, results=tuple(results))


def ok(id_: str = "pods.ready", value: float = 0, **more: Any) -> Result:
    return judged(CHECKS[id_], value, "fine", **more)


def bad(id_: str = "database.connections", value: float = 99, **more: Any) -> Result:
    return judged(CHECKS[id_], value, "99 of 100 used", **more)


def test_verdict_first_and_counts_gravest_first() -> None:
    silent = unknown(CHECKS["queues.depth"], Unreachable("Redis", "refused"))
    built = report([ok(), bad(), silent])
    assert built.status is Status.CRITICAL
    assert built.verdict == "Act now: 1 critical, 1 unknown, 1 ok"
    assert [r.check for r in built.problems] == ["database.connections", "queues.depth"]
    assert report([]).verdict == "Not everything could be measured: nothing was measured"


def test_changes_tell_worse_new_gone_and_better() -> None:
    before = (ok(), bad("api.latency", 9), ok("database.connections", 5), bad("errors.count", 900, subject="old"))
    now = [ok(), ok("api.latency", 0.1), bad(), bad("queues.depth", 9999, subject="intake"), ok("errors.count", 1)]
    built = report(now, previous_at=NOW - dt.timedelta(days=1), previous=before)
    assert [change.words for change in built.changes] == [
        "Database connections: ok → critical",
        "Queue depth [intake]: new → critical",
        "Error lines [old]: no longer reported (was critical)",
        "API answer time: critical → ok",
    ]


def test_a_section_that_was_left_out_is_not_gone() -> None:
    built = report([ok()], previous_at=NOW - dt.timedelta(days=1), previous=(bad("queues.depth", 9999),))
    assert built.changes == []


def test_since_is_the_beginning_of_the_unbroken_bad_time() -> None:
    result = bad()
    statuses = [Status.CRITICAL, Status.OK, Status.WARNING, Status.UNKNOWN, Status.CRITICAL]
    points = [Point(NOW - dt.timedelta(days=5 - i), 1.0, status) for i, status in enumerate(statuses)]
    built = report([result, ok()], series={result.key: points})
    assert built.since(result) == NOW - dt.timedelta(days=3)
    assert built.since(ok()) is None
    assert report([result]).since(result) is None


def test_the_page_says_verdict_value_limit_meaning_action_and_step() -> None:
    result = bad(details=("idle in transaction: 80",), query="SELECT count(*) FROM pg_stat_activity")
    page = render(report([result], previous_at=NOW - dt.timedelta(days=1)))
    for words in (
        "Act now: 1 critical",
        "99 of 100 used",
        "warning above 80 %, critical above 95 %",
        result.meaning,
        result.action,
        result.runbook,
        "idle in transaction: 80",
        "SELECT count(*) FROM pg_stat_activity",
        'href="https://grafana.vcci.greenlang.io/d/postgresql"',
    ):
        assert words in page, words


def test_hostile_text_is_only_text_on_the_page_and_in_slack() -> None:
    built = report([bad(subject=HOSTILE, details=(HOSTILE,), query=HOSTILE)], notes=(HOSTILE,))
    page = render(built)
    assert "<script" not in page
    assert "evil.example|click&gt;" in page
    blocks = str(message(built, "vcci-x", "https://a/r", "https://a/run") + thread(built, "vcci-x"))
    assert "<!channel>" not in blocks
    assert "<https://evil" not in blocks


def test_javascript_links_do_not_become_links_in_slack() -> None:
    evil = dataclasses.replace(bad(), link="javascript:alert(1)")
    assert "javascript" not in str(message(report([evil]), "x", "https://a", "https://b"))


def test_a_gap_breaks_the_trend_line_and_a_single_value_draws_none() -> None:
    result = ok("api.latency", 0.5)
    points = [Point(NOW, v, Status.OK) for v in (0.1, None, 0.3, 0.4)]
    chart = sparkline(points, result)
    assert chart is not None
    assert [len(line) for line in chart["lines"]] == [1, 3]
    assert chart["words"] == "4 values, lowest 100 ms, highest 500 ms"
    assert sparkline([], result) is None
    assert sparkline([Point(NOW, 0.1, Status.OK)], unknown(CHECKS["api.latency"], "x")) is None


def test_slack_message_leads_with_the_verdict_and_says_what_to_do() -> None:
    problems = [bad("queues.depth", 9000 + i, subject=f"q{i}") for i in range(8)]
    blocks = message(report(problems), "vcci-mark", "https://a/report", "https://a/run")
    assert blocks[0]["text"]["text"].startswith("Act now: 8 critical")
    assert blocks[0]["block_id"] == "vcci-mark"
    text = str(blocks)
    assert "*Do:* Scale the workers" in text
    assert "and 3 more, see the thread" in text
    assert "https://a/report" in text


@pytest.mark.parametrize("count", [1, 40, 900])
def test_slack_limits_hold_whatever_the_report(count: int) -> None:
    long = "x" * 5000
    results = [bad(subject=f"{i}", details=(long,) * 9) for i in range(count)]
    results += [stated(CHECKS["api.ready"], Status.CRITICAL, long)]
    built = report(results, notes=(long,) * 20, left_out=("database",))
    posts = [message(built, "b", "https://a", "https://b"), *thread(built, "b")]
    assert len(posts) <= 7
    for blocks in posts:
        assert len(blocks) <= 50
        assert len({block["block_id"] for block in blocks if block.get("block_id")}) >= 1
        assert len(str(blocks)) < 13_200
        for block in blocks:
            if block["type"] == "section":
                assert len(block["text"]["text"]) <= 3000
            if block["type"] == "header":
                assert len(block["text"]["text"]) <= 150


def test_a_long_thread_is_split_and_loses_no_line() -> None:
    results = [ok("queues.depth", 1, subject=f"queue-{i}") for i in range(300)]
    posts = thread(report(results), "b")
    text = str(posts)
    assert len(posts) > 1
    assert all(f"queue-{i} " in text for i in range(300))


def test_what_was_left_out_is_said_in_the_verdict_and_in_slack() -> None:
    built = report([ok()], left_out=("database", "backups"))
    assert built.verdict == "All is well: 1 ok (2 sections not looked at)"
    assert "not looked at: database, backups" in str(message(built, "b", "https://a", "https://b"))


def test_an_unknown_as_a_whole_is_not_gone_when_its_subjects_are_back() -> None:
    before = (unknown(CHECKS["queues.depth"], "x"),)
    now = [ok("queues.depth", 1, subject="intake")]
    assert report(now, previous_at=NOW - dt.timedelta(days=1), previous=before).changes == []


def test_credentials_and_what_cannot_be_stored_do_not_get_into_a_result() -> None:
    leak = "connection to postgresql://vcci_app:TopSecret1@pg failed"
    result = stated(CHECKS["api.ready"], Status.CRITICAL, f"{leak}\0\ud83d", details=(leak,), subject="a\0b")
    assert "TopSecret1" not in str(result)
    json.dumps(result.to_dict()).encode()
    assert "\0" not in result.summary + result.subject
    result.summary.encode()


def test_document_holds_what_follows_from_the_results() -> None:
    document = report(
        [bad()], previous_at=NOW - dt.timedelta(days=1), previous=(ok("database.connections", 1),)
    ).to_dict()
    assert document["status"] == "critical"
    assert document["changes"] == ["Database connections: ok → critical"]
    assert document["results"][0]["threshold"]
    assert re.fullmatch(r"2026-11-22T09:00:00\+00:00", document["compared_with"])
