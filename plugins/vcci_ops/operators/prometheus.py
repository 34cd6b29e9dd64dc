"""Checks of what Prometheus has recorded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.checks import judged, unknown
from vcci_ops.domain.results import Result
from vcci_ops.domain.traffic import judge_error_rate, judge_requests
from vcci_ops.exceptions import InvalidInput, MeasurementError, NoData
from vcci_ops.operators.base import CheckOperator
from vcci_ops.settings_base import parse_duration

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.http import Prometheus
    from vcci_ops.settings import Check


class PromQLCheckOperator(CheckOperator):
    """Judge the value of one PromQL query, usable for any check of the settings.

    A query that matches no series is unknown. When the check's threshold has a ``for``, every sample
    of that time must be beyond the limit.

    :param check_id: the check to report.
    :param query: PromQL giving one number in the threshold's unit.
    :param what: how the summary names the number.
    :param step: seconds between samples, where the threshold has a ``for``.
    :param http_conn_id: HTTP connection of Prometheus.
    """

    system = "Prometheus"
    preloads = ("airflow.providers.http.hooks.http",)
    template_fields = ("query",)

    def __init__(
        self,
        *,
        check_id: str,
        query: str,
        what: str = "value",
        step: float = 15.0,
        http_conn_id: str = "vcci_prometheus",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.check_id = check_id
        self.query = query
        self.what = what
        self.step = step
        self.http_conn_id = http_conn_id
        self.measures = (check_id,)

    def measure(self, context: Context) -> Iterator[Result]:
        """Yield the one result."""
        from vcci_ops.hooks.http import Prometheus

        (check,) = self.chosen()
        prometheus = Prometheus(self.http_conn_id)
        self.log.info("Asking Prometheus: %s", self.query)
        value = prometheus.number(self.query)
        lasting = check.threshold.for_ if check.threshold else 0
        samples = prometheus.samples(self.query, lasting, self.step) if lasting else None
        yield judged(check, value, f"{self.what}: {value:,.4g}", samples=samples, query=self.query)


class TrafficCheckOperator(CheckOperator):
    """Requests and error rate of a window, each against the same weekday of past weeks.

    Uses ``increase`` over the window, so the number is a count of requests and not a rate. No series is
    unknown; series without an increase are "no requests", which is critical.

    :param requests: PromQL of the number of requests, with ``{window}`` and ``{offset}``.
    :param errors: PromQL of the number of requests answered with 5xx, with the same places.
    :param up: PromQL of the number of scrape targets that are up.
    :param window: lookback, e.g. ``24h``.
    :param compare_weeks: how many past weeks to compare with.
    :param min_requests: fewer requests give no error rate.
    :param http_conn_id: HTTP connection of Prometheus.
    """

    measures = ("api.requests", "api.error_rate")
    system = "Prometheus"
    preloads = ("airflow.providers.http.hooks.http",)
    template_fields = ("requests", "errors", "up", "window")

    def __init__(
        self,
        *,
        requests: str,
        errors: str,
        up: str,
        window: str = "24h",
        compare_weeks: int = 4,
        min_requests: float = 100,
        http_conn_id: str = "vcci_prometheus",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.requests = requests
        self.errors = errors
        self.up = up
        self.window = window
        self.compare_weeks = compare_weeks
        self.min_requests = min_requests
        self.http_conn_id = http_conn_id

    def measure(self, context: Context) -> Iterator[Result]:
        """Yield ``api.requests`` and ``api.error_rate``."""
        from vcci_ops.hooks.http import Prometheus

        try:
            parse_duration(self.window)
        except ValueError as error:
            raise InvalidInput("window", self.window, "a duration such as 1h, 24h or 7d") from error
        answers = self._ask_all(Prometheus(self.http_conn_id))
        for id_, judge in (("api.requests", self._requests), ("api.error_rate", self._errors)):
            if check := self.check(id_):
                try:
                    yield judge(check, answers)
                except MeasurementError as error:
                    query = self._query(self.requests if id_ == "api.requests" else self.errors)
                    yield unknown(check, error, query=query)

    def _query(self, template: str, weeks: int = 0) -> str:
        offset = f"offset {7 * weeks}d" if weeks else ""
        return template.replace("{window}", self.window).replace("{offset}", offset).replace(" )", ")")

    def _ask_all(self, prometheus: Prometheus) -> dict[str, Future[float]]:
        """Ask everything at once: the answers are independent and each may take seconds."""
        queries = {"up": self.up, "requests": self._query(self.requests), "errors": self._query(self.errors)}
        for weeks in range(1, self.compare_weeks + 1):
            queries[f"requests-{weeks}"] = self._query(self.requests, weeks)
        queries["errors-1"] = self._query(self.errors, 1)
        pool = ThreadPoolExecutor(len(queries))
        answers = {name: pool.submit(prometheus.number, query) for name, query in queries.items()}
        for query in queries.values():
            self.log.info("Asking Prometheus: %s", query)
        pool.shutdown(wait=False)
        return answers

    def _requests(self, check: Check, answers: dict[str, Future[float]]) -> Result:
        requests = answers["requests"].result()
        if answers["up"].result() < 1:
            raise NoData("Prometheus reaches none of the API's pods (up is 0), so requests are not counted")
        past = {weeks: _or_none(answers[f"requests-{weeks}"]) for weeks in range(1, self.compare_weeks + 1)}
        query = self._query(self.requests)
        return judge_requests(check, requests, past, minimum=self.min_requests, query=query)

    def _errors(self, check: Check, answers: dict[str, Future[float]]) -> Result:
        requests, errors = answers["requests"].result(), answers["errors"].result()
        # A past that cannot be had is only missing from the words; it must not hide what is measured now.
        then = _or_none(answers.get("requests-1"), MeasurementError)
        failed = _or_none(answers["errors-1"], MeasurementError)
        before = 100 * failed / then if then and failed is not None else None
        query = self._query(self.errors)
        return judge_error_rate(check, errors, requests, minimum=self.min_requests, before=before, query=query)


def _or_none(answer: Future[float] | None, fault: type[MeasurementError] = NoData) -> float | None:
    """Return a number of the past, or None when it is missing in the way of ``fault``."""
    try:
        return answer.result() if answer else None
    except fault:
        return None
