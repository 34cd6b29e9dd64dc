"""Settings of the tenant lifecycle and of the access review: choices of the forms, rights to say yes, limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vcci_ops.settings_base import DnsLabel, Duration, Model

Identifier = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]
Choices = Annotated[tuple[str, ...], Field(min_length=1)]


class TenantJobs(Model):
    """The platform's own scripts, run as Kubernetes Jobs in the image of the running release."""

    like: DnsLabel
    """Deployment whose image, environment, ConfigMaps and Secrets the Jobs get."""
    admin: tuple[str, ...] = ("python", "scripts/create_tenant_admin.py")
    configure: tuple[str, ...] = ("python", "scripts/configure_tenant.py")
    welcome: tuple[str, ...] = ("python", "scripts/send_welcome_email.py")
    timeout: Duration = 300.0
    """A Job that takes longer has failed (activeDeadlineSeconds)."""
    keep: Duration = 86400.0
    """A Job that has ended is kept this long (ttlSecondsAfterFinished)."""


class Onboarding(Model):
    """What a new tenant may be."""

    tiers: Choices
    emission_factors: Choices
    reporting_standards: Choices
    monitored: str
    """PromQL with {tenant_id}: a series that exists once the tenant is visible to monitoring."""
    monitored_within: Duration = 180.0
    """Prometheus sees a new tenant within this time: a scrape or two."""
    undo_within: Duration = 86400.0
    """A person may approve the undo plan of an onboarding that failed for this long."""
    undo_own: bool = False
    """Whether the one who asked for the onboarding may approve that it is undone."""


class Documents(Model):
    """Where a tenant's files are: S3, connection vcci_s3."""

    bucket: str
    prefix: str = "tenants/{tenant_id}/"
    """Key prefix, with {tenant_id} or {slug} and the closing slash."""

    @model_validator(mode="after")
    def _whole(self) -> Documents:
        if not self.prefix.endswith("/") or not ("{tenant_id}" in self.prefix or "{slug}" in self.prefix):
            raise ValueError("prefix: with {tenant_id} or {slug}, and a slash at its end")
        return self


class Cache(Model):
    """Where Redis keeps something of a tenant: connection vcci_redis."""

    db: int = Field(ge=0, le=65535)
    patterns: tuple[str, ...] = Field(min_length=1)
    """Glob patterns of SCAN with {tenant_id} or {slug}."""


class ErasureApproval(Model):
    """Who may say yes to a deletion."""

    people: int = Field(default=2, ge=1, le=5)
    """How many have to approve."""
    own: bool = False
    """Whether the one who asked counts as one of them."""
    within: Duration = 172_800.0
    """Nobody answered in this time: rejected."""


class Erasure(Model):
    """How a tenant is deleted."""

    schedule: str = "30 2 * * *"
    """Cron of tenant_purge_due, in UTC."""
    approval: ErasureApproval = ErasureApproval()
    grace_days: int = Field(default=30, ge=0, le=3650)
    """Days between approval and deletion, as the form offers them."""
    legal_bases: Choices
    """What the form offers as legal basis."""
    export_bucket: str
    export_prefix: str = "tenants/"
    export_keep: Duration = 7_776_000.0
    """The export is to be deleted this long after it was made. Default: 90 days; told in the certificate."""
    encryption: str = Field(default="AES256", pattern=r"^(AES256|aws:kms)$")
    """Server-side encryption of the export: S3's own keys, or KMS."""
    kms_key: str = ""
    """With aws:kms: id of the key; empty: the account's default."""
    tenants_table: str = Field(default="public.tenants", pattern=r"^[a-z_][a-z0-9_]{0,62}\.[a-z_][a-z0-9_]{0,62}$")
    """The table of tenants, with its schema, and the column that identifies one."""
    tenants_key: Identifier = "id"
    tenant_column: Identifier = "tenant_id"
    """A column of this name says whose a row is, with or without a foreign key."""
    belongs_through: tuple[str, ...] = ()
    """``schema.table.constraint``: foreign keys whose rows are the tenant's although the key clears itself when what
    it refers to is deleted (ON DELETE SET NULL)."""
    withheld_columns: tuple[str, ...] = ("password_hash", "token_hash", "key_hash")
    """Columns of this name are secrets: not exported. include/sql/grants/ has the same list."""
    schemas_ignored: tuple[str, ...] = ()
    """Schemas that hold nothing of tenants, beside PostgreSQL's own."""
    kept_tables: tuple[str, ...] = ()
    """``schema.table`` whose rows of the tenant are kept by law; each must be justified in the certificate."""
    batch_rows: int = Field(default=5000, ge=1, le=1_000_000)
    """Rows a transaction deletes at most."""
    lock_timeout: Duration = 2.0
    statement_timeout: Duration = 60.0
    pause_lag: Duration = 10.0
    """Deleting pauses while a standby is further behind than this."""
    pause_waits: int = Field(default=5, ge=1)
    """Deleting pauses while more sessions than this wait for locks."""
    backups_kept: Duration = 31_536_000.0
    """How long the oldest backup is kept that may still hold the tenant."""


class Tenants(Model):
    """The tenant lifecycle."""

    jobs: TenantJobs
    onboarding: Onboarding
    documents: Documents
    cache: tuple[Cache, ...] = ()
    suspended_at_most: Duration = 7_776_000.0
    """How far ahead the end of a suspension may lie; a run waits for it. Default: 90 days."""
    erasure: Erasure


class DatabaseRole(Model):
    """A role that may log in to the production database."""

    purpose: str
    """What it is for, in words."""
    kind: Literal["administrator", "owner", "writer", "copier", "reader"]
    """What it may be at most: ``administrator`` anything; ``owner`` owns tables; ``writer`` has been granted to write,
    and owns nothing; ``copier`` reads every table, as backups must, and writes nothing; ``reader`` reads what it was
    granted. Whatever a role can do beyond its kind is a finding."""


class AccessReview(Model):
    """The monthly access review."""

    schedule: str = "0 7 1 * *"
    """Cron, in UTC."""
    inactive_after: Duration = 7_776_000.0
    """A user who has neither logged in nor used a session for this long is inactive. Default: the runbook's 90 days."""
    key_unused_after: Duration = 7_776_000.0
    key_old_after: Duration = 31_536_000.0
    """An API key older than this should have been renewed."""
    never_touched: tuple[str, ...] = ()
    """Mail addresses that are never deactivated, beside service accounts and a tenant's last admin."""
    database_roles: dict[str, DatabaseRole] = Field(default_factory=dict)
    """Roles that may log in to the production database; any other is a finding."""
    cluster_admins: tuple[str, ...] = ()
    """Subjects (``Kind/namespace/name`` or ``Kind/name``) that may be bound to cluster-admin."""
    approve_within: Duration = 604_800.0
    """The reviewer answers within this time; else the review ends unfinished, and red."""
    own_approval: bool = False
    """Whether who began a review by hand may be its reviewer."""
    mail_domain: str = Field(default="", pattern=r"^([A-Za-z0-9-]+\.)*[A-Za-z0-9-]*$")
    """Airflow's users are people of this domain: ``ada`` is ada@<domain>, and cannot approve a list that she is on.
    Empty: only names that are whole addresses are compared."""
