"""What every check operator shares: no check hides another, and no failure passes for an ok."""

from __future__ import annotations

import datetime as dt
import importlib
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from vcci_ops.domain.checks import unknown
from vcci_ops.domain.results import Result, Status
from vcci_ops.exceptions import InvalidInput, MeasurementError, Unreachable
from vcci_ops.links import ReportLink
from vcci_ops.settings import Check, load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.history import History

RESULTS_KEY = "results"
"""XCom key under which a check task leaves its results, a list of :meth:`Result.to_dict`."""

_LEVEL = {
    Status.OK: logging.INFO,
    Status.WARNING: logging.WARNING,
    Status.UNKNOWN: logging.ERROR,
    Status.CRITICAL: logging.ERROR,
}


def section_chosen(context: Context, task_id: str) -> bool:
    """Whether the run's parameter ``sections``, if it has one, names the task group of this task."""
    sections = (context.get("params") or {}).get("sections")
    return not sections or "." not in task_id or task_id.partition(".")[0] in sections


class DeadlinePassed(BaseException):
    """A check took too long; not an Exception, so that no client library swallows it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`DeadlinePassed` in the block after ``seconds``; main thread only, elsewhere no limit.

    Airflow's own timeout would do, but it takes the timer of the task's ``execution_timeout`` with it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def passed(_signal: int, _frame: Any) -> None:
        raise DeadlinePassed

    begun = time.monotonic()
    handler = signal.signal(signal.SIGALRM, passed)
    before, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if before:
            signal.setitimer(signal.ITIMER_REAL, max(before - (time.monotonic() - begun), 0.001))


class CheckOperator(BaseOperator):
    """Measure one system and leave a :class:`~vcci_ops.domain.results.Result` per check and subject.

    A subclass names what it can measure in :attr:`measures` and yields results from :meth:`measure`.
    A check's results are yielded together, once all its subjects are measured. Results stand in XCom
    under ``results`` before the task fails, so a later task reads them whatever
    happened here. An error makes *unknown* every check that has not reported yet; results already
    yielded stay.

    :param checks: what to report; default: the settings' checks with the ids in :attr:`measures`.
        Leave some out to not measure them.
    :param deadline: seconds until the system counts as not answering.
    :param fail: end the task failed (without a retry) when a result is critical or unknown.
    :param history_conn_id: connection of the history database, for checks that compare with earlier
        runs; default none: such checks then say that there is nothing to compare with.
    :raises AirflowFailException: after publishing, when ``fail`` and a result is critical or unknown; at
        once when a parameter cannot be used.
    :raises AirflowSkipException: when the run's parameter ``sections`` leaves out this task's group.
    """

    measures: tuple[str, ...] = ()
    system: str = "The system"
    """What the operator talks to, as the beginning of a sentence."""
    preloads: tuple[str, ...] = ()
    """Client libraries to import before the deadline starts: a busy worker is no system that is down."""
    remembered: tuple[str, ...] = ()
    """XCom keys under which it leaves what the next run compares with; the report keeps them."""
    ui_color = "#e6f2ec"
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        checks: Sequence[Check] | None = None,
        deadline: float = 20.0,
        fail: bool = True,
        history_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.checks = checks
        self.deadline = deadline
        self.fail = fail
        self.history_conn_id = history_conn_id

    @cached_property
    def history(self) -> History | None:
        """The history of earlier runs, or None where the task was given no connection to one."""
        from vcci_ops.hooks.history import History

        return History(self.history_conn_id) if self.history_conn_id else None

    def earlier(self, context: Context, kind: str, *, days: float) -> list[tuple[dt.datetime, Any]]:
        """Return what earlier runs of this environment left under an XCom key, with its time, newest first.

        A scheduled run sees scheduled runs only: what somebody looked at by hand at 08:55 is still new at
        09:00. Empty without a connection to a history.

        :raises MeasurementError: when the history does not answer: "nothing to compare with" would be a lie.
        """
        if self.history is None:
            return []
        run = context["dag_run"]
        before = run.start_date or dt.datetime.now(dt.UTC)
        environment = load_settings().environment
        return self.history.snapshots(environment, kind, before, days=days, besides=str(run.run_id))

    def measure(self, context: Context) -> Iterator[Result]:
        """Yield the results; raise a :class:`~vcci_ops.exceptions.MeasurementError` for what is missing."""
        raise NotImplementedError

    def check(self, id_: str) -> Check | None:
        """Return the check to report under this id, or None when it was not asked for."""
        return next((c for c in self.chosen() if c.id == id_), None)

    def chosen(self) -> Sequence[Check]:
        """Return the checks that this task reports."""
        if self.checks is None:
            self.checks = load_settings().pick(*self.measures)
        return self.checks

    def execute(self, context: Context) -> None:
        """Measure, log, publish, and then fail if it has to."""
        if not section_chosen(context, self.task_id):
            raise AirflowSkipException("left out by the run's parameter `sections`")
        for check in self.chosen():
            if check.id not in self.measures:
                raise InvalidInput(f"{self.task_id}.checks", check.id, f"one of {', '.join(self.measures)}")
        for module in self.preloads:
            importlib.import_module(module)
        results = list(self._results(context))
        context["ti"].xcom_push(key=RESULTS_KEY, value=[r.to_dict() for r in results])
        bad = [r for r in results if r.status.fails_run]
        if bad and self.fail:
            raise AirflowFailException("; ".join(f"{r.status} {r.title}: {r.summary}" for r in bad))

    def _results(self, context: Context) -> Iterator[Result]:
        seen: set[str] = set()
        error: MeasurementError | None = None
        try:
            with time_limit(self.deadline):
                for result in self.measure(context):
                    seen.add(result.check)
                    self._log_result(result)
                    yield result
        except DeadlinePassed:
            error = Unreachable(self.system, f"no answer within {self.deadline:.0f} s")
        except MeasurementError as failure:
            error = failure
        except InvalidInput as failure:
            raise AirflowFailException(str(failure)) from failure
        except Exception as failure:
            self.log.exception("This check has a fault of its own")
            error = MeasurementError(f"the check itself failed: {type(failure).__name__} (see the task's log)")
        for check in self.chosen():
            if check.id not in seen:
                result = unknown(check, error or MeasurementError("the check reported nothing"))
                self._log_result(result)
                yield result

    def _log_result(self, result: Result) -> None:
        self.log.log(_LEVEL[result.status], "%-8s %s: %s", result.status.upper(), result.name, result.summary)
        if result.threshold:
            self.log.info("         limits: %s", result.threshold)
        if result.query:
            self.log.info("         asked: %s", result.query)
        for line in result.details:
            self.log.info("         %s", line)
