"""Charts: self-contained, small, readable without colours and without eyes."""

from __future__ import annotations

import datetime as dt
import re
from xml.etree import ElementTree

import pytest

from vcci_ops.domain.charts import line_chart

BEGIN = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
SVG = "{http://www.w3.org/2000/svg}"


def points(count: int) -> list[tuple[dt.datetime, float | None, str]]:
    verdicts = {3: "inconclusive", 7: "error", 16: "fail", 17: "fail"}
    made: list[tuple[dt.datetime, float | None, str]] = []
    for number in range(count):
        verdict = verdicts.get(number, "pass")
        value = None if verdict == "error" else (2.0 if verdict == "fail" else 0.1 + number % 5 / 10)
        made.append((BEGIN + dt.timedelta(minutes=number), value, verdict))
    return made


@pytest.fixture(scope="module")
def chart() -> str:
    marks = [(BEGIN, "rollout done"), (BEGIN + dt.timedelta(minutes=16), "<script>alert(1)</script>")]
    return line_chart("Error rate & <more>", "percent", points(30), 0.4, {"limit": 1.0}, marks)


def test_it_stands_alone_under_a_strict_content_security_policy(chart: str) -> None:
    root = ElementTree.fromstring(chart)
    harmless = {SVG + name for name in ("svg", "title", "desc", "g", "path", "line", "text", "rect")}
    assert {element.tag for element in root.iter()} <= harmless
    assert not re.search(r"<script|<style|href|url\(|\son\w+=|@import|<image|foreignObject", chart)
    assert re.findall(r"https?://[^\"]+", chart) == ["http://www.w3.org/2000/svg"]


def test_who_cannot_see_it_is_told_what_it_shows(chart: str) -> None:
    root = ElementTree.fromstring(chart)
    title, description = root[0], root[1]
    assert (title.tag, title.text) == (f"{SVG}title", "Error rate & <more>")
    assert description.text == (
        "Error rate & <more>: 30 samples from 12:00 to 12:29 UTC; 26 pass, 2 fail, 1 inconclusive, 1 error; "
        "between 0.10 % and 2 %; last 0.50 %; baseline 0.40 %; limit 1 %."
    )
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"


def test_verdicts_differ_in_shape_and_levels_are_named(chart: str) -> None:
    drawn = {
        m["d"] for m in re.finditer(r'aria-roledescription="point"[^>]*|<path[^>]* d="(?P<d>[^"]+)"', chart) if m["d"]
    }
    assert len({re.sub(r"[\d.,-]+", "", d) for d in drawn}) >= 4
    texts = [element.text for element in ElementTree.fromstring(chart).iter(f"{SVG}text")]
    assert {"limit 1 %", "baseline 0.40 %", "rollout done", "pass", "fail", "inconclusive", "error"} <= set(texts)


def test_a_watch_of_a_day_is_no_bigger_than_40_kb_and_keeps_its_failures(chart: str) -> None:
    assert len(chart.encode()) < 40_000
    day = line_chart("Error rate", "percent", points(1440), 0.4, [1.0])
    assert len(day.encode()) < 40_000
    assert ">fail<" in day
    assert "1440 samples from 12:00 to 11:59 UTC; 1436 pass, 2 fail" in day


@pytest.mark.parametrize("given", [[], [(BEGIN, None, "error")], [(BEGIN, 0.0, "pass")]])
def test_little_or_nothing_can_be_drawn(given: list[tuple[dt.datetime, float | None, str]]) -> None:
    assert line_chart("Restarts", "restarts", given, None, [0.0]).startswith("<svg ")


def test_two_charts_in_one_page_do_not_share_ids(chart: str) -> None:
    other = line_chart("Latency", "s", points(3))
    ids = re.findall(r' id="([^"]+)"', chart + other)
    assert len(ids) == len(set(ids))
