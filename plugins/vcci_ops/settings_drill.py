"""Settings of the restore drill: which server, which names, what it may cost, and how fast it has to be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from vcci_ops.settings_base import DnsLabel, Duration, Model

Identifier = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]


class DrillJobs(Model):
    """The platform's own programs, run as Kubernetes Jobs against the copy, in the image of the running release."""

    enabled: bool = True
    """Off where the cluster cannot reach the restore server: the report then says that nothing of it was shown."""
    like: DnsLabel = "backend-api"
    """Deployment whose image, environment, ConfigMaps and Secrets the Jobs get."""
    container: DnsLabel = "backend-api"
    variable: str = Field(default="DATABASE_URL", pattern=r"^[A-Z_][A-Z0-9_]{0,127}$")
    """The environment variable that says which database; it comes from a Secret that lives as long as the copy."""
    url_scheme: str = "postgresql+psycopg"
    """Scheme of that URL, as the platform's driver wants it."""
    host: str = ""
    """Restore server as the cluster's pods reach it; empty: as the connection vcci_postgres_restore has it."""
    smoke: tuple[str, ...] = ("pytest", "tests/smoke/", "-v")
    upgrade: tuple[str, ...] = ("alembic", "upgrade", "head")
    known: tuple[str, ...] = ("alembic", "history")
    """Lists the revisions that the release knows, on standard output."""
    timeout: Duration = 900.0
    keep: Duration = 86400.0


class Freshness(Model):
    """A column whose newest value says how recent the data is."""

    table: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$")
    column: Identifier


class Drill(Model):
    """The restore drill."""

    schedule: str | None = "0 4 2 * *"
    """Cron, in UTC; none: by hand only."""
    sandbox: bool = False
    """Whether this environment is a sandbox: only there the form offers to sabotage a drill."""
    prefix: str = Field(default="vcci_drill_", pattern=r"^[a-z][a-z0-9_]{3,30}_$")
    """What the scratch databases are called; nothing else on the restore server may begin so."""
    template: Identifier = "template1"
    """Database that they are made from: has amcheck, and the extensions that only a superuser can create."""
    tablespace: Identifier | None = None
    """Where they lie: with a volume of its own no drill can fill the disk of the server; none: the default."""
    disk_budget: int | None = Field(default=None, ge=1)
    """Bytes that all databases of the restore server may take together; none: not known, and said so."""
    expansion: float = Field(default=6.0, ge=1.0)
    """How many times larger than its dump a database is taken to be until a drill has measured it."""
    jobs: int = Field(default=2, ge=1, le=64)
    """Tables, indexes and checks that are worked on at the same time."""
    session: dict[str, str] = Field(
        default_factory=lambda: {"maintenance_work_mem": "256MB", "synchronous_commit": "off"}
    )
    """Settings of the sessions that restore."""
    smaller_than: float = Field(default=50.0, ge=0, le=100)
    """A backup below this share, in percent, of the median of its neighbours is not chosen."""
    neighbours: int = Field(default=7, ge=1, le=60)
    lookback: int = Field(default=30, ge=1, le=365)
    """Days within which a random backup is chosen, unless the form says otherwise."""
    rto: Duration = 4 * 3600.0
    """Target: from the choice of the backup to a verified database."""
    rpo: Duration = 26 * 3600.0
    """Target: from the newest row of the backup to the drill's begin."""
    slower_by: float = Field(default=50.0, gt=0)
    """A warning when a drill needs more than this many percent longer per byte than the median of the last twelve."""
    forecast_days: int = Field(default=180, ge=1, le=3650)
    due_critical: Duration = 7 * 86400.0
    """When what failed is due to be put right; and a warning, below. Both stand in the report."""
    due_warning: Duration = 30 * 86400.0
    keep_at_most: Duration = 3 * 86400.0
    """A copy that was kept on purpose is dropped after this time: it holds personal data."""
    application_role: Identifier = "vcci_app"
    """The role that the platform logs in as; it must be able to use every table of the copy."""
    revision_table: Identifier = "alembic_version"
    freshness: tuple[Freshness, ...] = ()
    """Where rows tell when they were written; without one the manifest's time counts."""
    fresh_within: Duration = 86400.0
    """The newest row may be this much older than the backup; a platform that is used has written something."""
    tenants: str = "public.tenants"
    """Table of the tenants, and its key: tombstoned ones must not be in it."""
    tenants_key: Identifier = "id"
    tenant_column: Identifier = "tenant_id"
    application: DrillJobs = DrillJobs()

    @model_validator(mode="after")
    def _no_option(self) -> Drill:
        for name, value in self.session.items():
            if not name.replace("_", "").replace(".", "").isalnum() or any(c in value for c in " \\'\"\n"):
                raise ValueError(f"session.{name}: the name of a setting, and a value without blanks or quotes")
        return self
