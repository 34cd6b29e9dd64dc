"""Judging a watch: limits, baseline, counting, ending."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain.watch import (
    MetricVerdict,
    Outcome,
    Reading,
    Sample,
    Verdict,
    WatchState,
    judge_metric,
    judge_sample,
    worst_baseline,
)
from vcci_ops.domain.watched import change_of, expected_of, scaled
from vcci_ops.exceptions import NoData, Unreachable
from vcci_ops.hooks.watch import queries, reading_of
from vcci_ops.settings_watch import Watch, WatchMetric

RATE = WatchMetric(
    id="error_rate", title="Error rate", unit="percent", query="q", traffic="t", min_traffic=20, above=1,
    worse_by_percent=100, worse_by_at_least=0.3,
)  # fmt: skip
CALLS = WatchMetric(id="calls", title="Calls", unit="calls", query="q", below=10, worse_by_percent=50)


def read(value: float | None, traffic: float | None = 100) -> Reading:
    return Reading(value, traffic, "q")


def watch(**more: object) -> Watch:
    return Watch.model_validate({"metrics": [RATE.model_dump()], "failure_limit": 3, "error_limit": 4, **more})


def sample(number: int, *verdicts: str) -> Sample:
    metrics = tuple(MetricVerdict(f"m{i}", f"M{i}", "", Verdict(v), f"M{i} {v}") for i, v in enumerate(verdicts))
    return Sample(number, float(number), float(number), metrics)


def state_of(*verdicts: str, total: int | None = None) -> WatchState:
    state = WatchState(watch(), total or len(verdicts))
    for number, verdict in enumerate(verdicts):
        state.add(sample(number, *verdict.split("+")))
    return state


# One number ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "baseline", "verdict", "words"),
    [
        pytest.param(0.5, {"last_hour": 0.4}, "pass", "Error rate 0.50 %", id="fine"),
        pytest.param(1.0, {"last_hour": 0.9}, "pass", "Error rate 1 %", id="the limit itself is good"),
        pytest.param(
            4.2, {"last_hour": 1.3}, "fail",
            "Error rate 4.20 % is above 1 % and 3.23 times the baseline (1.30 %)", id="both limits",
        ),
        pytest.param(1.2, {"last_hour": 0.9}, "fail", "Error rate 1.20 % is above 1 %", id="absolute alone"),
        pytest.param(
            0.8, {"last_hour": 0.2}, "fail", "Error rate 0.80 % is 4 times the baseline (0.20 %)", id="relative alone"
        ),
        pytest.param(0.25, {"last_hour": 0.1}, "pass", "Error rate 0.25 %", id="twice nothing is nothing"),
        pytest.param(0.8, {"last_hour": 0.2, "last_week": 0.7}, "pass", "Error rate 0.80 %", id="the worse baseline"),
        pytest.param(
            1.5, {"last_hour": 1.4}, "pass", "Error rate 1.50 % (above 1 %, but so it was before: 1.40 %)",
            id="ill before",
        ),
        pytest.param(1.9, {"last_hour": 1.4}, "fail", "Error rate 1.90 % is above 1 %", id="ill before, worse now"),
        pytest.param(
            0.9, {"last_hour": None, "last_week": None}, "pass",
            "Error rate 0.90 % (no baseline: only the absolute limit counts)", id="no baseline",
        ),
        pytest.param(1.1, None, "fail", "Error rate 1.10 % is above 1 %", id="no baseline, absolute"),
        pytest.param(0.5, {"last_hour": 0.0}, "fail", "Error rate 0.50 % is far from the baseline (0 %)", id="from 0"),
    ],
)  # fmt: skip
def test_limits(value: float, baseline: dict[str, float | None] | None, verdict: str, words: str) -> None:
    found = judge_metric(RATE, read(value), baseline)
    assert (found.verdict, found.words) == (verdict, words)


def test_a_missing_number_is_an_error_whatever_the_limits() -> None:
    for reading in (NoData("no series in Prometheus matches: q"), Unreachable("Prometheus", "gone"), read(None)):
        assert judge_metric(RATE, reading, None).verdict is Verdict.ERROR
    assert judge_metric(RATE, read(float("nan")), None).verdict is Verdict.ERROR


def test_too_little_traffic_is_inconclusive_also_without_a_number_and_with_a_bad_one() -> None:
    for value in (None, 0.0, 90.0):
        found = judge_metric(RATE, read(value, 3), {"last_hour": 0.1})
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.words == "Error rate says nothing: 3 requests, fewer than 20"


@pytest.mark.parametrize(
    ("value", "base", "verdict"),
    [(20, 25, "pass"), (9, 9, "pass"), (9, 25, "fail"), (12, 25, "fail"), (13, 25, "pass"), (9, None, "fail")],
)
def test_what_must_not_fall(value: float, base: float | None, verdict: str) -> None:
    assert judge_metric(CALLS, read(value, None), {"last_hour": base}).verdict == verdict


def test_the_worse_baseline_is_the_lower_one_for_what_must_not_fall() -> None:
    baseline = {"last_hour": 20.0, "last_week": 30.0, "now": None}
    assert worst_baseline(RATE, baseline) == 30.0
    assert worst_baseline(CALLS, baseline) == 20.0
    assert worst_baseline(CALLS, {}) is None


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_a_higher_value_is_never_judged_better(base: float, value: float, more: float) -> None:
    low = judge_metric(RATE, read(value), {"last_hour": base}).verdict
    high = judge_metric(RATE, read(value + more), {"last_hour": base}).verdict
    assert high.rank >= low.rank


# A sample -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("pass", "pass"), "pass"),
        (("pass", "inconclusive"), "inconclusive"),
        (("inconclusive", "error", "pass"), "error"),
        (("pass", "error", "fail"), "fail"),
        ((), "inconclusive"),
    ],
)
def test_the_gravest_number_decides(verdicts: tuple[str, ...], expected: str) -> None:
    assert sample(0, *verdicts).verdict == expected


def test_a_metric_that_was_not_looked_at_is_not_judged() -> None:
    made = judge_sample(watch(), 0, due_at=1, observed_at=9, readings={}, baseline={}, notes=["observed late"])
    assert (made.metrics, made.verdict, made.notes) == ((), Verdict.INCONCLUSIVE, ("observed late",))


def test_a_sample_survives_json() -> None:
    made = judge_sample(watch(), 3, due_at=60, observed_at=61, readings={"error_rate": read(4)}, baseline={})
    assert Sample.from_dict(made.to_dict()) == made
    assert made.line(30) == "sample 4 of 30, 00:01:00: fail: Error rate 4 % is above 1 %"


# The whole ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        pytest.param(["pass"] * 5, "passed", id="all good"),
        pytest.param(["pass", "fail", "fail", "pass"], "passed", id="below the limit"),
        pytest.param(["fail", "pass", "fail", "pass", "fail"], "failed", id="the limit counts in all"),
        pytest.param(["error"] * 4 + ["pass"], "held", id="four in a row"),
        pytest.param(
            ["error", "error", "error", "pass", "error", "error", "error", "pass"], "passed", id="interrupted"
        ),
        pytest.param(["inconclusive"] * 3, "inconclusive", id="no traffic"),
        pytest.param(["inconclusive", "pass", "inconclusive"], "passed", id="one good sample"),
        pytest.param(["pass"] * 5 + ["inconclusive"] * 3, "passed", id="quiet at the end"),
        pytest.param(["pass"] * 5 + ["inconclusive"] * 4, "inconclusive", id="no traffic any more"),
        pytest.param(["pass"] + ["inconclusive"] * 9 + ["pass"], "passed", id="traffic came back"),
        pytest.param(["error", "inconclusive"], "held", id="nothing seen at the end"),
        pytest.param(["error", "error"], "held", id="too short to reach the limit"),
        pytest.param(["fail", "fail", "inconclusive"], "inconclusive", id="some failed, none passed"),
        pytest.param(["fail+error", "error", "error", "error", "pass"], "held", id="a failure is no sight"),
        pytest.param(["fail+error"] * 3, "failed", id="what is seen to fail, fails"),
    ],
)
def test_how_it_ends(verdicts: list[str], outcome: str) -> None:
    state = state_of(*verdicts)
    assert state.outcome == outcome
    assert state.reason(Outcome(outcome))


def test_traffic_that_ends_during_the_watch_is_told_with_its_numbers() -> None:
    state = state_of("pass", *["inconclusive"] * 4)
    assert state.reason(Outcome.INCONCLUSIVE) == (
        "the last 4 samples say nothing (M0 inconclusive): 1 pass, 4 inconclusive of 5 samples; "
        "nothing is proven either way"
    )


def test_it_goes_on_while_samples_are_missing() -> None:
    state = WatchState(watch(), 3)
    assert state.add(sample(2, "pass")) is None
    assert state.add(sample(0, "pass")) is None
    assert state.missing == [1]
    assert state.add(sample(1, "pass")) is Outcome.PASSED


def test_a_number_counts_once_and_what_is_stored_wins() -> None:
    state = WatchState(watch(), 3)
    state.add(sample(0, "fail"))
    state.add(sample(0, "pass"))
    assert state.counts["fail"] == 1
    state.adopt([sample(0, "pass")])
    assert (state.counts["fail"], state.counts["pass"]) == (0, 1)


def test_progress_is_short_and_shows_what_is_not_good() -> None:
    assert state_of(total=4).progress() == "Watching: waiting for the first of 4 samples"
    state = state_of("pass", "pass+error", total=4)
    assert state.progress() == "Watching, 2 of 4 samples: 1 pass, 1 error\nLast, error: M1 error"


@given(st.lists(st.sampled_from(["pass", "fail", "inconclusive", "error"]), min_size=1, max_size=12))
def test_nothing_unseen_ever_passes_or_fails(verdicts: list[str]) -> None:
    outcome = state_of(*verdicts).outcome
    if outcome is Outcome.PASSED:
        assert "pass" in verdicts
        assert verdicts[-4:] != ["inconclusive"] * 4
        assert verdicts.count("fail") < 3
    if outcome is Outcome.FAILED:
        assert verdicts.count("fail") >= 3
    if set(verdicts) <= {"error"}:
        assert outcome is Outcome.HELD


# What was watched ---------------------------------------------------------------------------------------


def manifest(generation: int = 3, replicas: int = 2, image: str = "r/api:v1@sha256:1", **meta: object) -> dict:  # type: ignore[type-arg]
    template = {"spec": {"containers": [{"name": "api", "image": image}]}}
    return {
        "metadata": {"name": "api", "generation": generation, **meta},
        "spec": {"replicas": replicas, "template": template},
    }


def test_an_untouched_or_scaled_deployment_is_still_the_release() -> None:
    expected = expected_of(manifest())
    assert change_of("api", expected, manifest()) == ""
    assert change_of("api", expected, manifest(generation=4, replicas=5)) == ""
    assert scaled("api", expected, manifest(generation=4, replicas=5)) == "api was scaled to 5"
    assert scaled("api", expected, manifest()) == ""


def test_a_change_is_told_with_who_and_why() -> None:
    fields = [
        {"manager": "kubectl-set", "time": "2026-11-24T12:00:00Z", "fieldsV1": {"f:spec": {}}},
        {"manager": "controller", "time": "2026-11-24T12:09:00Z", "subresource": "status", "fieldsV1": {"f:spec": {}}},
    ]
    new = manifest(
        4, image="r/api:v2", managedFields=fields, annotations={"kubernetes.io/change-cause": "hotfix by ada"}
    )
    assert change_of("api", expected_of(manifest()), new) == (
        "Deployment api runs r/api:v2 instead of r/api:v1@sha256:1, "
        "last written by kubectl-set at 2026-11-24T12:00:00Z, change cause: hotfix by ada"
    )


def test_without_a_digest_of_the_specification_every_generation_counts() -> None:
    expected = {"generation": 3, "image": "r/api:v1@sha256:1"}
    assert change_of("api", expected, manifest(4, replicas=9)) == "Deployment api was changed (generation 3 → 4)"
    assert change_of("api", expected, None) == "Deployment api is gone"


# Queries and settings -----------------------------------------------------------------------------------


def test_the_window_is_filled_in_everywhere() -> None:
    metric = RATE.model_copy(update={"query": "a[{window}] / b[{window}]", "traffic": "b[{window}]"})
    assert queries(metric, 120.0) == ("a[120s] / b[120s]", "b[120s]")


def test_not_a_number_needs_little_traffic_as_its_excuse() -> None:
    nan = [({}, float("nan"))]
    assert reading_of(RATE, "q", nan, "t", [({}, 0.0)]).value is None
    with pytest.raises(NoData, match="has no number"):
        reading_of(RATE, "q", nan, "t", [({}, 100.0)])
    with pytest.raises(NoData, match="no series"):
        reading_of(RATE, "q", [], "t", [({}, 100.0)])
    with pytest.raises(NoData, match="no series in Prometheus matches: t"):
        reading_of(RATE, "q", [({}, 1.0)], "t", [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": ""}, "a query, for the source is prometheus"),
        ({"above": None, "worse_by_percent": None}, "a limit"),
        ({"source": "redis"}, "for the source redis one of the ids queue_age, queue_depth"),
        ({"source": "logs", "id": "new_errors"}, "takes none"),
    ],
)
def test_a_metric_that_cannot_be_watched_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WatchMetric.model_validate({**RATE.model_dump(), **change})


def test_a_sample_never_takes_longer_than_its_interval() -> None:
    assert watch(interval=60).deadline == 45
    assert watch(interval=1).deadline == pytest.approx(0.8)
    assert watch(interval=60).samples() == 30
    assert watch(interval=60).samples(0.1) == 1
