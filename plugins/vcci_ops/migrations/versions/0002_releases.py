"""Releases, what their steps did, the samples of their watches, incidents, and who broke which lock."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002_releases"
down_revision = "0001_history"
branch_labels = None
depends_on = None


def _run() -> tuple[sa.Column[str], ...]:
    return tuple(sa.Column(name, sa.Text, primary_key=True) for name in ("environment", "dag_id", "run_id"))


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "release",
        *_run(),
        sa.Column("kind", sa.Text, nullable=False, comment="deploy or rollback"),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("from_version", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False, comment="running, or how it ended"),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("approved_by", sa.Text),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("plan_hash", sa.Text, nullable=False),
        sa.Column("plan", JSONB, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("detail", JSONB, nullable=False, server_default="{}"),
        comment="One row a release or rollback that was not a dry run",
    )
    op.create_index("release_by_time", "release", ["environment", "started_at"])
    op.create_table(
        "step",
        *_run(),
        sa.Column("step", sa.Text, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("detail", JSONB, nullable=False, server_default="{}"),
        comment="What a run has done, so that a repeated task finds it and does not do it twice",
    )
    op.create_table(
        "watch_sample",
        sa.Column("watch", sa.Text, primary_key=True, comment="environment/dag_id/run_id/task_id"),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("sample", JSONB, nullable=False),
        sa.CheckConstraint("verdict IN ('pass', 'fail', 'inconclusive', 'error')", name="watch_sample_verdict"),
        comment="Every sample of a watch, with its resolved queries",
    )
    op.create_table(
        "incident",
        sa.Column("id", sa.Text, primary_key=True, comment="INC-2026-11-24-001"),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("source", sa.Text, nullable=False, comment="dag_id/run_id that opened it"),
        sa.Column("detail", JSONB, nullable=False, server_default="{}"),
        sa.CheckConstraint("severity IN ('P0', 'P1', 'P2', 'P3')", name="incident_severity"),
        sa.UniqueConstraint("environment", "source", "title", name="incident_once"),
        comment="Incidents that runs opened",
    )
    op.create_table(
        "change_event",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("kind", sa.Text, nullable=False, comment="deploy, rollback, scale, restart, lock-broken"),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False, comment="dag_id/run_id"),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("detail", JSONB, nullable=False, server_default="{}"),
        sa.UniqueConstraint("environment", "source", "kind", "summary", name="change_event_once"),
        comment="What changed the platform and when: marked on every trend",
    )
    op.create_index("change_event_by_time", "change_event", ["environment", "at"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("change_event", "incident", "watch_sample", "step", "release"):
        op.drop_table(table)
