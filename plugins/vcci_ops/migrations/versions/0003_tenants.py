"""The tenant lifecycle: onboardings, suspensions, deletions, tombstones; access reviews."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003_tenants"
down_revision = "0002_releases"
branch_labels = None
depends_on = None

_TABLES = ("access_change", "access_review", "tombstone", "tenant_deletion", "tenant_suspension", "tenant_onboarding")


def _text(name: str, comment: str | None = None, *, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, comment=comment, server_default=default)


def _time(name: str, comment: str | None = None, *, now: bool = False) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        nullable=not now,
        comment=comment,
        server_default=sa.func.now() if now else None,
    )


def _detail(name: str = "detail", empty: str = "{}") -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default=empty)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "tenant_onboarding",
        sa.Column("environment", sa.Text, primary_key=True),
        sa.Column("slug", sa.Text, primary_key=True),
        _text("tenant_id"),
        _text("request_hash", "SHA-256 of what was asked for: the same slug for something else is refused"),
        _text("state", "running, done, failed, undone"),
        _text("source", "dag_id/run_id that worked on it last"),
        _time("started_at", now=True),
        _time("ended_at"),
        _detail(),
        comment="Onboardings by slug; names no person",
    )
    op.create_table(
        "tenant_suspension",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        _text("environment"),
        _text("tenant_id"),
        _text("slug"),
        _text("reason"),
        _text("suspended_by"),
        _text("source", "dag_id/run_id"),
        _time("suspended_at", now=True),
        _time("until", "when it ends by itself; none: a person ends it"),
        _time("ended_at"),
        sa.Column("ended_by", sa.Text),
        _detail(),
        sa.UniqueConstraint("environment", "source", name="tenant_suspension_once"),
        comment="Suspensions of tenants",
    )
    op.create_table(
        "tenant_deletion",
        sa.Column("id", sa.Text, primary_key=True, comment="dag_id/run_id that planned it"),
        _text("environment"),
        _text("tenant_id"),
        _text("slug"),
        _text("name"),
        _text("state"),
        _text("reason"),
        _text("legal_basis"),
        _text("requested_by"),
        _detail("approved_by", "[]"),
        _text("plan_hash"),
        _detail("plan"),
        _detail("export"),
        _time("planned_at", now=True),
        _time("approved_at"),
        _time("due_at"),
        _time("begun_at", "when the first row was deleted"),
        _time("ended_at"),
        _detail(),
        sa.CheckConstraint(
            "state IN ('exporting', 'grace', 'deleting', 'proving', 'deleted', 'cancelled', 'stopped')",
            name="tenant_deletion_state",
        ),
        comment="Approved deletions of tenants and how far they are",
    )
    op.create_index(
        "tenant_deletion_open",
        "tenant_deletion",
        ["environment", "tenant_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('exporting', 'grace', 'deleting', 'proving', 'stopped')"),
    )
    op.create_table(
        "tombstone",
        sa.Column("environment", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, primary_key=True),
        _text("slug"),
        _text("name"),
        _time("deleted_at", now=True),
        _text("certificate", "key in the report bucket"),
        _text("certificate_sha256"),
        comment="Tenants that were deleted and must stay so; a restore honours them",
    )
    op.create_table(
        "access_review",
        sa.Column("id", sa.Text, primary_key=True, comment="dag_id/run_id"),
        _text("environment"),
        _text("state", "open, approved, rejected, unfinished, done"),
        _time("made_at", now=True),
        _text("items_hash"),
        _detail("items", "[]"),
        _detail("decisions"),
        sa.Column("reviewed_by", sa.Text),
        _time("reviewed_at"),
        _time("ended_at"),
        _detail(),
        comment="Access reviews: every line with its recommendation, and what the reviewer decided",
    )
    op.create_table(
        "access_change",
        sa.Column("review_id", sa.Text, sa.ForeignKey("access_review.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", sa.Text, primary_key=True),
        _text("tenant_id"),
        _text("before", "status before"),
        _text("after", "status after"),
        _time("at", now=True),
        _time("reverted_at"),
        comment="Users that were deactivated after a review, and what they were before",
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in _TABLES:
        op.drop_table(table)
