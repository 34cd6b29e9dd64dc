"""Runs, their results, what they were compared with next time, and what was delivered where."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001_history"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the history tables."""
    op.create_table(
        "run",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("dag_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("parameters", JSONB, nullable=False, server_default="{}"),
        sa.Column("report", JSONB, nullable=False),
        sa.CheckConstraint("status IN ('ok', 'warning', 'critical', 'unknown')", name="run_status"),
        sa.UniqueConstraint("environment", "dag_id", "run_id", name="run_once"),
        comment="One row a DAG run that made a report",
    )
    op.create_index("run_by_time", "run", ["dag_id", "environment", "started_at"])
    op.create_table(
        "result",
        sa.Column("run", sa.BigInteger, sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("check_id", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("unit", sa.Text, nullable=False, server_default=""),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("result", JSONB, nullable=False),
        sa.CheckConstraint("status IN ('ok', 'warning', 'critical', 'unknown')", name="result_status"),
        comment="One row a check and subject; `result` is the whole result as reported",
    )
    op.create_index("result_by_check", "result", ["check_id", "subject", "observed_at"])
    op.create_table(
        "snapshot",
        sa.Column("run", sa.BigInteger, sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("payload", JSONB, nullable=False),
        comment="What a later run compares with: error signatures, statements",
    )
    op.create_table(
        "delivery",
        sa.Column("environment", sa.Text, primary_key=True),
        sa.Column("dag_id", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("channel", sa.Text, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        comment="Where a run's report arrived: an S3 address, a Slack channel and message time",
    )


def downgrade() -> None:
    """Drop the history tables."""
    for table in ("delivery", "snapshot", "result", "run"):
        op.drop_table(table)
