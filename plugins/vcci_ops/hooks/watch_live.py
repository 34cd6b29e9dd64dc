"""What a watch measures of the present: pods, queues, database connections, error logs.

Each source is read once for all of its metrics. Blocking: a trigger calls it in threads.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.pods import Pod, bounded, readiness, restarts
from vcci_ops.domain.watch import Reading
from vcci_ops.exceptions import MeasurementError, NoData
from vcci_ops.settings import Settings

if TYPE_CHECKING:
    from vcci_ops.domain.results import Result
    from vcci_ops.hooks.kubernetes_writer import KubernetesWriter

Found = dict[str, Reading | MeasurementError]
"""Id of a metric → what was measured, or why not."""
SHOWN = 5
KNOWN_DAYS = 14
MOST_KNOWN = 500
"""Signatures that a baseline keeps; it is part of a plan and of a trigger's arguments."""


@dataclasses.dataclass(frozen=True)
class Connections:
    """Ids of the Airflow connections that a watch uses."""

    prometheus: str = "vcci_prometheus"
    kubernetes: str = "vcci_kubernetes"
    redis: str = "vcci_redis"
    postgres: str = "vcci_postgres"
    history: str = "vcci_ops_db"
    slack: str = "vcci_slack"


class LiveSources:
    """Measures the present.

    :param namespace: where the workloads are.
    :param workloads: the Deployments whose pods are looked at.
    :param window: seconds in which a restart or an error line counts.
    :param grace: seconds a pod may be not ready before it counts; one that crash-loops counts at once.
    """

    def __init__(
        self,
        namespace: str,
        workloads: Iterable[str],
        *,
        settings: Settings,
        window: float,
        grace: float,
        connections: Connections = Connections(),
    ) -> None:
        self.namespace = namespace
        self.workloads = frozenset(workloads)
        self.settings = settings
        self.window = window
        self.grace = grace
        self.connections = connections
        self._kept: KubernetesWriter | None = None

    def read(self, source: str, ids: Sequence[str], known: Iterable[str] = ()) -> Found:
        """Measure the metrics of one source; what cannot be measured is an error in its place.

        :param source: kubernetes, redis, postgres or logs.
        :param known: error signatures that are not new.
        """
        read: dict[str, Callable[[], Mapping[str, Reading | MeasurementError]]] = {
            "kubernetes": self._pods,
            "redis": self._queues,
            "postgres": self._database,
            "logs": lambda: {"new_errors": self._new_errors(frozenset(known))},
        }
        try:
            found = read[source]()
        except MeasurementError as error:
            return dict.fromkeys(ids, error)
        return {id_: found.get(id_) or NoData(f"{source} does not measure {id_}") for id_ in ids}

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return name → Deployment, as the API has it, of the watched ones that exist."""
        from vcci_ops.hooks.kubernetes_writer import DEPLOYMENTS

        with self._cluster() as cluster:
            found = {item["metadata"]["name"]: item for item in cluster.objects(DEPLOYMENTS, self.namespace)}
        return {name: found[name] for name in self.workloads if name in found}

    @contextmanager
    def _cluster(self) -> Iterator[KubernetesWriter]:
        """Yield the client, kept from sample to sample; after an error the next one logs in anew."""
        from vcci_ops.hooks.kubernetes_writer import KubernetesWriter

        cluster = self._kept
        if cluster is None:
            cluster = KubernetesWriter(self.connections.kubernetes, page_size=self.settings.kubernetes.page_size)
            cluster.connect()
        self._kept = None
        yield cluster
        self._kept = cluster

    def _pods(self) -> dict[str, Reading]:
        with self._cluster() as reader:
            owners = reader.replica_sets(self.namespace)
            pods = [p for p in reader.pods(self.namespace) if p.workload(owners) in self.workloads]
        missing = sorted(self.workloads - {pod.workload(owners) for pod in pods})
        if missing:
            raise NoData(f"Deployment {', '.join(missing)} in namespace {self.namespace} has no pods")
        return self._judged_pods(pods, owners)

    def _judged_pods(self, pods: list[Pod], owners: Mapping[str, str]) -> dict[str, Reading]:
        now, query = time.time(), f"GET /api/v1/namespaces/{self.namespace}/pods"
        of = f"of {', '.join(sorted(self.workloads))}"
        again = restarts(pods, owners, now=now, window=self.window)
        ready = readiness(pods, owners, now=now, for_=self.grace, window=self.window)
        return {
            "restarts": Reading(
                float(sum(r.count for r in again)), None, f"{query} {of}, restarts within {self.window:g} s",
                tuple(bounded(again, SHOWN)),
            ),
            "not_ready": Reading(
                float(len(ready.problems)), None, f"{query} {of}, not ready for {self.grace:g} s",
                tuple(bounded(ready.problems, SHOWN)),
            ),
        }  # fmt: skip

    def _queues(self) -> dict[str, Reading | MeasurementError]:
        from vcci_ops.domain import queues as domain
        from vcci_ops.domain.queues import Layout
        from vcci_ops.hooks.redis import CeleryBroker, TimedRedisHook

        given = self.settings.queues
        layout = Layout(
            queues=given.names, prefix=given.key_prefix, steps=given.priority_steps, separator=given.separator
        )
        hook = TimedRedisHook(self.connections.redis)
        try:
            broker, _ = CeleryBroker(hook, layout).read()
        finally:
            hook.close()
        depth, oldest = self.settings.pick("queues.depth", "queues.oldest")
        depths = [domain.depth(depth, queue, broker, layout) for queue in layout.queues]
        ages = [domain.oldest(oldest, queue, broker, layout, time.time()) for queue in layout.queues]
        return {"queue_depth": _together(depths, sum), "queue_age": _together(ages, max)}

    def _database(self) -> dict[str, Reading]:
        from vcci_ops.domain import database
        from vcci_ops.hooks.postgres import ConnectionsExhausted, ReadOnlyPostgresHook, Statement, check_sql

        (check,) = self.settings.pick("database.connections")
        hook = ReadOnlyPostgresHook(postgres_conn_id=self.connections.postgres)
        try:
            answer = hook.read_one(Statement(check_sql("connections")))
        except ConnectionsExhausted as error:  # that is what is watched, and no failure to watch it
            return {"connections": Reading(100.0, None, "log in", (str(error),))}
        result = database.connections(check, answer.rows[0], answer.query)
        return {"connections": Reading(result.value, None, answer.query, (result.summary, *result.details[:SHOWN]))}

    # Error signatures ------------------------------------------------------------------------------

    def _new_errors(self, known: frozenset[str]) -> Reading:
        """Count the signatures of the window's error lines that are not known.

        A log that exists and is empty is no error; one that cannot be read is, unless what was read is new.
        """
        logs = self.settings.logs
        reading = self._log_reader(self.window).read()
        if not reading.logs and not reading.unread:
            raise NoData(f"none of the {reading.pods} pods of {logs.workload} has a log")
        new = list(reading.signatures.unseen(known))
        if reading.unread and not new:
            raise NoData(f"logs {reading.unread[0]}")
        query = f"GET .../pods/*/log?container={logs.container}&sinceSeconds={self.window:.0f} of {logs.workload}"
        return Reading(float(len(new)), None, query, tuple(bounded(new, SHOWN, "more kinds")))

    def _log_reader(self, window: float) -> Any:
        from vcci_ops.hooks.logs import LogReader

        logs = self.settings.logs
        return LogReader(
            self.namespace,
            logs.workload,
            logs.container,
            window=window,
            markers=logs.error_markers,
            max_signatures=logs.max_signatures,
            page_size=self.settings.kubernetes.page_size,
            kubernetes_conn_id=self.connections.kubernetes,
            patience=20.0,
        )

    def known_signatures(self, window: float = 3600.0) -> list[str]:
        """Return the error signatures that are there already: in the last hour's logs, and in the morning checks.

        :raises MeasurementError: when logs or history cannot be read; "all are new" would roll back a good release.
        """
        import datetime as dt

        from vcci_ops.hooks.history import History

        now = dt.datetime.now(dt.UTC)
        past = History(self.connections.history).snapshots(
            self.settings.environment, "signatures", now, days=KNOWN_DAYS
        )
        reading = self._log_reader(window).read()
        if not reading.logs:
            raise NoData(f"none of the {reading.pods} pods of {self.settings.logs.workload} has a log to compare with")
        fresh = [kind.signature for kind in reading.signatures.most_common()]
        older = [item["signature"] for _, found in past for item in found]
        return list(dict.fromkeys((*fresh, *older)))[:MOST_KNOWN]


def _together(results: Sequence[Result], how: Callable[[list[float]], float]) -> Reading | MeasurementError:
    """Make one number of all queues; one queue that could not be measured is named, and there is no number."""
    for result in results:
        if result.value is None:
            return NoData(f"{result.subject}: {result.summary}")
    most = sorted(results, key=lambda r: -(r.value or 0.0))
    details = tuple(f"{r.subject}: {r.summary}" for r in most[:SHOWN])
    return Reading(float(how([r.value or 0.0 for r in results])), None, results[0].query, details)
