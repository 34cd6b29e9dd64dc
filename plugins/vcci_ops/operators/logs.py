"""Check of a workload's logs: how many errors, of which kinds, which of them new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.checks import judged, stated, unknown
from vcci_ops.domain.pods import bounded
from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import MeasurementError, NoData
from vcci_ops.operators.base import CheckOperator
from vcci_ops.settings import Check
from vcci_ops.settings_base import parse_duration

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.logs import LogReading

SIGNATURES_KEY = "signatures"
"""XCom key of what was found: a list of ``{"signature": ..., "count": ...}``, most frequent first."""
SHOWN = 12
"""Signatures that a result names."""
EXAMPLES = 7
"""New signatures that a result shows with an example."""
_READ_SHARE = 0.8
"""Share of the deadline that reading may take, so that what was counted is still reported."""
KNOWN_DAYS = 14
"""How far back a signature is known."""


class LogsCheckOperator(CheckOperator):
    """Count the error lines of a Deployment's pods, grouped by what they have in common.

    What ``kubectl logs deployment/x | grep ERROR`` was meant to do, for every pod instead of one, and also
    for the container that ran before the last restart when that was within the window. Logs are read in
    big chunks, several pods at once, and nothing but counts, signatures and one masked sample of each is
    kept, so memory stays flat.

    Measures ``errors.count`` (error lines) and ``errors.new`` (signatures that the run before did not
    have). A pod whose log cannot be read makes both unknown and is named; what the others logged is shown
    all the same, and counts when it is bad by itself. A container that never started has no log to read.
    When all logs are empty, both are unknown: silence is no proof that nothing went wrong. When the history
    does not answer, ``errors.new`` is unknown and ``errors.count`` is not.

    Leaves in XCom ``signatures`` what it found, for the next run to compare with.

    Needs: get deployments.apps, list pods and replicasets.apps, get pods/log in the namespace.

    :param namespace: where the Deployment is (templated).
    :param workload: name of the Deployment (templated).
    :param container: whose log is read (templated); default: the container named as the Deployment.
    :param window: seconds to look back, or ``90m`` (templated). Default: 1 hour.
    :param markers: a line with one of these is an error line. Default: ERROR, CRITICAL, FATAL.
    :param max_signatures: distinct signatures kept; lines of further ones are counted together.
    :param known_signatures: what counts as known for ``errors.new``; None: what the history's runs of the
        last :data:`KNOWN_DAYS` days have met, for yesterday's last hour alone would make much look new.
    :param page_size: pods to a list request; bounds memory.
    :param kubernetes_conn_id: Airflow connection of the cluster.
    :param deadline: seconds until reading ends; as the work grows with the logs, 2 minutes by default. A
        cluster that does not answer at all is reported after 10 s.
    """

    measures = ("errors.count", "errors.new")
    remembered = (SIGNATURES_KEY,)
    system = "Kubernetes"
    preloads = ("airflow.providers.cncf.kubernetes.hooks.kubernetes", "kubernetes.utils.quantity")
    template_fields: Sequence[str] = ("namespace", "workload", "container", "window", "kubernetes_conn_id")

    def __init__(
        self,
        *,
        namespace: str,
        workload: str,
        container: str = "",
        window: float | str = 3600.0,
        markers: Sequence[str] = ("ERROR", "CRITICAL", "FATAL"),
        max_signatures: int = 200,
        known_signatures: Sequence[str] | None = None,
        page_size: int = 500,
        kubernetes_conn_id: str = "vcci_kubernetes",
        deadline: float = 120.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(deadline=deadline, **kwargs)
        self.namespace = namespace
        self.workload = workload
        self.container = container
        self.window = window
        self.markers = markers
        self.max_signatures = max_signatures
        self.known_signatures = known_signatures
        self.page_size = page_size
        self.kubernetes_conn_id = kubernetes_conn_id

    def previous_signatures(self, context: Context) -> Sequence[str] | None:
        """Return the signatures that earlier runs have met; None when there was no such run.

        :raises MeasurementError: when the history does not answer.
        """
        if self.known_signatures is not None:
            return self.known_signatures
        runs = self.earlier(context, SIGNATURES_KEY, days=KNOWN_DAYS)
        return list(dict.fromkeys(item["signature"] for _, found in runs for item in found)) if runs else None

    def measure(self, context: Context) -> Iterator[Result]:
        """Read the logs once, and judge both checks by them."""
        reading = self._read()
        self._refuse_emptiness(reading)
        if reading.size:
            found = [{"signature": k.signature, "count": k.count} for k in reading.signatures.most_common()]
            context["ti"].xcom_push(key=SIGNATURES_KEY, value=found)
        if count := self.check("errors.count"):
            yield self._count(count, reading)
        if new := self.check("errors.new"):
            yield self._compared(new, reading, context)

    def _refuse_emptiness(self, reading: LogReading) -> None:
        if reading.unread or reading.size:
            return
        if not reading.logs:
            raise NoData(f"none of the {reading.pods} pods of {self.workload} has a log: {reading.notes[0]}")
        raise NoData(
            f"all logs of the {reading.pods} pods of {self.workload} are empty in the last {duration(self._window)}: "
            "is logging on, does the container write to stdout?"
        )

    # Judging ---------------------------------------------------------------------------------------

    def _count(self, check: Check, reading: LogReading) -> Result:
        found = reading.signatures
        within = f"in the last {duration(self._window)}"
        read = f"{reading.logs} of {reading.pods} pods read, {humanize(reading.size, 'bytes')}"
        summary = f"no error lines {within} ({read})"
        if found.total:
            top = found.most_common()[0]
            kinds = "1 kind" if len(found.kinds) == 1 else f"{len(found.kinds)} kinds"
            lines = "1 error line" if found.total == 1 else f"{found.total} error lines"
            summary = f"{lines} of {kinds} {within}, in {len(found.pods)} of {reading.pods} pods; most: {top}"
        details = bounded(found.most_common(), SHOWN, "more kinds")
        if found.others:
            details.append(f"{found.others}x of further kinds: more than {self.max_signatures} were found")
        details += [*bounded(reading.unread, 5), *bounded(reading.notes, 5)]
        result = judged(check, float(found.total), summary, details=tuple(details), query=self._query())
        return self._lowered(check, result, reading)

    def _compared(self, check: Check, reading: LogReading, context: Context) -> Result:
        try:
            known = self.previous_signatures(context)
        except MeasurementError as error:
            return unknown(check, error, query=self._query())
        return self._new(check, reading, known)

    def _new(self, check: Check, reading: LogReading, known: Sequence[str] | None) -> Result:
        if known is None and not reading.unread:
            return stated(check, Status.OK, "no earlier run to compare with", query=self._query())
        new = list(reading.signatures.unseen(known or ())) if known is not None else []
        summary = f"no kind of error that was not there before ({len(known or ())} were)"
        if new:
            summary = f"{len(new)} new: {new[0]}"
        details = [line for kind in new[:EXAMPLES] for line in (str(kind), f"e.g. {kind.sample}")]
        if len(new) > EXAMPLES:
            details.append(f"and {len(new) - EXAMPLES} more kinds")
        details += bounded(reading.unread, 5)
        result = judged(check, float(len(new)), summary, details=tuple(details), query=self._query())
        return self._lowered(check, result, reading)

    def _lowered(self, check: Check, result: Result, reading: LogReading) -> Result:
        """Make unknown what is only a lower bound, unless even that is critical."""
        if not reading.unread or result.status is Status.CRITICAL:
            return result
        why = f"the logs of {len(reading.unread)} of {reading.pods} pods could not be read; so far {result.summary}"
        more = {"value": result.value, "unit": result.unit, "display": result.display}
        return unknown(check, NoData(why), details=result.details, query=result.query, **more)

    def _query(self) -> str:
        since = f"container={self._container}&sinceSeconds={int(self._window)}"
        return f"GET /api/v1/namespaces/{self.namespace}/pods/*/log?{since} of Deployment {self.workload}"

    # Reading ---------------------------------------------------------------------------------------

    @property
    def _container(self) -> str:
        return self.container or self.workload

    @property
    def _window(self) -> float:
        try:
            return float(self.window)
        except ValueError:
            return parse_duration(self.window)

    def _read(self) -> LogReading:
        from vcci_ops.hooks.logs import LogReader

        reading = LogReader(
            self.namespace,
            self.workload,
            self._container,
            window=self._window,
            markers=self.markers,
            max_signatures=self.max_signatures,
            page_size=self.page_size,
            kubernetes_conn_id=self.kubernetes_conn_id,
            patience=self.deadline * _READ_SHARE,
        ).read()
        self.log.info("Read %s from %d pods of %s", humanize(reading.size, "bytes"), reading.pods, self.workload)
        return reading
