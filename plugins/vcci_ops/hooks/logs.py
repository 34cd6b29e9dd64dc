"""Read the error lines of a Deployment's pods, several logs at once, in flat memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from vcci_ops.domain.pods import Container, Pod
from vcci_ops.domain.signatures import ErrorLines, Signatures, Tally
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import MeasurementError, NoData
from vcci_ops.hooks.crew import Crew
from vcci_ops.hooks.kubernetes import KubernetesReader

THREADS = 4


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
class LogReading:
    """What was read of all pods."""

    signatures: Signatures
    pods: int = 0
    logs: int = 0
    """Pods that had a log."""
    size: int = 0
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def add(self, pod: str, log: _Log) -> None:
        """Add what was read of one pod."""
        self.signatures.merge(pod, log.tally)
        self.size += log.size
        self.logs += log.found
        self.notes += [f"{pod}: {note}" for note in log.notes]
        if log.unread:
            self.unread.append(f"could not be read: {pod}: {log.unread}")


class LogReader:
    """Reads the logs of a Deployment's pods, also of the container that ran before the last restart.

    Logs are read in big chunks, several pods at once; nothing but counts, signatures and one masked sample of
    each is kept.

    :param container: whose log is read; default: the container named as the Deployment.
    :param window: seconds to look back.
    :param markers: a line with one of these is an error line.
    :param max_signatures: distinct signatures kept; lines of further ones are counted together.
    :param patience: seconds after which no more is read.
    """

    def __init__(
        self,
        namespace: str,
        workload: str,
        container: str = "",
        *,
        window: float = 3600.0,
        markers: Sequence[str] = ("ERROR", "CRITICAL", "FATAL"),
        max_signatures: int = 200,
        page_size: int = 500,
        kubernetes_conn_id: str = "vcci_kubernetes",
        patience: float = 96.0,
    ) -> None:
        self.namespace = namespace
        self.workload = workload
        self.container = container or workload
        self.window = window
        self.markers = markers
        self.max_signatures = max_signatures
        self.page_size = page_size
        self.kubernetes_conn_id = kubernetes_conn_id
        self.patience = patience

    def read(self) -> LogReading:
        """Read all logs; what could not be read is named in the result.

        :raises NoData: when the Deployment is missing or has no pods.
        :raises MeasurementError: when the pods cannot be listed.
        """
        until = time.monotonic() + self.patience
        reader = KubernetesReader(self.kubernetes_conn_id, page_size=self.page_size).connect()
        with Crew(THREADS) as crew:
            pods = self._pods(crew, reader)
            reading = LogReading(Signatures(self.max_signatures), pods=len(pods))
            logs = deque((pod.name, crew.submit(partial(self._read_pod, crew, reader, pod, until))) for pod in pods)
            while logs:  # taken out one by one, so that what has been added up can go
                name, log = logs.popleft()
                reading.add(name, log.result())
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
        container = next((c for c in (*pod.init, *pod.containers) if c.name == self.container), None)
        if time.monotonic() > until:
            log.unread = "no time was left for it"
        elif container is None and pod.containers:
            names = ", ".join(c.name for c in pod.containers)
            log.unread = f"it has no container {self.container}; it has {names}"
        elif container is None or not container.started:
            log.notes.append(f"{self.container} has not started, so there is no log yet")
        else:
            for previous in self._runs(container):
                self._read_log(crew, reader, pod.name, previous=previous, until=until, log=log)
        log.tally.forget_lines()
        return log

    def _runs(self, container: Container) -> list[bool]:
        """Say which of (this, previous) runs to read: previous ones that ended within the window, too.

        While a container waits for its next start, the API's present log *is* that of the run before.
        """
        recent = container.ended_at is not None and time.time() - container.ended_at <= self.window
        both = container.has_previous and container.state == "running" and recent
        return [True, False] if both else [False]

    def _read_log(
        self, crew: Crew, reader: KubernetesReader, pod: str, *, previous: bool, until: float, log: _Log
    ) -> None:
        lines = ErrorLines([marker.encode() for marker in self.markers])
        try:
            for chunk in reader.log(self.namespace, pod, self.container, seconds=self.window, previous=previous):
                log.found = True
                log.size += len(chunk)
                log.tally.add(lines.feed(chunk))
                if crew.stopped.is_set() or time.monotonic() > until:
                    log.unread = f"not to its end within {duration(self.patience)}"
                    break
        except NoData as error:
            log.notes.append(str(error))
        except MeasurementError as error:
            log.unread = str(error)
        log.tally.add(lines.end())
