"""The evidence page of a release, and what it says in Slack."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from vcci_ops.domain import release_text
from vcci_ops.domain.charts import line_chart
from vcci_ops.domain.pages import render as render_daily
from vcci_ops.domain.plans import plan_hash
from vcci_ops.domain.release_report import ReleaseReport, drawing, prose, render
from vcci_ops.domain.report import Report
from vcci_ops.domain.results import Status

BEGAN = dt.datetime(2026, 11, 24, 14, 2, tzinfo=dt.UTC)
OLD, NEW = "r:5000/vcci/backend-api:v2.0.0@sha256:" + "a1" * 32, "r:5000/vcci/backend-api:v2.1.0@sha256:" + "b2" * 32
EVIL = '<script>alert(1)</script><!channel> & "quoted" {{ 7*7 }}'
PLAN: dict[str, Any] = {
    "kind": "deploy",
    "environment": "production",
    "version": "v2.1.0",
    "from_version": "v2.0.0",
    "commit": "9f1c2d3e4b5a69788796a5b4c3d2e1f001122334",
    "reason": "Supplier ratings for the reporting deadline",
    "requested_by": "maria",
    "workloads": {
        "backend-api": {"image": OLD, "to": NEW, "replicas": 3},
        "worker": {"image": OLD.replace("backend-api", "worker"), "to": NEW, "replicas": 5},
    },
    "schema": {
        "from": "0005_activity_indexes",
        "to": "0007_drop_legacy_scores",
        "class": "destructive",
        "apply": True,
        "migrations": [
            {"revision": "0006_supplier_ratings", "class": "expand-only", "reasons": ["adds table supplier_ratings"],
             "drops": [], "warnings": ["CREATE INDEX locks suppliers against writes"], "state": "success",
             "sql": "CREATE TABLE supplier_ratings (\n    id BIGSERIAL PRIMARY KEY\n);"},
            {"revision": "0007_drop_legacy_scores", "class": "destructive", "reasons": ["drops a column"],
             "drops": ["suppliers.legacy_score"], "warnings": [],
             "sql": "ALTER TABLE suppliers DROP COLUMN legacy_score;"},
        ],
    },
    "watch": {"minutes": 30},
}  # fmt: skip


def metric(id_: str, title: str, unit: str, values: list[float], limit: float, baseline: float) -> dict[str, Any]:
    points = [
        (BEGAN + dt.timedelta(minutes=12 + n), value, "fail" if value > limit else "pass")
        for n, value in enumerate(values)
    ]
    verdict = "fail" if max(values) > limit else "pass"
    svg = line_chart(
        title, unit, points, baseline, {"limit": limit}, [(BEGAN + dt.timedelta(minutes=12), "rolled out")]
    )
    return {"id": id_, "title": title, "unit": unit, "svg": svg, "baseline": baseline, "limits": {"above": limit},
            "worst": max(values), "verdict": verdict, "query": "sum(rate(http_requests_total[2m]))"}  # fmt: skip


def report(**change: Any) -> ReleaseReport:
    """Return the report of a release that was rolled back."""
    approval = {"approved": True, "by": "jonas", "comment": "Backup is from 03:10, go", "plan_hash": plan_hash(PLAN)}
    steps = [
        ("Validate", "success", 41.2, "newer than v2.0.0; backup from 03:10; no incident; every metric has data"),
        ("Plan", "success", 3.1, ""), ("Approve", "success", 640.0, "approved by jonas"),
        ("Migrate", "success", 12.0, "0005_activity_indexes → 0007_drop_legacy_scores"),
        ("Roll out backend-api", "success", 74.0, ""), ("Smoke tests", "success", 22.0, "14 passed"),
        ("Watch", "failed", 720.0, "error rate 4.2 % is above 1 %, 3 samples failed"),
        ("Roll back backend-api", "success", 61.0, ""), ("Build images", "skipped", None, "the registry has them"),
    ]  # fmt: skip
    cases = [{"name": "test_login", "outcome": "passed", "message": ""},
             {"name": "test_export", "outcome": "failed", "message": "assert 500 == 200"}]  # fmt: skip
    found = ReleaseReport(
        title="Release",
        environment="production",
        dag_id="release_deploy",
        run_id="manual__2026-11-24T14:02:11+00:00",
        version="v2.1.0",
        from_version="v2.0.0",
        outcome="rolled-back",
        words="Rolled back by itself: the error rate was 4.2 % (limit 1 %) in 3 of 12 samples.",
        action="The previous version serves again. Find the reason before the next try.",
        requested_by="maria",
        reason="Supplier ratings for the reporting deadline",
        started_at=BEGAN,
        finished_at=BEGAN + dt.timedelta(minutes=43),
        parameters={"version": "v2.1.0", "ref": "main", "dry_run": False},
        approval=approval,
        plan=PLAN,
        steps=tuple(dict(zip(("name", "status", "seconds", "detail"), step, strict=True)) for step in steps),
        changelog="**Features**\n\n- **suppliers**: rate them \\#12 ([9f1c2d3e](<https://git.example/c/9f1c>), Ada)\n",
        smoke={"Smoke tests of v2.1.0":
               {"tests": 2, "failures": 1, "errors": 0, "skipped": 0, "seconds": 1.6, "cases": cases}},
        watch={
            "outcome": "failed", "reason": "3 samples failed", "counts": {"pass": 9, "fail": 3}, "minutes": 12,
            "metrics": [
                metric("error_rate", "Error rate", "percent", [0.2, 0.3, 0.2, 0.4, 2.1, 4.2, 3.9], 1, 0.21),
                metric("latency_p95", "Latency p95", "s", [0.31, 0.35, 0.33, 0.36, 0.41, 0.44, 0.4], 1, 0.3),
                metric("queue_depth", "Tasks waiting", "tasks", [120, 130, 90, 80, 70, 140, 160], 5000, 110),
            ],
        },
        evidence=({"title": "Plan", "where": "s3://vcci-reports/x/plan.json"}, {"title": "Output", "text": "a\nb"}),
        links={"Run": "https://airflow.example/dags/release_deploy"},
    )  # fmt: skip
    return dataclasses.replace(found, **change)


class Page(HTMLParser):
    """Collects tags and what they refer to."""

    VOID = ("meta", "br", "col", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_says_verdict_reason_and_what_to_do_first() -> None:
    page = render(report())
    places = [page.index(words) for words in (
        "<h1>v2.1.0 was ROLLED BACK</h1>", "error rate was 4.2 %", "What to do", "What was asked", "What changed",
        "What happened", "The watch", "Evidence",
    )]  # fmt: skip
    assert places == sorted(places)
    assert "approved" in page.lower()
    assert "jonas" in page
    assert 'class="drop">drops suppliers.legacy_score' in page
    assert "1 of 2 failed" in page
    assert "assert 500 == 200" in page


def test_the_page_is_one_well_formed_file_without_script() -> None:
    page = Page(render(report()))
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("svg") == 3
    assert all(address.startswith("https://") for address in page.addresses)


@pytest.mark.parametrize("outcome", [*release_text.VERDICTS, "something-new"])
def test_every_outcome_has_a_page_and_a_colour(outcome: str) -> None:
    found = report(outcome=outcome)
    good = ("released", "nothing-to-do", "dry-run")
    bad = ("failed", "rolled-back", "rejected", "rollback-failed")
    expected = Status.OK if outcome in good else Status.CRITICAL if outcome in bad else Status.UNKNOWN
    assert found.status is expected
    assert f'class="verdict {expected}"' in render(found)


def test_a_report_with_nothing_in_it_has_a_page() -> None:
    empty = ReleaseReport(
        title="Release", environment="sandbox", dag_id="d", run_id="r", version="", from_version="", outcome="failed",
        words="", action="Nothing.", requested_by="", started_at=BEGAN, finished_at=BEGAN,
    )  # fmt: skip
    page = render(empty)
    assert Page(page).open == []
    assert "What to do" not in page
    assert "not asked" in page


def everywhere(value: Any, text: str) -> Any:
    """Put a text into every string of a structure."""
    if isinstance(value, str):
        return text
    if isinstance(value, dict):
        return {key: item if key == "svg" else everywhere(item, text) for key, item in value.items()}
    return type(value)(everywhere(item, text) for item in value) if isinstance(value, list | tuple) else value


def test_nothing_from_outside_is_markup() -> None:
    fields = {
        field.name: everywhere(getattr(report(), field.name), EVIL)
        for field in dataclasses.fields(ReleaseReport)
        if field.name not in ("started_at", "finished_at", "outcome")
    }
    fields["smoke"]["x"] = {"tests": 1, "failures": 1, "cases": [{"name": EVIL, "outcome": "failed", "message": EVIL}]}
    page = render(ReleaseReport(outcome="failed", started_at=BEGAN, finished_at=BEGAN, **fields))
    assert "script" not in Page(page).tags
    assert "<!channel>" not in page
    assert "49" not in re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page, flags=re.S)


@pytest.mark.parametrize(
    "svg",
    ["<svg><script>x</script></svg>", '<svg onload="x"></svg>', "<p>no</p>", '<svg><image href="http://x"/></svg>',
     None, '<svg><a href="x">y</a></svg>', "<svg></svg><script>"],
)  # fmt: skip
def test_a_drawing_that_runs_or_fetches_something_is_left_out(svg: Any) -> None:
    assert drawing(svg) == ""


def test_prose_knows_lists_links_and_code_and_escapes_the_rest() -> None:
    html = str(prose("### Fixes\n- **db**: `a<b` [x](<https://e/1>) \\*no\\* <b>\n- [y](javascript:alert)\n\nend"))
    assert "<p><strong>Fixes</strong></p>" in html
    assert (
        '<li><strong>db</strong>: <code>a&lt;b</code> <a href="https://e/1" rel="noreferrer">x</a> *no* &lt;b&gt;</li>'
        in html
    )
    assert "href" not in html.partition("javascript")[0][-30:]
    assert html.count("<ul>") == html.count("</ul>") == 1


def test_the_document_is_json_and_has_no_drawings() -> None:
    document = json.loads(json.dumps(report().to_dict()))
    assert document["verdict"] == "v2.1.0 was ROLLED BACK"
    assert document["status"] == "critical"
    assert document["plan_hash"] == plan_hash(PLAN)
    assert document["approved_by"] == "jonas"
    assert [m["id"] for m in document["watch"]["metrics"]] == ["error_rate", "latency_p95", "queue_depth"]
    assert "<svg" not in json.dumps(document)


def test_an_approval_of_another_plan_is_told() -> None:
    assert "the approval is for another plan: abc" in render(
        report(approval={"approved": True, "by": "x", "plan_hash": "abc"})
    )


def test_a_changelog_with_its_structure_is_linked() -> None:
    entry = {"sha": "9f1c2d3e4b", "title": "rate suppliers", "scope": "api", "author": "Ada", "url": "javascript:x"}
    page = render(report(changelog={"groups": {"Features": [entry, {**entry, "url": "https://e/9f"}]}, "left_out": 3}))
    assert "rate suppliers" in page
    assert 'href="https://e/9f"' in page
    assert "javascript:" not in page
    assert "and 3 more" in page


def test_the_daily_page_still_has_its_styles() -> None:
    daily = Report(
        title="Daily", environment="e", dag_id="d", run_id="r", started_at=BEGAN, finished_at=BEGAN, parameters={},
        results=(),
    )  # fmt: skip
    assert "<style>\n:root { --fg:#1b2430" in render_daily(daily)


# Slack ---------------------------------------------------------------------------------------------


def test_every_message_begins_with_the_verdict_and_is_short() -> None:
    said = release_text.final("rolled-back", PLAN, "error rate 4.2 %", "Find the reason.", report_url="https://a/r")
    first, *rest = said.split("\n")
    assert first.endswith("*v2.1.0 was ROLLED BACK*")
    assert rest == ["error rate 4.2 %", "*Do:* Find the reason.", "<https://a/r|Report>"]
    assert len(release_text.headline("running", PLAN).split("\n")) == 2
    assert release_text.headline("held", {**PLAN, "kind": "rollback"}).startswith(release_text.UNJUDGED)
    assert "v2.1.0 is back" in release_text.headline("released", {**PLAN, "kind": "rollback"})


def test_the_plan_says_what_is_dropped() -> None:
    text = release_text.plan_summary(PLAN)
    assert "DROPS data" in text
    assert "drops `suppliers.legacy_score`" in text
    assert "b2b2b2b2b2b2" in text
    assert "schema stays" in release_text.plan_summary({**PLAN, "schema": {"from": "r5", "apply": False}})


def test_phases_have_their_sign() -> None:
    assert (
        release_text.phase("Migrate", "r4 → r5", ok=True, seconds=12) == ":white_check_mark: *Migrate*: r4 → r5 (12 s)"
    )
    assert release_text.phase("Migrate").startswith(":hourglass")
    assert release_text.phase("Migrate", "no", ok=False).startswith(":x:")


def test_no_text_from_outside_mentions_or_links_anything() -> None:
    plan = everywhere(PLAN, EVIL)
    answer = {"by": EVIL, "comment": EVIL, "option": EVIL, "plan_hash": EVIL}
    said = [
        release_text.headline("failed", plan, note=EVIL, url=EVIL), release_text.plan_summary(plan),
        release_text.begun(plan, {"requested_by": EVIL, "approved_by": EVIL}), release_text.phase(EVIL, EVIL),
        release_text.rolling_back(plan, {"why": EVIL, "workloads": {EVIL: 1}}),
        release_text.rolling_back(plan, {"why": EVIL, "ask": True}), release_text.not_rolled_back(EVIL, EVIL),
        release_text.final(EVIL, plan, EVIL, EVIL, report_url=EVIL), release_text.approval_asked(plan, "https://a", 60),
        release_text.approval_given(answer), release_text.approval_refused(EVIL), release_text.approval_note(EVIL),
        release_text.decision_asked(EVIL, [EVIL], EVIL, 60), release_text.decision_made(EVIL, answer),
    ]  # fmt: skip
    for text in said:
        assert "<!" not in text
        assert "<script" not in text
