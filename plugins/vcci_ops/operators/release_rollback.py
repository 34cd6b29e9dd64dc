"""Going back by hand: which revision, what the database would lose, and the way there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from vcci_ops.domain.migrations import read_offline_sql
from vcci_ops.domain.plans import plan_hash
from vcci_ops.domain.release_plan import schema_part
from vcci_ops.domain.release_request import KEEP, RollbackRequest
from vcci_ops.domain.rollback import PREVIOUS, Revision, choose, failed_versions, history, previous_version
from vcci_ops.domain.versions import newer
from vcci_ops.exceptions import DeliveryFailed, MeasurementError, Refused
from vcci_ops.hooks.releases import Releases
from vcci_ops.operators.acting import Acting, failing_clearly, needed, pulled
from vcci_ops.operators.release_act import WorkloadOperator, approved, served_version
from vcci_ops.operators.release_plan import (
    METRICS,
    REQUEST,
    SCHEMA,
    PlanOperator,
    ReleaseApprovalOperator,
    ReleaseJobOperator,
    known_types,
    output_of,
    written,
)
from vcci_ops.operators.release_validate import running
from vcci_ops.operators.rollout import WorkloadChange

if TYPE_CHECKING:
    from airflow.sdk import Context


class RollbackRequestOperator(BaseOperator):
    """Read the form, show the history, and choose the revision of each Deployment.

    :raises AirflowFailException: names the parameter, or the Deployment that has no such revision.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what the later phases need."""
        from vcci_ops.hooks.kubernetes_writer import REPLICASETS, KubernetesWriter

        acting = Acting.of(context)
        with failing_clearly():
            request = RollbackRequest.of(acting.params, acting.settings.release.workloads)
            if request.database != KEEP and not request.dry_run and not acting.settings.release.approvals.own:
                acting.require_requester()
            writer, namespace = KubernetesWriter(), acting.settings.kubernetes.namespace
            found = running(writer, namespace, request.workloads)
            sets = list(writer.objects(REPLICASETS, namespace))
            records = self._records(acting)
            revisions = {name: history(sets, name, workload["container"]) for name, workload in found.items()}
            self._show(revisions, records)
            target = request.target
            if target == PREVIOUS:
                target = previous_version(revisions, failed_versions(records))
            chosen = {name: choose(name, revisions[name], target) for name in found}
        return self._asked(acting, request, found, revisions, chosen)

    def _records(self, acting: Acting) -> list[dict[str, Any]]:
        """Return the releases of the past; none when the history is away, which must bar no way back."""
        try:
            return Releases(acting.settings.environment).latest(200)
        except MeasurementError as error:
            self.log.warning("Which releases failed is not known: %s", error)
            return []

    def _show(self, revisions: Mapping[str, list[Revision]], records: list[dict[str, Any]]) -> None:
        people = {record["version"]: record for record in reversed(records)}
        for name, kept in revisions.items():
            self.log.info("%s:", name)
            for number, revision in enumerate(kept):
                record = people.get(revision.version, {})
                self.log.info(
                    "  %s %-3s %-12s %s  by %s (%s)  %s",
                    "now" if number == 0 else "   ",
                    revision.number,
                    revision.version or "?",
                    revision.made,
                    record.get("requested_by", "?"),
                    record.get("outcome", "not released by this Airflow"),
                    revision.cause,
                )

    def _asked(
        self,
        acting: Acting,
        request: RollbackRequest,
        found: Mapping[str, dict[str, Any]],
        revisions: Mapping[str, list[Revision]],
        chosen: Mapping[str, Revision],
    ) -> dict[str, Any]:
        workloads = {
            name: {**workload, "to": chosen[name].image, "replica_set": chosen[name].replica_set}
            for name, workload in found.items()
        }
        targets = sorted({revision.version or revision.image for revision in chosen.values()})
        present = sorted({revisions[name][0].version or workload["image"] for name, workload in found.items()})
        same = [name for name, workload in workloads.items() if workload["image"] == workload["to"]]
        if len(same) == len(workloads) and request.database == KEEP:
            raise Refused(f"target: {', '.join(same)} already run {', '.join(targets)}: nothing to go back to")
        return {
            **dataclasses.asdict(request),
            "version": ", ".join(targets),
            "from_version": ", ".join(present),
            "workloads": workloads,
            "requested_by": acting.requested_by,
        }


class DowngradePlanOperator(ReleaseJobOperator):
    """Let the newer image say what the downgrade would run: ``alembic downgrade CURRENT:TARGET --sql``.

    The older one does not have the scripts of the newer revisions.
    """

    verbatim = True

    def image(self, context: Context) -> str:
        """Return the image that has the scripts, and leave it for the plan."""
        from vcci_ops.hooks.schema import current_revision

        found = newer_image(context, needed(context, REQUEST)["workloads"], current_revision())
        context["ti"].xcom_push(key="image", value=found)
        return found

    def arguments(self, context: Context) -> tuple[str, ...] | None:
        """Return from where to where; None when the schema is kept."""
        from vcci_ops.hooks.schema import current_revision

        current, target = current_revision(), needed(context, REQUEST)["database"]
        context["ti"].xcom_push(key="current", value=current)
        if target in (KEEP, current):
            self.log.info("the schema is kept at %s", current)
            return None
        return ("downgrade", f"{current}:{target}", "--sql")


def newer_image(context: Context, workloads: Mapping[str, Mapping[str, Any]], revision: str | None) -> str:
    """Return the image that knows the way down from a revision: what runs now, or that of the release that came to it.

    After a release whose images went back and whose schema did not, what runs lacks the scripts.

    :raises Refused: when its Deployment is not part of the rollback, so that what it runs is not known.
    """
    settings = Acting.of(context).settings
    jobs = settings.release.jobs
    if jobs.like not in workloads:
        raise Refused(f"workloads: a downgrade runs in the image of {jobs.like}, which must be part of the rollback")
    running_image = str(workloads[jobs.like]["image"])
    released = Releases(settings.environment).image_that_migrated(revision, jobs.image) if revision else None
    return released if released and newer(released, running_image) else running_image


class RollbackPlanOperator(PlanOperator):
    """Put together what goes back to what, and what the database loses by it."""

    def _plan(self, context: Context, acting: Acting) -> dict[str, Any]:
        asked = needed(context, REQUEST)
        job, current = pulled(context, SCHEMA) or {}, pulled(context, SCHEMA, "current")
        target, keep = asked["database"], asked["database"] == KEEP
        steps = read_offline_sql(output_of(job), start=current, target=target) if job else []
        types = known_types(self.log) if steps else None
        return {
            "kind": "rollback",
            "environment": acting.settings.environment,
            "namespace": acting.settings.kubernetes.namespace,
            **{key: asked[key] for key in ("version", "from_version", "reason", "requested_by", "workloads")},
            "schema": {
                **schema_part(current, steps, apply=not keep, types=types),
                "to": current if keep else target,
                "image": pulled(context, SCHEMA, "image"),
            },
            "baseline": needed(context, METRICS),
            "watch": {"minutes": asked["watch_minutes"]},
        }

    def _save(self, acting: Acting, plan: Mapping[str, Any]) -> str:
        """Save it, if the bucket takes it: a way back is not barred by that."""
        try:
            return super()._save(acting, plan)
        except DeliveryFailed as error:
            self.log.warning("The plan stands in this log only: %s", error)
            return ""

    @staticmethod
    def _backup(context: Context) -> None:
        """A downgrade needs no backup gate of its own: what it drops is in the approval."""


class RollbackApprovalOperator(ReleaseApprovalOperator):
    """Ask before data is dropped; a rollback that keeps the database needs nobody's approval: minutes count."""

    def execute(self, context: Context) -> Any:
        """Ask, or note that nobody has to be asked."""
        with failing_clearly():
            plan = needed(context, self.plan_task_id)
        if plan["schema"]["apply"]:
            return super().execute(context)
        answer = {
            "approved": True,
            "by": plan["requested_by"],
            "at": "",
            "comment": "",
            "plan_hash": plan_hash(plan),
            "reason": "the database is kept, so the form is enough",
        }
        context["ti"].xcom_push(key="approval", value=answer)
        self.log.info("No data is at stake: no approval needed. Plan %s\n%s", answer["plan_hash"], written(plan))
        return None


class DowngradeOperator(ReleaseJobOperator):
    """Downgrade the schema with the newer image, to the exact revision, before the older image returns."""

    def image(self, context: Context) -> str:
        """Return the image that made the plan."""
        return str(approved(context)["schema"]["image"])

    def arguments(self, context: Context) -> tuple[str, ...] | None:
        """Return the revision to go down to; None when the schema is kept or there already."""
        from vcci_ops.hooks.schema import current_revision

        schema, now = approved(context)["schema"], current_revision()
        if not schema["apply"] or now == schema["to"]:
            self.log.info("the schema stays at %s", now)
            return None
        return ("downgrade", schema["to"])


class ReturnWorkloadOperator(WorkloadOperator):
    """Bring one Deployment back to the template of the chosen revision, as ``kubectl rollout undo`` does."""

    def change(self, context: Context) -> WorkloadChange | None:
        """Return the way back."""
        from vcci_ops.hooks.kubernetes_writer import REPLICASETS, KubernetesWriter

        plan, acting = approved(context), Acting.of(context)
        planned = plan["workloads"].get(self.workload)
        if planned is None:
            return None
        replica_set = KubernetesWriter().object(REPLICASETS, self.namespace, planned["replica_set"])
        return WorkloadChange(
            workload=self.workload,
            container=planned["container"],
            template=replica_set["spec"]["template"],
            cause=f"rollback to {plan['version']} ({acting.run_id}): {plan['reason']}",
            expected_image=planned["image"],
        )


class ReturnedSmokeOperator(ReleaseJobOperator):
    """Smoke tests of the version that is back, with its own image."""

    def image(self, context: Context) -> str:
        """Return the image that is back."""
        plan, jobs = approved(context), Acting.of(context).settings.release.jobs
        back = plan["workloads"].get(jobs.like)
        return str(back["to"]) if back else ""

    def version(self, context: Context) -> str:
        """Return the version that is back."""
        return served_version(context, approved(context)["workloads"], "to")

    def arguments(self, context: Context) -> tuple[str, ...] | None:
        """Return pytest's arguments; None when the API was not part of the rollback."""
        return super().arguments(context) if self.image(context) else None
