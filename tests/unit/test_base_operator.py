"""What every check operator promises, whatever its measuring does."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from vcci_ops.domain.checks import judged
from vcci_ops.domain.results import Result, Status
from vcci_ops.exceptions import InvalidInput, Unreachable
from vcci_ops.operators.base import CheckOperator, DeadlinePassed, time_limit
from vcci_ops.settings import load_settings

CHECKS = load_settings("sandbox").checks


class Measuring(CheckOperator):
    """Measures by a function of the test."""

    measures = ("api.latency", "errors.count")
    system = "The test"

    def __init__(self, *, by: Callable[[], Iterator[Result]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by = by

    def measure(self, context: Any) -> Iterator[Result]:
        yield from self.by()


def good() -> Iterator[Result]:
    yield judged(CHECKS["api.latency"], 0.1, "fast")


def run(recording_task: Any, by: Any, **more: Any) -> tuple[dict[str, Result], Exception | None]:
    task, raised = recording_task(), None
    try:
        Measuring(task_id="t", by=by, **more).execute({"ti": task, "params": {}})
    except AirflowFailException as error:
        raised = error
    return {r["check"]: Result.from_dict(r) for r in task.pushed.get("results", [])}, raised


@pytest.mark.parametrize(
    ("fault", "words", "reason"),
    [
        pytest.param(Unreachable("The test", "refused"), "The test did not answer: refused", "unreachable", id="down"),
        pytest.param(KeyError("x"), "the check itself failed: KeyError", "error", id="a bug"),
    ],
)
def test_an_error_hides_nothing_that_was_measured(recording_task: Any, fault: Any, words: str, reason: str) -> None:
    def by() -> Iterator[Result]:
        yield from good()
        raise fault

    results, raised = run(recording_task, by)
    assert results["api.latency"].status is Status.OK
    assert (results["errors.count"].status, results["errors.count"].reason) == (Status.UNKNOWN, reason)
    assert words in results["errors.count"].summary
    assert raised


def test_a_check_that_says_nothing_is_unknown(recording_task: Any) -> None:
    results, _ = run(recording_task, good)
    assert "reported nothing" in results["errors.count"].summary


def test_a_hang_ends_at_the_deadline(recording_task: Any) -> None:
    def by() -> Iterator[Result]:
        yield from good()
        signal.pause()

    begun = time.monotonic()
    results, raised = run(recording_task, by, deadline=0.3)
    assert time.monotonic() - begun < 5
    assert results["errors.count"].summary == "The test did not answer: no answer within 0 s"
    assert raised


def test_a_red_result_fails_the_task_after_it_was_published(recording_task: Any) -> None:
    def by() -> Iterator[Result]:
        yield judged(CHECKS["api.latency"], 99, "slow")
        yield judged(CHECKS["errors.count"], 0, "none")

    results, raised = run(recording_task, by)
    assert results["api.latency"].status is Status.CRITICAL
    assert str(raised) == "critical API answer time: slow"
    assert run(recording_task, by, fail=False)[1] is None


def test_bad_input_is_no_unknown_but_a_refusal(recording_task: Any) -> None:
    def by() -> Iterator[Result]:
        raise InvalidInput("window", "soon", "a duration")
        yield

    results, raised = run(recording_task, by)
    assert results == {}
    assert "window: 'soon' is not accepted; expected a duration" in str(raised)


def test_a_check_that_the_operator_cannot_measure_is_refused(recording_task: Any) -> None:
    with pytest.raises(InvalidInput, match="expected one of api.latency, errors.count".replace(".", r"\.")):
        run(recording_task, good, checks=[CHECKS["queues.depth"]])


def test_a_section_that_was_not_chosen_is_skipped(recording_task: Any) -> None:
    operator = Measuring(task_id="here.t", by=good)
    with pytest.raises(AirflowSkipException):
        operator.execute({"ti": recording_task(), "params": {"sections": ["there"]}})


def test_the_time_limit_leaves_an_outer_timer_running() -> None:
    def outer(_signal: int, _frame: Any) -> None:
        raise TimeoutError("the outer one")

    before = signal.signal(signal.SIGALRM, outer)
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        with pytest.raises(DeadlinePassed), time_limit(0.05):
            signal.pause()
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 30
        assert signal.getsignal(signal.SIGALRM) is outer
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_check_operator_can_stand_before_any_task() -> None:
    with DAG("d", schedule=None):
        first = Measuring(task_id="a", by=good)
        second = Measuring(task_id="b", by=good)
        [first] >> second
    assert second.upstream_task_ids == {"a"}
