"""The release's first phase: nothing is changed, and whatever speaks against the release is found now."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from vcci_ops.domain import changelog, versions
from vcci_ops.domain.release_request import ReleaseRequest
from vcci_ops.exceptions import MeasurementError, NoData, Refused
from vcci_ops.operators.acting import Acting, failing_clearly, needed
from vcci_ops.settings_release import Freeze, Release

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.git import PlatformRepository
    from vcci_ops.hooks.kubernetes_writer import KubernetesWriter
    from vcci_ops.hooks.watch import MetricReader
    from vcci_ops.settings_watch import Watch

GRAVE = ("P0", "P1")
GRAVE_IMPACTS = ("major", "critical")
"""Impacts of a Statuspage incident that the runbook calls P0 and P1."""


def running(writer: KubernetesWriter, namespace: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what the Deployments run: image, container, replicas, revision, generation.

    :raises NoData: when one of them does not exist.
    """
    from vcci_ops.hooks.kubernetes_writer import DEPLOYMENTS
    from vcci_ops.settings import load_settings

    containers = {workload.name: workload.container for workload in load_settings().kubernetes.workloads}
    return {name: _running(writer.object(DEPLOYMENTS, namespace, name), containers.get(name, name)) for name in names}


def _running(deployment: Mapping[str, Any], container: str) -> dict[str, Any]:
    name, spec = deployment["metadata"]["name"], deployment["spec"]
    found = next((c for c in spec["template"]["spec"]["containers"] if c["name"] == container), None)
    if found is None:
        raise NoData(
            f"the Deployment {name} has no container {container}; kubernetes.workloads of the settings says so"
        )
    notes = deployment["metadata"].get("annotations") or {}
    return {
        "image": found["image"],
        "container": container,
        "replicas": spec.get("replicas", 1),
        "revision": notes.get("deployment.kubernetes.io/revision", ""),
        "generation": deployment["metadata"].get("generation", 0),
    }


class ReleaseRequestOperator(BaseOperator):
    """Read the form, and look whether such a release makes sense: version, git, what runs.

    Returns the request with the commit, the version it replaces, and the change log.

    :raises AirflowFailException: names the parameter that cannot be used, or what speaks against it.
    :raises AirflowSkipException: when exactly this release already runs; everything after it is skipped.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Validate, and return what the later phases need."""
        acting = Acting.of(context)
        with failing_clearly():
            release = acting.settings.release
            request = ReleaseRequest.of(acting.params, release.workloads)
            if not request.dry_run and not release.approvals.own:
                acting.require_requester()
            found = self._workloads(acting, request)
            previous = self._previous(request, found)
            with self._repository() as repository:
                commit = repository.commit_of(request.ref)
                self._tag_is_free(repository, request.version, commit)
                log = self._changes(repository, previous, commit, release)
        if all(str(versions.version_of(w["image"])) == request.version for w in found.values()):
            context["ti"].xcom_push(key="nothing_to_do", value=request.version)
            raise AirflowSkipException(f"{request.version} already runs in {', '.join(found)}: nothing to do")
        self.log.info("%s replaces %s in %s; commit %s", request.version, previous, ", ".join(found), commit)
        return {
            "version": request.version,
            "ref": request.ref,
            "commit": commit,
            "from_version": previous,
            "workloads": found,
            "images": request.images,
            "migration": request.migration,
            "watch_minutes": request.watch_minutes,
            "dry_run": request.dry_run,
            "reason": request.reason,
            "if_locked": request.if_locked,
            "requested_by": acting.requested_by,
            **log,
        }

    def _repository(self) -> PlatformRepository:
        from vcci_ops.hooks.git import PlatformRepository

        return PlatformRepository()

    def _workloads(self, acting: Acting, request: ReleaseRequest) -> dict[str, dict[str, Any]]:
        from vcci_ops.hooks.kubernetes_writer import KubernetesWriter

        return running(KubernetesWriter(), acting.settings.kubernetes.namespace, request.workloads)

    def _previous(self, request: ReleaseRequest, found: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the version that is replaced: the oldest that runs."""
        wanted, oldest = versions.parse(request.version, "version"), None
        for name, workload in found.items():
            version = versions.version_of(workload["image"])
            if version is None:
                raise Refused(f"{name} runs {workload['image']}, whose tag is no version: nothing to compare with")
            if version > wanted:
                raise Refused(
                    f"version: {request.version} is older than {version}, which {name} runs; "
                    "to go back, use release_rollback"
                )
            oldest = version if oldest is None or version < oldest else oldest
        return str(oldest)

    @staticmethod
    def _tag_is_free(repository: PlatformRepository, version: str, commit: str) -> None:
        tag = repository.tag(version)
        if tag and tag.commit != commit:
            raise Refused(f"version: the tag {version} exists already, on commit {tag.commit[:12]}, not {commit[:12]}")

    def _changes(self, repository: PlatformRepository, previous: str, commit: str, release: Release) -> dict[str, Any]:
        tag = repository.tag(previous)
        if tag is None:
            raise Refused(f"the running version {previous} has no tag in the repository: its changes cannot be told")
        if not repository.is_ancestor(tag.commit, commit):
            raise Refused(
                f"ref: {commit[:12]} does not contain the running version {previous} ({tag.commit[:12]}): "
                "releasing it would take changes back that production has. Rebase or merge first"
            )
        log = changelog.changelog(
            repository.commits(tag.commit, commit), commit_url=release.commit_url, issue_url=release.issue_url
        )
        self.log.info("Changes from %s:\n%s", previous, log.markdown())
        return {"changelog": log.markdown(), "changelog_slack": log.mrkdwn(), "changes": log.to_dict()}


class QuietOperator(BaseOperator):
    """Look whether this is a moment to change anything: no freeze, no other change, no grave incident.

    :param namespace: whose change lock is looked at.
    :param request_task_id: the task that read the form.
    :raises AirflowFailException: lists everything that is in the way.
    """

    def __init__(self, *, namespace: str, request_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.request_task_id = request_task_id

    def execute(self, context: Context) -> None:
        """Collect what is in the way, all of it."""
        acting = Acting.of(context)
        with failing_clearly():
            request = needed(context, self.request_task_id)
            require_quiet(acting, self._other_change(acting, request["if_locked"]))
        self.log.info("No freeze, no other change, no open P0 or P1 incident")

    def _other_change(self, acting: Acting, if_locked: str) -> Iterator[str]:
        from vcci_ops.hooks.lease import ChangeLock

        held = ChangeLock(self.namespace).current()
        if held and held.holder and held.holder != acting.source:
            if if_locked == "refuse":
                yield f"{held.holder} holds the change lock since {held.acquired}: {held.purpose}"
            else:
                self.log.warning("%s holds the change lock; this run will wait for it", held.holder)


def require_quiet(acting: Acting, more: Iterable[str] = ()) -> None:
    """Pass when there is no freeze and no grave incident.

    :param more: further reasons against a change.
    :raises Refused: lists everything that is in the way.
    """
    reasons = [*_frozen(acting.settings.release.freezes), *_incidents(acting), *more]
    if reasons:
        raise Refused("this is no moment for a change: " + "; ".join(reasons))


def _incidents(acting: Acting) -> Iterator[str]:
    from vcci_ops.hooks.releases import Releases
    from vcci_ops.hooks.statuspage import Statuspage

    for incident in Releases(acting.settings.environment).open_incidents():
        if incident["severity"] in GRAVE:
            yield (
                f"incident {incident['id']} ({incident['severity']}) is open: {incident['title']} "
                "(when it is over, close it with the DAG close_incident)"
            )
    page = Statuspage()
    if page.configured:
        for incident in page.unresolved():
            if incident["impact"] in GRAVE_IMPACTS:
                yield f"Statuspage has an open {incident['impact']} incident: {incident['name']}"


def _frozen(freezes: Sequence[Freeze]) -> Iterator[str]:
    now = dt.datetime.now(dt.UTC)
    for freeze in freezes:
        if freeze.begin <= now < freeze.end:
            yield f"releases are frozen until {freeze.end:%Y-%m-%d %H:%M} UTC: {freeze.reason}"


class MetricsGateOperator(BaseOperator):
    """Ask for every metric the watch will use, before anything changes, and take the baseline.

    :param namespace: of the platform.
    :param rollback: a way back is never barred by a metric without data: the watch will be held, and say so. Its
        baseline is last week's hour alone, for the last hour is that of the version people want to leave.
    :raises AirflowFailException: names every metric without data; a watch that cannot see must not begin.
    """

    def __init__(self, *, namespace: str, rollback: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.rollback = rollback

    def execute(self, context: Context) -> dict[str, Any]:
        """Probe all metrics, then return the baseline of each."""
        from vcci_ops.hooks.watch import MetricReader

        watch = Acting.of(context).settings.release.watch
        with failing_clearly():
            reader = MetricReader(watch, self.namespace)
            problems = reader.probe(watch.metrics)
            if problems and not self.rollback:
                raise Refused("the watch would be blind, so the release does not begin: " + "; ".join(problems))
            for problem in problems:
                self.log.warning("the watch will be blind: %s", problem)
            baseline = {} if problems else self._baseline(reader, watch)
        for name, value in baseline.items():
            self.log.info("%s: last hour %s, same hour last week %s", name, value["last_hour"], value["last_week"])
        return baseline

    def _baseline(self, reader: MetricReader, watch: Watch) -> dict[str, Any]:
        try:
            found: dict[str, Any] = dict(reader.baseline(watch.metrics))
        except MeasurementError as error:
            if not self.rollback:
                raise
            self.log.warning("nothing to compare with: %s", error)
            return {}
        return {name: {**value, "last_hour": None} for name, value in found.items()} if self.rollback else found
