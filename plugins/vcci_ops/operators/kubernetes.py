"""Checks of a Kubernetes namespace and its nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.checks import judged, stated, unknown, verdict
from vcci_ops.domain.pods import Pod, bounded, readiness, restarts
from vcci_ops.domain.results import Result, Status, worst
from vcci_ops.domain.units import duration
from vcci_ops.domain.usage import Amounts, Load, Node, PodLimits, memory_load, node_load
from vcci_ops.domain.workloads import Deployment, Rollout
from vcci_ops.exceptions import MeasurementError, NoData
from vcci_ops.operators.base import CheckOperator
from vcci_ops.settings import Check

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.crew import Crew
    from vcci_ops.hooks.kubernetes import KubernetesReader

SHOWN = 10
"""Pods, nodes or containers that a result names."""


class PodsCheckOperator(CheckOperator):
    """Check the pods and Deployments of a namespace: ready, restarted, available.

    What ``kubectl get pods | grep -v Running`` was meant to find, without its gaps: a pod that is *Running*
    but not ready counts, one that crash-loops counts, a finished Job's pod does not. The worst pods are
    named with reason, message and image. A pod counts as not ready once it has been so for the ``for`` of
    the threshold of ``pods.ready``; one that keeps crashing (three times or more) counts at once, and so do
    those of a workload of which no pod is ready, once they are older than ``for``, and one that has been
    so since a moment that is yet to come (the clocks differ, so its age says nothing). Pods of Jobs that
    failed within ``restart_window`` make ``pods.ready`` at least a warning, also when a retry succeeded.

    Measures ``pods.ready`` (pods that are not ready), ``pods.restarts`` (restarts within the window; the
    API keeps a count and the last one only, so for pods older than the window it is at least one, or an
    estimate for those that crash-loop) and
    ``workloads.available`` (for each Deployment, replicas missing; also critical when none is available,
    when a rollout passed its progress deadline, and when an expected Deployment is missing or scaled to 0;
    at least a warning when a rollout is paused in its middle, or replicas cannot be made, as for a quota).

    Needs: list pods, deployments.apps and replicasets.apps in the namespace.

    :param namespace: the namespace to look at (templated).
    :param workloads: names of the Deployments that must exist and run (templated); default none.
    :param restart_window: seconds; a restart, or a Job's failure, counts when it is younger. Default: 1 hour.
    :param page_size: pods to a request; bounds memory. Default: 500.
    :param kubernetes_conn_id: Airflow connection of the cluster.
    """

    measures = ("pods.ready", "pods.restarts", "workloads.available")
    system = "Kubernetes"
    preloads = ("airflow.providers.cncf.kubernetes.hooks.kubernetes", "kubernetes.utils.quantity")
    template_fields: Sequence[str] = ("namespace", "workloads", "kubernetes_conn_id")

    def __init__(
        self,
        *,
        namespace: str,
        workloads: Sequence[str] = (),
        restart_window: float = 3600.0,
        page_size: int = 500,
        kubernetes_conn_id: str = "vcci_kubernetes",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.workloads = workloads
        self.restart_window = restart_window
        self.page_size = page_size
        self.kubernetes_conn_id = kubernetes_conn_id

    def measure(self, context: Context) -> Iterator[Result]:
        """Ask for pods, ReplicaSets and Deployments side by side; report each as soon as it is known."""
        from vcci_ops.hooks.crew import Crew
        from vcci_ops.hooks.kubernetes import KubernetesReader

        reader = KubernetesReader(self.kubernetes_conn_id, page_size=self.page_size).connect()
        with Crew(3) as crew:
            # Deployments first: their one page is the shortest way to a result, should pods take too long.
            deployments = crew.submit(lambda: reader.deployments(self.namespace))
            pods = crew.submit(lambda: list(reader.pods(self.namespace)))
            owners = crew.submit(lambda: reader.replica_sets(self.namespace))
            yield from _reported(self.check("workloads.available"), lambda check: self._available(check, deployments))
            yield from _reported(self.check("pods.ready"), lambda check: self._ready(check, pods, owners, deployments))
            yield from _reported(self.check("pods.restarts"), lambda check: self._restarts(check, pods, owners))

    def _query(self, resource: str = "pods") -> str:
        group = "/api/v1" if resource == "pods" else "/apis/apps/v1"
        return f"GET {group}/namespaces/{self.namespace}/{resource}"

    # workloads.available ---------------------------------------------------------------------------

    def _available(self, check: Check, deployments: Future[list[Deployment]]) -> Iterator[Result]:
        found = {deployment.name: deployment for deployment in deployments.result()}
        for name in self.workloads:
            if name not in found:
                summary = f"there is no Deployment {name} in namespace {self.namespace}"
                yield stated(check, Status.CRITICAL, summary, subject=name, query=self._query("deployments"))
        for deployment in found.values():
            yield self._workload(check, deployment)
        if not found and not self.workloads:
            raise NoData(f"namespace {self.namespace} has no Deployments, or does not exist")

    def _workload(self, check: Check, deployment: Deployment) -> Result:
        expected = deployment.name in self.workloads
        summary = deployment.summary()
        status = verdict(check.threshold, deployment.missing) if check.threshold else Status.OK
        if deployment.desired == 0:
            summary = "scaled to 0 replicas" + (", but it should run" if expected else "")
            status = Status.CRITICAL if expected else status
        elif deployment.available == 0 or deployment.rollout is Rollout.STUCK:
            status = Status.CRITICAL
        elif deployment.concern:
            status = worst([status, Status.WARNING])
        return stated(
            check,
            status,
            summary,
            subject=deployment.name,
            value=float(deployment.missing),
            unit=check.threshold.unit if check.threshold else "replicas missing",
            display=f"{deployment.available} of {deployment.desired}",
            query=self._query("deployments"),
        )

    # pods.ready, pods.restarts ---------------------------------------------------------------------

    def _ready(
        self,
        check: Check,
        pods: Future[list[Pod]],
        owners: Future[dict[str, str]],
        deployments: Future[list[Deployment]],
    ) -> Iterator[Result]:
        for_ = check.threshold.for_ if check.threshold else 0.0
        seen = readiness(pods.result(), owners.result(), now=time.time(), for_=for_, window=self.restart_window)
        if not seen.counted and not seen.failed_jobs:
            self._refuse_emptiness(deployments)
        failed = bounded(seen.job_failures(f"in the last {duration(self.restart_window)}"), SHOWN, "more Jobs")
        result = judged(
            check,
            float(len(seen.problems)),
            "; ".join([seen.summary(), *failed[:2]]),
            details=(*bounded(seen.problems, SHOWN, "more pods"), *failed, *seen.notes()),
            query=self._query(),
        )
        yield replace(result, status=worst([result.status, Status.WARNING])) if failed else result

    def _refuse_emptiness(self, deployments: Future[list[Deployment]]) -> None:
        found = deployments.result()
        wanted = sum(deployment.desired for deployment in found)
        if wanted:
            raise NoData(f"namespace {self.namespace} has no pods, though its Deployments want {wanted}")
        if self.workloads or not found:
            raise NoData(f"namespace {self.namespace} has no pods, or does not exist")

    def _restarts(self, check: Check, pods: Future[list[Pod]], owners: Future[dict[str, str]]) -> Iterator[Result]:
        everything = pods.result()
        if not everything:
            raise NoData(f"namespace {self.namespace} has no pods, or does not exist")
        found = restarts(everything, owners.result(), now=time.time(), window=self.restart_window)
        count = sum(one.count for one in found)
        within = f"in the last {duration(self.restart_window)}"
        killed = sum("OOMKilled" in one.how for one in found)
        summary = f"no container was restarted {within}"
        if found:
            known = {one.known for one in found}
            least = "about " if "about" in known else "at least " if "at least" in known else ""
            times = "restart" if count == 1 else "restarts"
            which = "1 container" if len(found) == 1 else f"{len(found)} containers"
            summary = f"{least}{count} {times} of {which} {within}"
            summary += f", {killed} OOMKilled" if killed else ""
        yield judged(check, float(count), summary, details=tuple(bounded(found, SHOWN)), query=self._query())


class UsageCheckOperator(CheckOperator):
    """Check the nodes, and how close nodes and pods are to what they may use.

    Measures ``nodes.ready`` (nodes not ready or under pressure), ``nodes.usage`` (the highest share of its
    allocatable CPU or memory that a node uses, in percent) and ``pods.usage`` (the highest share of its
    memory limit that a container of the namespace uses, in percent). The shares come from metrics.k8s.io,
    as ``kubectl top`` shows them; without it they are unknown, and ``nodes.ready`` is reported all the same.
    A node or pod that should have metrics and has none makes its check unknown, unless it is bad anyway.

    Needs: list nodes and nodes.metrics.k8s.io in the cluster, pods and pods.metrics.k8s.io in the namespace.

    :param namespace: whose pods to look at (templated).
    :param page_size: objects to a request; bounds memory. Default: 500.
    :param kubernetes_conn_id: Airflow connection of the cluster.
    """

    measures = ("nodes.ready", "nodes.usage", "pods.usage")
    system = "Kubernetes"
    preloads = ("airflow.providers.cncf.kubernetes.hooks.kubernetes", "kubernetes.utils.quantity")
    template_fields: Sequence[str] = ("namespace", "kubernetes_conn_id")

    def __init__(
        self,
        *,
        namespace: str,
        page_size: int = 500,
        kubernetes_conn_id: str = "vcci_kubernetes",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.page_size = page_size
        self.kubernetes_conn_id = kubernetes_conn_id

    def measure(self, context: Context) -> Iterator[Result]:
        """Ask for everything side by side; the nodes' state is reported whatever the metrics API does."""
        from vcci_ops.hooks.crew import Crew
        from vcci_ops.hooks.kubernetes import KubernetesReader

        reader = KubernetesReader(self.kubernetes_conn_id, page_size=self.page_size).connect()
        with Crew(4) as crew:
            nodes = crew.submit(reader.nodes) if self.check("nodes.ready") or self.check("nodes.usage") else None
            node_usage = crew.submit(reader.node_usage) if self.check("nodes.usage") else None
            memory = self._memory(crew, reader) if self.check("pods.usage") else None
            if nodes:
                yield from _reported(self.check("nodes.ready"), lambda check: self._nodes(check, nodes))
            if nodes and node_usage:
                usage = self.check("nodes.usage")
                yield from _reported(usage, lambda check: self._node_usage(check, nodes, node_usage))
            if memory:
                yield from _reported(self.check("pods.usage"), lambda check: self._pod_usage(check, *memory))

    def _memory(
        self, crew: Crew, reader: KubernetesReader
    ) -> tuple[Future[list[PodLimits]], Future[dict[str, dict[str, float]]]]:
        return (
            crew.submit(lambda: list(reader.pod_limits(self.namespace))),
            crew.submit(lambda: reader.pod_usage(self.namespace)),
        )

    def _nodes(self, check: Check, nodes: Future[list[Node]]) -> Iterator[Result]:
        found = nodes.result()
        if not found:
            raise NoData("the cluster has no nodes")
        bad = [node for node in found if node.trouble]
        cordoned = [node.name for node in found if node.cordoned]
        summary = f"all {len(found)} nodes are ready"
        if bad:
            summary = f"{len(bad)} of {len(found)} nodes are not ready or under pressure"
        notes = (f"cordoned, so no new pods there: {', '.join(cordoned[:SHOWN])}",) if cordoned else ()
        lines = bounded([f"{node.name}: {node.trouble}" for node in bad], SHOWN, "more nodes")
        yield judged(check, float(len(bad)), summary, details=(*lines, *notes), query="GET /api/v1/nodes")

    def _node_usage(
        self, check: Check, nodes: Future[list[Node]], used: Future[dict[str, Amounts]]
    ) -> Iterator[Result]:
        load = node_load(nodes.result(), used.result(), now=time.time())
        yield self._judged_load(check, load, "nodes", "GET /apis/metrics.k8s.io/v1beta1/nodes")

    def _pod_usage(
        self, check: Check, limits: Future[list[PodLimits]], used: Future[dict[str, dict[str, float]]]
    ) -> Iterator[Result]:
        load = memory_load(limits.result(), used.result(), now=time.time())
        query = f"GET /apis/metrics.k8s.io/v1beta1/namespaces/{self.namespace}/pods"
        yield self._judged_load(check, load, "pods", query)

    def _judged_load(self, check: Check, load: Load, what: str, query: str) -> Result:
        if not load.shares:
            limits = f"; {load.unlimited} containers have no memory limit" if load.unlimited else ""
            raise NoData(f"the metrics API has no usage of {what} that could be compared{limits}")
        top = load.shares[0]
        details = bounded(load.shares, SHOWN)
        if load.unlimited:
            details.append(f"not judged: {load.unlimited} containers without a memory limit")
        if load.missing:
            details.append(f"no metrics of {len(load.missing)} {what}: {', '.join(load.missing[:SHOWN])}")
        result = judged(check, round(top.percent, 2), f"highest: {top}", details=tuple(details), query=query)
        if load.missing and result.status is Status.OK:
            why = f"{len(load.missing)} {what} have no metrics; of the others the {result.summary}"
            more = {"value": result.value, "unit": result.unit, "display": result.display}
            return unknown(check, NoData(why), details=result.details, query=query, **more)
        return result


def _reported(check: Check | None, measure: Callable[[Check], Iterator[Result]]) -> Iterator[Result]:
    """Yield a check's results; what it could not measure is its own unknown and hides no other check."""
    if check is None:
        return
    try:
        results = list(measure(check))
    except MeasurementError as error:
        results = [unknown(check, error)]
    yield from results
