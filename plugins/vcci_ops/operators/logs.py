"""Check of a workload's logs: how many errors, of which kinds, which of them new."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.checks import judged, stated, unknown
from vcci_ops.domain.pods import Container, Pod, bounded
from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.signatures import ErrorLines, Signatures, Tally
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import MeasurementError, NoData
from vcci_ops.operators.base import CheckOperator
from vcci_ops.settings import Check
from vcci_ops.settings_base import parse_duration

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.crew import Crew
    from vcci_ops.hooks.kubernetes import KubernetesReader

SIGNATURES_KEY = "signatures"
"""XCom key of what was found: a list of ``{"signature": ..., "count": ...}``, most frequent first."""
SHOWN = 12
"""Signatures that a result names."""
EXAMPLES = 7
"""New signatures that a result shows with an example."""
THREADS = 4
_READ_SHARE = 0.8
"""Share of the deadline that reading may take, so that what was counted is still reported."""


@dataclass(slots=True)
class _Log:
    """What was read of one pod."""

    tally: Tally
    size: int = 0
    found: bool = False
    """Whether there was a log at all, be it empty."""
    notes: list[str] = field(default_factory=list)
    """What was not there to be read; no fault."""
    unread: str = ""
    """Why it could not be read to the end."""


@dataclass(slots=True)
class _Reading:
    """What was read of all pods."""

    signatures: Signatures
    pods: int = 0
    logs: int = 0
    """Pods that had a log."""
    size: int = 0
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def add(self, pod: str, log: _Log) -> None:
        self.signatures.merge(pod, log.tally)
        self.size += log.size
        self.logs += log.found
        self.notes += [f"{pod}: {note}" for note in log.notes]
        if log.unread:
            self.unread.append(f"could not be read: {pod}: {log.unread}")


KNOWN_DAYS = 14


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

    def _refuse_emptiness(self, reading: _Reading) -> None:
        if reading.unread or reading.size:
            return
        if not reading.logs:
            raise NoData(f"none of the {reading.pods} pods of {self.workload} has a log: {reading.notes[0]}")
        raise NoData(
            f"all logs of the {reading.pods} pods of {self.workload} are empty in the last {duration(self._window)}: "
            "is logging on, does the container write to stdout?"
        )

    # Judging ---------------------------------------------------------------------------------------

    def _count(self, check: Check, reading: _Reading) -> Result:
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

    def _compared(self, check: Check, reading: _Reading, context: Context) -> Result:
        try:
            known = self.previous_signatures(context)
        except MeasurementError as error:
            return unknown(check, error, query=self._query())
        return self._new(check, reading, known)

    def _new(self, check: Check, reading: _Reading, known: Sequence[str] | None) -> Result:
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

    def _lowered(self, check: Check, result: Result, reading: _Reading) -> Result:
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

    def _read(self) -> _Reading:
        from vcci_ops.hooks.crew import Crew
        from vcci_ops.hooks.kubernetes import KubernetesReader

        until = time.monotonic() + self.deadline * _READ_SHARE
        reader = KubernetesReader(self.kubernetes_conn_id, page_size=self.page_size).connect()
        with Crew(THREADS) as crew:
            pods = self._pods(crew, reader)
            reading = _Reading(Signatures(self.max_signatures), pods=len(pods))
            logs = deque((pod.name, crew.submit(partial(self._read_pod, crew, reader, pod, until))) for pod in pods)
            while logs:  # taken out one by one, so that what has been added up can go
                name, log = logs.popleft()
                reading.add(name, log.result())
        self.log.info("Read %s from %d pods of %s", humanize(reading.size, "bytes"), reading.pods, self.workload)
        return reading

    def _pods(self, crew: Crew, reader: KubernetesReader) -> list[Pod]:
        """Find the Deployment's pods by their owners; labels alone may select others' pods too.

        Most Deployments select ``app=<their name>``: asking for that at once saves a round trip. Where it is
        not so, the lists are asked for again.
        """
        wanted = crew.submit(lambda: reader.deployment(self.namespace, self.workload))
        guess = f"app={self.workload}"
        lists = self._lists(crew, reader, guess)
        selector = wanted.result().selector
        pods, owners = lists if selector == guess else self._lists(crew, reader, selector)
        found = [pod for pod in pods.result() if pod.workload(owners.result()) == self.workload]
        if not found:
            raise NoData(f"Deployment {self.workload} in namespace {self.namespace} has no pods, so there is no log")
        return found

    def _lists(
        self, crew: Crew, reader: KubernetesReader, selector: str
    ) -> tuple[Future[list[Pod]], Future[dict[str, str]]]:
        return (
            crew.submit(lambda: list(reader.pods(self.namespace, selector))),
            crew.submit(lambda: reader.replica_sets(self.namespace, selector)),
        )

    def _read_pod(self, crew: Crew, reader: KubernetesReader, pod: Pod, until: float) -> _Log:
        log = _Log(Tally(self.max_signatures))
        container = next((c for c in (*pod.init, *pod.containers) if c.name == self._container), None)
        if time.monotonic() > until:
            log.unread = "no time was left for it"
        elif container is None and pod.containers:
            names = ", ".join(c.name for c in pod.containers)
            log.unread = f"it has no container {self._container}; it has {names}"
        elif container is None or not container.started:
            log.notes.append(f"{self._container} has not started, so there is no log yet")
        else:
            for previous in self._runs(container):
                self._read_log(crew, reader, pod.name, previous=previous, until=until, log=log)
        log.tally.forget_lines()
        return log

    def _runs(self, container: Container) -> list[bool]:
        """Say which of (this, previous) runs to read: previous ones that ended within the window, too.

        While a container waits for its next start, the API's present log *is* that of the run before.
        """
        recent = container.ended_at is not None and time.time() - container.ended_at <= self._window
        both = container.has_previous and container.state == "running" and recent
        return [True, False] if both else [False]

    def _read_log(
        self, crew: Crew, reader: KubernetesReader, pod: str, *, previous: bool, until: float, log: _Log
    ) -> None:
        lines = ErrorLines([marker.encode() for marker in self.markers])
        try:
            for chunk in reader.log(self.namespace, pod, self._container, seconds=self._window, previous=previous):
                log.found = True
                log.size += len(chunk)
                log.tally.add(lines.feed(chunk))
                if crew.stopped.is_set() or time.monotonic() > until:
                    log.unread = f"not to its end within {duration(self.deadline * _READ_SHARE)}"
                    break
        except NoData as error:
            log.notes.append(str(error))
        except MeasurementError as error:
            log.unread = str(error)
        log.tally.add(lines.end())
