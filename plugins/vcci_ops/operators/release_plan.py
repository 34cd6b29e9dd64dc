"""The release's second phase: the images by digest, what they would do to the schema, and the plan of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from vcci_ops.domain import release_text
from vcci_ops.domain.jobs import JobRequest
from vcci_ops.domain.migrations import read_offline_sql
from vcci_ops.domain.plans import SHORT, canonical, plan_hash
from vcci_ops.domain.release_plan import plan_markdown, schema_part
from vcci_ops.domain.results import Result
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import MeasurementError, OpsError, Refused
from vcci_ops.operators.acting import Acting, failing_clearly, needed, pulled, tell
from vcci_ops.operators.approval import PlanApprovalOperator
from vcci_ops.operators.base import RESULTS_KEY
from vcci_ops.operators.jobs import PlatformJobOperator
from vcci_ops.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.registry import Registry
    from vcci_ops.settings_release import Release

REQUEST, IMAGES, SCHEMA, METRICS, BACKUP = (
    "validate.request",
    "candidate.images",
    "candidate.schema",
    "validate.metrics",
    "validate.backup",
)
"""Tasks of release_deploy that leave what the plan is made of."""
PLAN, APPROVAL = "plan", "approve"


def in_order(plan: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a plan with its workloads in the order of the rollout, which Airflow's database does not keep."""
    workloads = plan.get("workloads") or {}
    return (
        {**plan, "workloads": {name: workloads[name] for name in names if name in workloads}} if workloads else {**plan}
    )


def written(plan: Mapping[str, Any], where: str = "") -> str:
    """Return the plan as people read it, with the settings' order of workloads and names of metrics."""
    release = load_settings().release
    return plan_markdown(in_order(plan, release.workloads), where=where, metrics=release.watch.metrics)


def output_of(job: Mapping[str, Any]) -> str:
    """Return the whole output of a Job that has ended well.

    :raises Refused: when a part of it is missing; half of a plan is none.
    """
    if not job["succeeded"]:
        raise Refused(f"Job {job['job']} failed: {job['reason']}; without it there is no plan")
    if not job["complete"]:
        raise Refused(f"the output of Job {job['job']} is not complete ({'; '.join(job['notes'])}); clear its task")
    return str(job["output"])


def known_types(log: Any) -> dict[str, str]:
    """Return the types of the columns, so that a change to a wider one is told from one that loses something.

    Not known, such a change counts as destructive; that bars nothing.
    """
    from vcci_ops.hooks.schema import column_types

    try:
        return column_types()
    except MeasurementError as error:
        log.warning("The types of the columns are not known, so each change of one counts as destructive: %s", error)
        return {}


def candidate(registry: Registry, repository: str, version: str, commit: str) -> str | None:
    """Return the digest of a release's image: by its version, else by its commit; None when there is none.

    :raises Refused: when the version's image was built from another commit.
    """
    digest = registry.digest(repository, version)
    if digest is None:
        return registry.digest(repository, f"sha-{commit}")
    built_from = registry.labels(repository, digest).get("org.opencontainers.image.revision")
    if built_from and built_from != commit:
        raise Refused(
            f"{repository}:{version} in the registry was built from {built_from[:SHORT]}, not from {commit[:SHORT]}: "
            "a version's image never changes; release a new version"
        )
    return digest


class BuildImageOperator(PlatformJobOperator):
    """Build an image in the cluster with rootless BuildKit, unless the registry has it.

    It is pushed under the commit, so that nothing refers to it before the plan is approved.

    :param repository: name of the image in the registry.
    """

    def __init__(self, *, repository: str, **kwargs: Any) -> None:
        super().__init__(acting=False, **kwargs)
        self.repository = repository

    def request(self, context: Context) -> JobRequest | None:
        """Return the build, or None when there is nothing to build."""
        from vcci_ops.hooks.git import PlatformRepository
        from vcci_ops.hooks.registry import Registry

        acting, asked = Acting.of(context), needed(context, REQUEST)
        release, registry = acting.settings.release, Registry()
        if self.repository not in release.repositories_of(asked["workloads"]):
            self.log.info("no workload of this release runs %s", self.repository)
            return None
        if digest := candidate(registry, self.repository, asked["version"], asked["commit"]):
            self.log.info("the registry has it: %s", digest)
            return None
        if asked["images"] != "build":
            raise Refused(
                f"images: the registry has no {self.repository}:{asked['version']} and nothing is to be built; "
                "choose `build`, or let your CI push it first"
            )
        if asked["dry_run"]:
            raise Refused(
                f"{self.repository} would have to be built; a dry run builds nothing, so it cannot plan further"
            )
        tag = f"{release.registry or registry.host}/{self.repository}:sha-{asked['commit']}"
        return JobRequest(
            step=f"build-{self.repository.rpartition('/')[2]}",
            manifest="buildkit",
            image=release.build.image,
            command=self._command(release, asked, f"{PlatformRepository().url}#{asked['commit']}", tag),
            timeout=release.build.timeout,
            keep=release.jobs.keep,
        )

    def _command(self, release: Release, asked: Mapping[str, Any], source: str, tag: str) -> tuple[str, ...]:
        """Return BuildKit's command line. https://github.com/moby/buildkit#building-a-dockerfile-with-buildctl"""
        image = next(image for image in release.images if image.repository == self.repository)
        about = {"revision": asked["commit"], "version": asked["version"]}
        options = {
            "context": source,
            "filename": image.dockerfile,
            **{f"label:org.opencontainers.image.{name}": value for name, value in about.items()},
            **{f"build-arg:{name.upper()}": value for name, value in about.items()},
        }
        login = ("--secret", "id=GIT_AUTH_TOKEN,env=GIT_AUTH_TOKEN") if release.build.git_login else ()
        return (
            "buildctl-daemonless.sh",
            "build",
            "--frontend",
            "dockerfile.v0",
            *(word for name, value in options.items() for word in ("--opt", f"{name}={value}")),
            *login,
            "--output",
            f"type=image,name={tag},push=true",
        )


class ResolveImagesOperator(BaseOperator):
    """Return the release's images by digest: repository → reference, digest.

    :raises AirflowFailException: when one is not in the registry.
    """

    def execute(self, context: Context) -> dict[str, dict[str, str]]:
        """Ask the registry for each image of the chosen workloads, and for the one that the Jobs run."""
        from vcci_ops.hooks.registry import Registry

        acting = Acting.of(context)
        release, found = acting.settings.release, {}
        with failing_clearly():
            asked, registry = needed(context, REQUEST), Registry()
            host = release.registry or registry.host
            for repository in sorted(release.repositories_of(asked["workloads"])):
                digest = candidate(registry, repository, asked["version"], asked["commit"])
                if digest is None:
                    raise Refused(f"the registry {registry.host} has no image {repository}:{asked['version']}")
                found[repository] = {"digest": digest, "reference": f"{host}/{repository}:{asked['version']}@{digest}"}
                self.log.info("%s", found[repository]["reference"])
        return found


class ReleaseJobOperator(PlatformJobOperator):
    """A Job in the release's own image, with the environment of a running workload.

    A subclass or :param arguments: says what runs.

    :param step: what it is called in the cluster and in the record.
    :param command: key of ``release.jobs`` in the settings that has the command.
    :param junit: ask pytest for its JUnit document, and keep it as evidence.
    """

    verbatim = False
    """Whether a program reads its output, so that nothing in it may be masked."""

    def __init__(self, *, step: str, command: str, junit: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.command = command
        self.junit = junit

    def arguments(self, context: Context) -> tuple[str, ...] | None:
        """Return what follows the command; None when there is nothing to run."""
        return ("--junitxml=/dev/stdout",) if self.junit else ()

    def image(self, context: Context) -> str:
        """Return the reference of the image that runs."""
        jobs = Acting.of(context).settings.release.jobs
        return str(needed(context, IMAGES)[jobs.image]["reference"])

    def version(self, context: Context) -> str:
        """Return the version that the Job expects to see."""
        return str(needed(context, REQUEST)["version"])

    def request(self, context: Context) -> JobRequest | None:
        """Return the Job."""
        more = self.arguments(context)
        if more is None:
            return None
        jobs = Acting.of(context).settings.release.jobs
        return JobRequest(
            step=self.step,
            image=self.image(context),
            command=(*getattr(jobs, self.command), *more),
            env={"EXPECTED_VERSION": self.version(context)},
            like=jobs.like,
            timeout=jobs.timeout,
            keep=jobs.keep,
            verbatim=self.verbatim,
        )


class SchemaPlanOperator(ReleaseJobOperator):
    """Let the new image say what its migrations would run: ``alembic upgrade CURRENT:head --sql``, which runs nothing.

    https://alembic.sqlalchemy.org/en/latest/offline.html
    """

    verbatim = True

    def arguments(self, context: Context) -> tuple[str, ...] | None:
        """Return from where to where; also when none is to run: the approver reads what is due and left out."""
        from vcci_ops.hooks.schema import current_revision

        current = current_revision()
        context["ti"].xcom_push(key="current", value=current)
        return ("upgrade", f"{current}:head" if current else "head", "--sql")


class PlanOperator(BaseOperator):
    """Put together what will change, save it, and show it.

    Returns the plan; XCom ``hash`` and ``where`` (its address) go with it.

    :raises AirflowFailException: when a migration is due and no fresh, verified backup exists.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Make the plan."""
        acting = Acting.of(context)
        with failing_clearly():
            plan = self._plan(context, acting)
            if plan["schema"]["apply"]:
                self._backup(context)
            where = self._save(acting, plan)
        digest = plan_hash(plan)
        self.log.info("Plan %s\n%s", digest, written(plan, where))
        for key, value in (("hash", digest), ("where", where)):
            context["ti"].xcom_push(key=key, value=value)
        return plan

    def _plan(self, context: Context, acting: Acting) -> dict[str, Any]:
        asked, images = needed(context, REQUEST), needed(context, IMAGES)
        release = acting.settings.release
        workloads = {
            name: {**workload, "to": images[release.image_of(name).repository]["reference"]}
            for name, workload in asked["workloads"].items()
        }
        return {
            "kind": "deploy",
            "environment": acting.settings.environment,
            "namespace": acting.settings.kubernetes.namespace,
            **{key: asked[key] for key in ("version", "from_version", "commit", "ref", "reason", "requested_by")},
            "images": images,
            "workloads": workloads,
            "schema": self._schema(context, apply=asked["migration"] == "auto"),
            "baseline": needed(context, METRICS),
            "watch": {"minutes": asked["watch_minutes"]},
            "changelog": asked["changelog"],
        }

    def _schema(self, context: Context, *, apply: bool) -> dict[str, Any]:
        """Return the schema's part.

        :raises OpsError: when the migrations cannot be read; where none is to run, the plan says so instead.
        """
        current = pulled(context, SCHEMA, "current")
        try:
            migrations = read_offline_sql(output_of(needed(context, SCHEMA)), start=current)
        except OpsError as error:
            if apply:
                raise
            self.log.warning("Which migrations are due is not known: %s", error)
            return {**schema_part(current, [], apply=False), "unread": str(error)}
        return schema_part(current, migrations, apply=apply, types=known_types(self.log) if migrations else None)

    @staticmethod
    def _backup(context: Context) -> None:
        results = [Result.from_dict(data) for data in needed(context, BACKUP, RESULTS_KEY)]
        within = load_settings().release.backup_within
        bad = [f"{r.title}: {r.summary}" for r in results if r.check != "backups.size" and r.status.fails_run]
        old = [r for r in results if r.check == "backups.age" and r.value is not None and r.value > within]
        bad += [f"{r.title}: {r.summary}, and a migration needs one younger than {duration(within)}" for r in old]
        if bad:
            raise Refused("a migration is due and there is no fresh, verified backup to go back to: " + "; ".join(bad))

    def _save(self, acting: Acting, plan: Mapping[str, Any]) -> str:
        from vcci_ops.hooks.reports import ReportStore

        store = ReportStore.of(acting.settings)
        return store.save_file(acting.dag_id, acting.run_id, "plan.json", canonical(plan), "application/json")


class DryRunGate(BaseOperator):
    """End a dry run here: the plan is made, nothing after this is done.

    :raises AirflowSkipException: in a dry run.
    """

    def execute(self, context: Context) -> None:
        """Skip what follows, or let it pass."""
        acting = Acting.of(context)
        if acting.params.get("dry_run") is not False:
            raise AirflowSkipException("dry run: the plan above is all; nothing was changed")
        with failing_clearly():
            plan = needed(context, PLAN)
        tell(acting, "root", release_text.headline("waiting", plan), root=True)
        if changes := needed(context, REQUEST).get("changelog_slack"):
            tell(acting, "changes", changes)


class ReleaseApprovalOperator(PlanApprovalOperator):
    """Ask for the approval of a release's plan."""

    def title(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return the headline: what is approved, and where."""
        what = "the rollback to" if plan["kind"] == "rollback" else "the release of"
        return f"Approve {what} {plan['version']} on {plan['environment']}, plan {plan_hash(plan)[:SHORT]}"

    def plan_body(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return the plan as the approver reads it."""
        return written(plan, str(pulled(context, self.plan_task_id, "where") or ""))
