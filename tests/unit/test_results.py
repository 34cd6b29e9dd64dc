"""Statuses, thresholds and results."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain.checks import describe, judged, stated, unknown, verdict
from vcci_ops.domain.results import Result, Status, worst
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import Forbidden, MeasurementError, NoData
from vcci_ops.settings import Check, Threshold

ABOVE = Threshold(unit="percent", warning=80, critical=95)
BELOW = Threshold(unit="s", warning=100, critical=10, direction="below")
CHECK = Check(id="a.b", section="S", title="T", meaning="M", action="A", runbook="R", threshold=ABOVE, link="https://x")


@pytest.mark.parametrize(
    ("threshold", "value", "expected"),
    [
        pytest.param(ABOVE, 80, Status.OK, id="the limit itself is good"),
        pytest.param(ABOVE, 80.1, Status.WARNING, id="beyond warning"),
        pytest.param(ABOVE, 95, Status.WARNING, id="at critical"),
        pytest.param(ABOVE, 95.1, Status.CRITICAL, id="beyond critical"),
        pytest.param(BELOW, 100, Status.OK, id="below: the limit itself is good"),
        pytest.param(BELOW, 99, Status.WARNING, id="below warning"),
        pytest.param(BELOW, 9, Status.CRITICAL, id="below critical"),
        pytest.param(Threshold(unit="x"), 1e9, Status.OK, id="no limit"),
        pytest.param(Threshold(unit="x", warning=0, critical=0), 1, Status.CRITICAL, id="critical wins"),
    ],
)
def test_verdict_of_a_value(threshold: Threshold, value: float, expected: Status) -> None:
    assert verdict(threshold, value) is expected


def test_a_limit_counts_only_when_every_sample_passed_it() -> None:
    assert verdict(ABOVE, 99, [99, 99]) is Status.CRITICAL
    assert verdict(ABOVE, 99, [99, 90]) is Status.WARNING
    assert verdict(ABOVE, 99, [99, 10]) is Status.OK


def test_unknown_outranks_warning_and_nothing_measured_is_unknown() -> None:
    assert worst([Status.OK, Status.UNKNOWN, Status.WARNING]) is Status.UNKNOWN
    assert worst([Status.UNKNOWN, Status.CRITICAL]) is Status.CRITICAL
    assert worst([]) is Status.UNKNOWN
    assert [status for status in Status if status.fails_run] == [Status.CRITICAL, Status.UNKNOWN]


def test_a_result_carries_everything_a_person_needs() -> None:
    result = judged(CHECK, 96.5, "96.5 % used", subject="db")
    assert result.status is Status.CRITICAL
    assert (result.title, result.meaning, result.action, result.runbook) == ("T", "M", "A", "R")
    assert (result.value, result.unit, result.display, result.link) == (96.5, "percent", "96.5 %", "https://x")
    assert result.threshold == "warning above 80 %, critical above 95 %"


def test_what_could_not_be_measured_is_unknown_with_its_reason() -> None:
    result = unknown(CHECK, Forbidden("Kubernetes", "list pods in namespace x"))
    assert (result.status, result.reason) == (Status.UNKNOWN, "forbidden")
    assert "missing permission to list pods in namespace x" in result.summary
    assert unknown(CHECK, NoData("none")).reason == "no_data"
    assert unknown(CHECK, MeasurementError("x")).value is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unknown_never_ok(value: float) -> None:
    for unit in ("percent", "bytes", "s"):
        check = CHECK.model_copy(update={"threshold": Threshold(unit=unit, warning=1)})
        assert judged(check, value, "measured").status is Status.UNKNOWN
        assert judged(check, 5, "measured", samples=[value]).status is Status.UNKNOWN


def test_far_too_much_can_be_a_warning_where_too_little_is_bad() -> None:
    both = Threshold(unit="percent of usual", warning=60, critical=10, direction="below", warning_above=300)
    assert [verdict(both, v) for v in (5, 50, 100, 301)] == [
        Status.CRITICAL,
        Status.WARNING,
        Status.OK,
        Status.WARNING,
    ]
    assert describe(both).endswith("warning above 300 percent of usual")
    with pytest.raises(ValueError, match="only with direction below"):
        Threshold(unit="x", warning=1, warning_above=2)


def test_limits_in_words() -> None:
    assert describe(Threshold(unit="pods", warning=0, **{"for": 300})) == "warning above 0 pods for 5 min"
    assert describe(None) == ""


@given(
    st.builds(
        Result,
        check=st.text(),
        status=st.sampled_from(Status),
        summary=st.text(),
        subject=st.text(),
        value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        details=st.lists(st.text()).map(tuple),
    )
)
def test_results_survive_json(result: Result) -> None:
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_records_with_keys_of_another_version_stay_readable() -> None:
    record = {**stated(CHECK, Status.OK, "fine").to_dict(), "since": None, "new_key": 1}
    assert Result.from_dict(record).summary == "fine"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0, "bytes", "0 B"),
        (999, "bytes", "999 B"),
        (1_340_000_000, "bytes", "1.34 GB"),
        (-2_000_000, "bytes", "-2.00 MB"),
        (0.042, "s", "42 ms"),
        (59, "s", "59 s"),
        (5400, "s", "1 h 30 min"),
        (93600, "s", "1 d 2 h"),
        (0.4213, "percent", "0.42 %"),
        (12, "pods", "12 pods"),
        (1234567, "", "1,234,567"),
    ],
)
def test_numbers_as_people_read_them(value: float, unit: str, expected: str) -> None:
    assert humanize(value, unit) == expected


@given(st.floats(min_value=-1e12, max_value=1e12, allow_nan=False))
def test_every_number_has_words(value: float) -> None:
    assert duration(value)
    assert humanize(value, "bytes")
    assert not math.isnan(value)
