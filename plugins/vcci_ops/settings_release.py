"""Settings of the release pipeline: which images, which Jobs, who approves, how it is watched."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from pydantic import Field, model_validator

from vcci_ops.settings_base import DnsLabel, Duration, Model
from vcci_ops.settings_watch import Watch


class Image(Model):
    """An image that a release ships."""

    repository: str = Field(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$")
    """Its name in the registry, without host and tag: vcci/backend-api."""
    workloads: tuple[DnsLabel, ...] = Field(min_length=1)
    """Deployments that run it, in the order in which they are rolled out."""
    dockerfile: str = "Dockerfile"
    """Path in the repository, for the build."""


class Freeze(Model):
    """A time in which nothing is released."""

    begin: dt.datetime
    end: dt.datetime
    reason: str

    @model_validator(mode="after")
    def _ordered(self) -> Freeze:
        if self.begin.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("times with their zone, such as 2026-12-24T00:00:00Z")
        if self.begin >= self.end:
            raise ValueError("an end after the begin")
        return self


class Approvals(Model):
    """Who may say yes, and how long is waited for it."""

    own: bool = False
    """Whether the one who asked may approve, too."""
    within: Duration = 7200.0
    """Nobody answered in this time: rejected."""


class ReleaseJobs(Model):
    """What runs in the release's own image, as Kubernetes Jobs."""

    image: str
    """Repository of the image that has the scripts, the migrations and the smoke tests."""
    like: DnsLabel
    """Deployment whose container's environment, ConfigMaps and Secrets the Jobs get."""
    validation: tuple[str, ...] = ("python", "scripts/validate_production_env.py", "--env", "production")
    smoke: tuple[str, ...] = ("pytest", "tests/smoke/", "-v")
    alembic: tuple[str, ...] = ("alembic",)
    timeout: Duration = 900.0
    """A Job that takes longer has failed (activeDeadlineSeconds)."""
    keep: Duration = 86400.0
    """A Job that has ended is kept this long (ttlSecondsAfterFinished)."""


class Build(Model):
    """How an image is built in the cluster, when the form asks for it."""

    image: str = "moby/buildkit:v0.26.2-rootless"
    """Rootless BuildKit; mirror it into your registry and pin it by digest."""
    timeout: Duration = 1800.0
    """A build that takes longer has failed."""
    git_login: bool = True
    """Whether the repository wants a log-in: key ``token`` of the Secret ``vcci-ops-git`` in the namespace."""


class Release(Model):
    """How a release is done."""

    registry: str = ""
    """Host (and port) of image references; default: that of the connection vcci_registry."""
    images: tuple[Image, ...] = Field(min_length=1)
    jobs: ReleaseJobs
    build: Build = Build()
    watch: Watch
    approvals: Approvals = Approvals()
    commit_url: str = ""
    """Where a person sees a commit: a URL with {sha}."""
    issue_url: str = ""
    """Where a person sees an issue that a commit names with #12: a URL with {number}."""
    statuspage_components: tuple[str, ...] = ()
    """Components of Statuspage, by name or id, that the maintenance of a release is shown on."""
    git_author: str = "vcci-ops <vcci-ops@greenlang.io>"
    """Tagger of the releases."""
    backup_within: Duration = 93600.0
    """A migration needs a verified backup younger than this."""
    rollout_within: Duration = 900.0
    """A rollout that takes longer has failed, whatever the Deployment's own progress deadline is."""
    endpoint_within: Duration = 120.0
    """How long the public endpoint may take to report the new version."""
    freezes: tuple[Freeze, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Release:
        names = self.workloads
        if len(set(names)) != len(names):
            raise ValueError("each workload below one image only")
        if self.jobs.image not in {image.repository for image in self.images}:
            raise ValueError("jobs.image: the repository of one of images")
        return self

    @property
    def workloads(self) -> tuple[str, ...]:
        """Names of all Deployments that a release changes, in the order of the rollout."""
        return tuple(name for image in self.images for name in image.workloads)

    def repositories_of(self, workloads: Iterable[str]) -> set[str]:
        """Return the images that a release of these Deployments needs: theirs, and the one that the Jobs run."""
        return {self.image_of(name).repository for name in workloads} | {self.jobs.image}

    def image_of(self, workload: str) -> Image:
        """Return the image that a Deployment runs.

        :raises KeyError: when a release does not change it.
        """
        found = next((image for image in self.images if workload in image.workloads), None)
        if found is None:
            raise KeyError(workload)
        return found
