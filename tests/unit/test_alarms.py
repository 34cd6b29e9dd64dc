"""Three bad looks in a row turn a check red, two good ones green; what cannot be seen turns nothing else."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain import alarm_text
from vcci_ops.domain.alarms import Alarm, Notice, Patience, notice
from vcci_ops.domain.report import Point, Report
from vcci_ops.domain.results import Result, Status

BEGIN = dt.datetime(2026, 11, 26, 6, tzinfo=dt.UTC)
LETTERS = {"o": Status.OK, "w": Status.WARNING, "c": Status.CRITICAL, "u": Status.UNKNOWN}


def at(hours: int) -> dt.datetime:
    return BEGIN + dt.timedelta(hours=hours)


def report(now: list[Result], earlier: dict[tuple[str, str], dict[int, str]], hour: int) -> Report:
    series = {
        key: [Point(at=at(h), value=None, status=LETTERS[letter]) for h, letter in looks.items()]
        for key, looks in earlier.items()
    }
    common: dict[str, Any] = {"title": "t", "environment": "sandbox", "dag_id": "d", "run_id": "r", "parameters": {}}
    return Report(**common, started_at=at(hour), finished_at=at(hour), results=tuple(now), series=series)


def looked(letters: str) -> Notice:
    """What the last of these looks at one check changes."""
    earlier = {("api.ready", ""): dict(enumerate(letters[:-1]))}
    now = Result(check="api.ready", status=LETTERS[letters[-1]], summary="", title="API readiness")
    return notice(report([now], earlier, len(letters) - 1), Patience())


@pytest.mark.parametrize(
    ("looks", "red", "green", "still", "wavering"),
    [
        pytest.param("ooo", 0, 0, 0, [], id="well"),
        pytest.param("oww", 0, 0, 0, [], id="a warning is not bad"),
        pytest.param("c", 0, 0, 0, [1], id="the first look"),
        pytest.param("ccoc", 0, 0, 0, [1], id="interrupted"),
        pytest.param("ocu", 0, 0, 0, [2], id="not measured is bad"),
        pytest.param("occc", 1, 0, 0, [], id="the third turns it"),
        pytest.param("occcc", 0, 0, 1, [], id="said once"),
        pytest.param("occco", 0, 0, 1, [], id="one good look is not enough"),
        pytest.param("occcoco", 0, 0, 1, [], id="flapping stays red"),
        pytest.param("occcoo", 0, 1, 0, [], id="the second good one turns it"),
        pytest.param("occcooo", 0, 0, 0, [], id="and that is said once"),
    ],
)
def test_turning(looks: str, red: int, green: int, still: int, wavering: list[int]) -> None:
    found = looked(looks)
    assert (len(found.turned_red), len(found.turned_green), len(found.red)) == (red, green, still)
    assert [row for _, row in found.wavering] == wavering
    for _, since in (*found.turned_red, *found.red, *found.turned_green):
        assert since == at(1), "the first bad look of the row"


def test_a_check_that_cannot_be_measured_says_nothing_of_its_subjects() -> None:
    deep = {
        ("queues.depth", "intake"): {0: "c", 1: "c", 2: "c"},
        ("queues.depth", "reporting"): {0: "o", 1: "o", 2: "o"},
    }
    blind = Result(check="queues.depth", status=Status.UNKNOWN, summary="no answer", title="Queue depth")
    found = notice(report([blind], deep, 3), Patience())
    assert [(result.subject, since) for result, since in found.red] == [("intake", at(0))]
    assert [(result.subject, row) for result, row in found.wavering] == [("", 1)]


def test_being_blind_ends_with_the_first_measurement_and_a_subject_that_is_gone_takes_its_trouble_with_it() -> None:
    earlier = {
        ("queues.depth", ""): {0: "u", 1: "u", 2: "u"},
        ("queues.depth", "old"): {-3: "c", -2: "c", -1: "c", 3: "o"},
        ("queues.depth", "intake"): {3: "o"},
    }
    now = [Result(check="queues.depth", subject="intake", status=Status.OK, summary="", title="Queue depth")]
    found = notice(report(now, earlier, 4), Patience())
    assert {result.subject for result, _ in found.turned_green} == {"", "old"}
    assert {result.summary for result, _ in found.turned_green} == {"measured again", "not reported any more"}


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_it_is_red_exactly_after_a_row_of_bad_looks_that_no_row_of_good_ones_ended(
    bads: list[bool], red_after: int, green_after: int
) -> None:
    alarm, red = Alarm(), False
    for number, bad in enumerate(bads):
        alarm.look(at(number), bad=bad, patience=Patience(red_after, green_after))
        seen = bads[: number + 1]
        if seen[-red_after:] == [True] * red_after:
            red = True
        if seen[-green_after:] == [False] * green_after:
            red = False
        assert alarm.red == red


def test_what_people_read_survives_xcom_and_escapes_what_comes_from_outside() -> None:
    bad = Result(
        check="queues.depth",
        subject="<!channel>",
        status=Status.CRITICAL,
        summary="5,200 tasks",
        title="Queue depth",
        action="Scale the workers up.",
    )
    found = Notice.from_dict(Notice(turned_red=((bad, at(0)),), wavering=((bad, 2),)).to_dict())
    said = alarm_text.turned(found, "https://ops/report")
    assert said.splitlines() == [
        ":red_circle: *Queue depth [&lt;!channel&gt;]* is red, bad since 06:00 UTC: 5,200 tasks",
        "*Do:* Scale the workers up.",
        "<https://ops/report|Report>",
    ]
    assert alarm_text.page(found, "https://ops/report")[0] == "red: Queue depth [<!channel>]"
    line = alarm_text.line(
        at(2), {"verdict": "Act now", "status": "critical", "url": "https://ops/r"}, found, ["no past"]
    )
    assert line.splitlines() == [
        "08:00 :red_circle: Act now · <https://ops/r|report>",
        "• Queue depth [&lt;!channel&gt;]: red since 06:00",
        "• Queue depth [&lt;!channel&gt;]: 2 bad in a row, not loud yet",
        ":warning: no past",
    ]
    assert alarm_text.turned(Notice(), "https://ops/report") == ""
