"""Settings of scaling: named profiles, and what the database can bear."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from vcci_ops.settings_base import DnsLabel, Duration, Model

CUSTOM = "custom"
"""What the form offers beside the profiles: numbers of one's own."""
Replicas = Annotated[int, Field(ge=0, le=1000, strict=True)]


class ScaledWorkload(Model):
    """A Deployment that may be scaled, or that takes database connections."""

    pool_size: int = Field(ge=0, le=10_000)
    """Database connections that one pod may hold at most: its pool, its overflow, times its processes."""
    least: Replicas = 1
    """Fewest replicas a person may ask for."""
    most: Replicas
    """Most replicas a person may ask for; 1 for what must never run twice, such as Celery's beat."""
    ceiling: Replicas | None = None
    """The autoscaler's usual maximum, to which it returns when scaled down; none: it is left as it is then."""

    @model_validator(mode="after")
    def _ordered(self) -> ScaledWorkload:
        if self.least > self.most:
            raise ValueError("least must not be above most")
        return self


class Scaling(Model):
    """How the platform is scaled."""

    workloads: dict[DnsLabel, ScaledWorkload] = Field(min_length=1)
    """By the name of the Deployment. All of them count for the database, whether a profile scales them or not."""
    profiles: dict[str, dict[DnsLabel, Replicas]] = Field(min_length=1)
    """Name, as the form offers it, to replicas by workload."""
    database_roles: tuple[str, ...] = Field(min_length=1)
    """Roles the workloads log in as; the sessions of any other role count as other clients'."""
    reserve: int = Field(ge=0, le=10_000)
    """Connections to keep free, beyond those PostgreSQL keeps for superusers: for the pods that a rollout
    starts before old ones go, for migrations, for people."""
    ready_within: Duration = 600.0
    """How long the pods may take to be there."""
    until_at_most: Duration = 1_209_600.0
    """An end time may lie this far ahead. Default: 14 days."""

    @model_validator(mode="after")
    def _profiles_fit(self) -> Scaling:
        for profile, sizes in self.profiles.items():
            if profile == CUSTOM or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", profile) or not sizes:
                raise ValueError(f"profiles.{profile}: lower-case letters, digits and '-', not {CUSTOM}; not empty")
            for name, replicas in sizes.items():
                known = self.workloads.get(name)
                if known is None:
                    raise ValueError(f"profiles.{profile}.{name}: one of workloads ({', '.join(self.workloads)})")
                if not known.least <= replicas <= known.most:
                    raise ValueError(f"profiles.{profile}.{name}: from {known.least} to {known.most} replicas")
        return self
