"""The release's acting phases: each asks first whether the plan is approved and the world still as planned."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from vcci_ops.domain import release_text, versions
from vcci_ops.domain.plans import require_unchanged
from vcci_ops.domain.rollouts import image_of
from vcci_ops.domain.watched import expected_of
from vcci_ops.exceptions import ChangeFailed, Refused, Unreachable
from vcci_ops.operators.acting import Acting, failing_clearly, pulled, require_lock, tell
from vcci_ops.operators.approval import approved_plan
from vcci_ops.operators.release_plan import APPROVAL, PLAN, ReleaseJobOperator, in_order
from vcci_ops.operators.release_validate import require_quiet, running
from vcci_ops.operators.rollout import RolloutOperator, WorkloadChange
from vcci_ops.operators.watch import WatchOperator, WatchSubject

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.domain.jobs import JobResult


def approved(context: Context) -> dict[str, Any]:
    """Return the plan of this run, approved and unchanged.

    :raises Refused: when it is not, or this is a dry run, whatever somebody marked in the UI.
    """
    if Acting.of(context).params.get("dry_run") is not False:
        raise Refused("this is a dry run: nothing is changed")
    return in_order(approved_plan(context, PLAN, APPROVAL), Acting.of(context).settings.release.workloads)


def world(acting: Acting, names: list[str]) -> dict[str, Any]:
    """Return what must not move between plan and act: running images and the schema's revision."""
    from vcci_ops.hooks.kubernetes_writer import KubernetesWriter
    from vcci_ops.hooks.schema import current_revision

    found = running(KubernetesWriter(), acting.settings.kubernetes.namespace, names)
    return {"schema": current_revision(), **{name: workload["image"] for name, workload in found.items()}}


def require_on_the_way(plan: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Pass when everything is as before or as planned: a run that goes on, not one that others have overtaken.

    :raises Refused: otherwise; lists what is neither.
    """
    schema = plan["schema"]
    allowed = {"schema": {schema["from"], schema["to"], *(step["revision"] for step in schema["migrations"])}}
    allowed |= {name: {workload["image"], workload["to"]} for name, workload in plan["workloads"].items()}
    moved = [f"{name} is at {now[name]}" for name, either in allowed.items() if now[name] not in either]
    if moved:
        raise Refused(
            f"the platform is neither as before this run nor as it planned: {'; '.join(moved)}. Start a new run"
        )


def served_version(context: Context, workloads: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """Return the version that the public endpoint must report; "" when the image's tag is none.

    :param workloads: Deployments of this run; when the API's is not among them, what it runs now counts.
    :param key: under which they have their image: image, from or to.
    """
    from vcci_ops.hooks.kubernetes_writer import KubernetesWriter

    settings = Acting.of(context).settings
    like = settings.release.jobs.like
    if like in workloads:
        image = workloads[like][key]
    else:
        image = running(KubernetesWriter(), settings.kubernetes.namespace, [like])[like]["image"]
    return str(versions.version_of(image) or "")


def not_complete(namespace: str, names: list[str]) -> list[str]:
    """Return in words which Deployments are not rolled out and ready, with what is missing."""
    from vcci_ops.domain.workloads import Deployment, Rollout
    from vcci_ops.hooks.kubernetes_writer import DEPLOYMENTS, KubernetesWriter

    writer = KubernetesWriter()
    found = [Deployment.from_json(writer.object(DEPLOYMENTS, namespace, name)) for name in names]
    return [f"{d.name}: {d.summary()}" for d in found if d.rollout is not Rollout.COMPLETE]


def endpoint_problems(acting: Acting, version: str) -> list[str]:
    """Return in words what the public endpoint says that it should not.

    :param version: that it must report; "" for any.
    """
    from vcci_ops.hooks.http import JsonApi

    api = acting.settings.api
    status, document, _ = JsonApi("vcci_api", "The VCCI API").get(api.readiness_path)
    said = document if isinstance(document, dict) else {}
    if status != 200 or said.get("status") not in api.ready_status:
        return [f"the endpoint says {said.get('status', 'nothing readable')} (HTTP {status})"]
    reported = str(said.get("version", ""))
    if not version or not reported or reported.removeprefix("v") == version.removeprefix("v"):
        return []
    return [f"the endpoint reports {reported}, not {version}"]


def planned_world(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same as the plan was made for."""
    return {
        "schema": plan["schema"]["from"],
        **{name: workload["image"] for name, workload in plan["workloads"].items()},
    }


class BeginReleaseOperator(BaseOperator):
    """With the lock in hand: is the world still as planned? Then record the release and announce it.

    A repeated task finds that this run has begun: by then it is this run that moves the world, and only what is
    neither as before nor as planned stops it.

    :raises AirflowFailException: when the running images or the schema have moved since the plan.
    """

    def execute(self, context: Context) -> None:
        """Confirm, record, tell Slack and Statuspage."""
        from vcci_ops.hooks.releases import Releases

        acting = Acting.of(context)
        with failing_clearly():
            plan = approved(context)
            require_lock(acting)
            now = world(acting, list(plan["workloads"]))
            if acting.journal.recall("begun") is None:
                require_unchanged(planned_world(plan), now)
                if plan["kind"] == "deploy":  # an incident is what a rollback is for
                    require_quiet(acting, self._unwell(acting))
            else:
                require_on_the_way(plan, now)
            approval = pulled(context, APPROVAL, "approval") or {}
            by = {
                "requested_by": plan["requested_by"],
                "approved_by": approval.get("by"),
                "reason": plan["reason"],
            }
            Releases(acting.settings.environment).begin(
                acting.journal, plan["kind"], plan, pulled(context, PLAN, "hash"), by
            )
            acting.journal.remember("begun", {"approved_by": approval.get("by")})
            acting.journal.changed(
                plan["kind"],
                plan["requested_by"],
                f"{plan['from_version']} → {plan['version']}",
                {"reason": plan["reason"]},
            )
            tell(acting, "root", release_text.headline("running", plan), root=True)
            tell(acting, "announce", release_text.begun(plan, by))
            self._statuspage(acting, plan)

    def _unwell(self, acting: Acting) -> Iterator[str]:
        """Yield what has gone wrong with the platform while the plan waited for its approval."""
        from vcci_ops.hooks.watch import MetricReader

        settings = acting.settings
        namespace = settings.kubernetes.namespace
        yield from not_complete(namespace, [workload.name for workload in settings.kubernetes.workloads])
        yield from endpoint_problems(acting, "")
        yield from MetricReader(settings.release.watch, namespace).probe(settings.release.watch.metrics)

    def _statuspage(self, acting: Acting, plan: Mapping[str, Any]) -> None:
        from vcci_ops.hooks.statuspage import Statuspage

        page = Statuspage()
        if not page.configured:
            self.log.info("Statuspage is not configured (no connection vcci_statuspage)")
            return
        begin = dt.datetime.now(dt.UTC)
        until = begin + dt.timedelta(minutes=plan["watch"]["minutes"] + 30)
        incident = page.begin_maintenance(
            acting.source,
            f"Release {plan['version']}",
            f"We are releasing {plan['version']}. No interruption is expected.",
            list(acting.settings.release.statuspage_components),
            begin,
            until,
        )
        acting.journal.remember("statuspage", {"incident": incident})


class TagOperator(BaseOperator):
    """Tag the commit with the version, annotated, and push the tag; the same tag on the same commit is fine.

    :raises AirflowFailException: when the tag exists on another commit.
    """

    def execute(self, context: Context) -> str:
        """Return ``created`` or ``exists``."""
        from vcci_ops.hooks.git import PlatformRepository

        acting = Acting.of(context)
        with failing_clearly():
            plan = approved(context)
            require_lock(acting)
            # The same moment at every try, so that a repeated task makes the very same tag object.
            moment = acting.journal.remember("tag", {"at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")})["at"]
            message = f"Release {plan['version']}\n\n{plan['reason']}\n\nRun: {acting.source}\n"
            with PlatformRepository() as repository:
                done: str = repository.create_tag(
                    plan["version"],
                    plan["commit"],
                    message,
                    acting.settings.release.git_author,
                    at=dt.datetime.fromisoformat(moment),
                )
        self.log.info("tag %s on %s: %s", plan["version"], plan["commit"], done)
        tell(acting, "tag", f"Tag `{plan['version']}` is on `{plan['commit'][:12]}`")
        return done


class PublishImagesOperator(BaseOperator):
    """Put the version on the approved digests in the registry; what has it is left alone.

    :raises AirflowFailException: when the version is on another digest.
    """

    def execute(self, context: Context) -> None:
        """Put a tag on each image."""
        from vcci_ops.hooks.registry import Registry

        acting = Acting.of(context)
        with failing_clearly():
            plan = approved(context)
            require_lock(acting)
            registry = Registry()
            for repository, image in plan["images"].items():
                done = registry.put_tag(repository, image["digest"], plan["version"])
                self.log.info("%s:%s is %s (%s)", repository, plan["version"], image["digest"], done)


class SmokeOperator(ReleaseJobOperator):
    """Smoke tests of the release, which must find the version that the API runs."""

    def succeeded(self, context: Context, result: JobResult) -> None:
        """Tell Slack that the release is verified."""
        tests = f", {result.junit['tests']} smoke tests passed" if result.junit else ""
        found = f"every pod is ready, the endpoint reports {self.version(context) or 'its version'}{tests}"
        tell(Acting.of(context), "verify", release_text.phase("Verified", found, ok=True, seconds=result.seconds))

    def version(self, context: Context) -> str:
        """Return the version that the tests must find."""
        return served_version(context, approved(context)["workloads"], "to")


class MigrateOperator(ReleaseJobOperator):
    """Run the migrations with the new image, to the recorded revision; skipped when none is due.

    The plan's revision is named, not ``head``: what was approved is what runs.
    """

    def arguments(self, context: Context) -> tuple[str, ...] | None:
        """Return the revision to go to; None when there is nothing to do."""
        from vcci_ops.hooks.schema import current_revision

        plan = approved(context)
        schema, now = plan["schema"], current_revision()
        if not schema["apply"]:
            self.log.info("no migration: the schema stays at %s", now)
            return None
        if now == schema["to"]:
            self.log.info("the schema is at %s already: done by an earlier try of this task", now)
            return None
        if now not in {schema["from"], *(migration["revision"] for migration in schema["migrations"])}:
            raise Refused(f"the schema is at {now}, planned from {schema['from']}: somebody else migrated it")
        return ("upgrade", schema["to"])

    def succeeded(self, context: Context, result: JobResult) -> None:
        """Tell Slack from where to where."""
        schema = approved(context)["schema"]
        found = f"{schema['from']} → {schema['to']} ({schema['class']})"
        tell(Acting.of(context), "migrate", release_text.phase("Migrated", found, ok=True, seconds=result.seconds))


class WorkloadOperator(RolloutOperator):
    """Change one Deployment of a release and wait for its rollout, deferred.

    :param workload: name of the Deployment; skipped when this run does not change it.
    """

    def __init__(self, *, workload: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workload = workload


class RolloutWorkloadOperator(WorkloadOperator):
    """Roll one Deployment out to the planned digest."""

    def change(self, context: Context) -> WorkloadChange | None:
        """Return the change; None when the plan has none for this Deployment."""
        plan, acting = approved(context), Acting.of(context)
        planned = plan["workloads"].get(self.workload)
        if planned is None:
            return None
        return WorkloadChange(
            workload=self.workload,
            container=planned["container"],
            image=planned["to"],
            cause=f"release {plan['version']} ({acting.run_id}): {plan['reason']}",
            expected_image=planned["image"],
        )

    def execute_complete(self, context: Context, event: dict[str, Any], changed: bool, begun: float) -> dict[str, Any]:
        """Tell Slack how far the rollout is, in one message."""
        result = super().execute_complete(context, event, changed, begun)
        names = list(approved(context)["workloads"])
        done = names[: names.index(self.workload) + 1]
        over = len(done) == len(names)
        found = ", ".join(done) + ("" if over else f" ({len(done)} of {len(names)})")
        text = release_text.phase("Rolled out" if over else "Rolling out", found, ok=True if over else None)
        tell(Acting.of(context), "roll_out", text)
        return result


class ReadyOperator(BaseOperator):
    """Is every pod of the changed Deployments ready, and does the public endpoint report the version?

    Asked again, rescheduled, until ``release.endpoint_within`` of the settings has passed: a load balancer needs
    its moment.

    :param namespace: of the platform.
    """

    def __init__(self, *, namespace: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace

    def expected(self, context: Context) -> tuple[list[str], str]:
        """Return the Deployments, and the version that the endpoint must report, "" for any."""
        plan = approved(context)
        return list(plan["workloads"]), served_version(context, plan["workloads"], "to")

    def execute(self, context: Context) -> dict[str, Any]:
        """Look now; look again later when it is not so yet."""
        acting = Acting.of(context)
        with failing_clearly():
            names, version = self.expected(context)
            try:
                problems = [*not_complete(self.namespace, names), *endpoint_problems(acting, version)]
            except Unreachable as error:  # what cannot be asked is not bad
                problems = [str(error)]
            if not problems:
                self.log.info("every pod is ready, and the endpoint reports %s", version)
                return {"version": version, "workloads": names}
            self._later(context, acting.settings.release.endpoint_within, "; ".join(problems))
        raise AssertionError("not reached")

    def _later(self, context: Context, within: float, why: str) -> None:
        from airflow.sdk.exceptions import AirflowRescheduleException

        now = dt.datetime.now(dt.UTC)
        first = context["ti"].get_first_reschedule_date(context) or now
        if now - first > dt.timedelta(seconds=within):
            raise ChangeFailed(f"not so within {within:.0f} s: {why}")
        self.log.info("not yet: %s", why)
        raise AirflowRescheduleException(now + dt.timedelta(seconds=3))  # type: ignore[no-untyped-call]


class ReleaseWatchOperator(WatchOperator):
    """Watch the release against the plan's baseline."""

    def subject(self, context: Context) -> WatchSubject:
        """Return the Deployments as they are now, the baseline and the minutes."""
        from vcci_ops.hooks.kubernetes_writer import DEPLOYMENTS, KubernetesWriter

        plan, writer = approved(context), KubernetesWriter()
        workloads = {}
        for name, planned in plan["workloads"].items():
            manifest = writer.object(DEPLOYMENTS, self.namespace, name)
            workloads[name] = expected_of(manifest, image_of(manifest, planned["container"]))
        for name, workload in workloads.items():
            if workload["image"] != plan["workloads"][name]["to"]:
                raise Refused(f"{name} runs {workload['image']}, not what this run rolled out: somebody changed it")
        return WatchSubject(workloads=workloads, baseline=plan["baseline"], minutes=plan["watch"]["minutes"])
