"""Backups, restore drills with their assertions, the compliance register, maintenance of the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004_recovery"
down_revision = "0003_tenants"
branch_labels = None
depends_on = None

_TABLES = ("maintenance_action", "compliance_register", "drill_assertion", "drill", "backup")


def _text(name: str, comment: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, comment=comment)


def _time(name: str, comment: str | None = None, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, comment=comment)


def _detail(name: str = "detail") -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default="{}")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "backup",
        sa.Column("environment", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True, comment="in the bucket of the settings"),
        _text("source", "dag_id/run_id that made it"),
        _text("state", "running, made, failed, deleting, deleted"),
        _time("taken_at", "when its snapshot was taken", nullable=False),
        _time("verified_at", "when it was read back and its table of contents parsed"),
        _time("restored_at", "when a drill last restored it and found it good"),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("sha256", sa.Text, comment="of the dump"),
        _detail(),
        comment="Backups that vcci-ops made, and what it knows of others",
    )
    op.create_table(
        "drill",
        sa.Column("id", sa.Text, primary_key=True, comment="dag_id/run_id"),
        _text("environment"),
        _text("backup", "key; empty: none could be chosen"),
        _text("outcome", "running, passed, failed, unknown"),
        _time("started_at", nullable=False),
        _time("ended_at"),
        sa.Column("rto_seconds", sa.Float, comment="from the choice to the verified database"),
        sa.Column("rpo_seconds", sa.Float, comment="from the newest row to the begin of the drill"),
        sa.Column("bytes", sa.BigInteger),
        _detail("phases"),
        _detail(),
        comment="Restore drills",
    )
    op.create_index("drill_by_time", "drill", ["environment", "started_at"])
    op.create_table(
        "drill_assertion",
        sa.Column("drill_id", sa.Text, sa.ForeignKey("drill.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("assertion", sa.Text, primary_key=True),
        _text("status", "ok, warning, critical, unknown"),
        _text("expected"),
        _text("found"),
        _detail(),
        comment="Everything a drill asserted, with what was expected and found",
    )
    op.create_table(
        "compliance_register",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        _text("environment"),
        _text("control", "e.g. backup-restore-test"),
        _time("at", nullable=False),
        _text("status", "met, failed, unknown"),
        _text("source", "dag_id/run_id"),
        _text("evidence", "key in the report bucket"),
        _text("evidence_sha256"),
        _detail(),
        sa.UniqueConstraint("environment", "control", "source", name="compliance_register_once"),
        comment="Controls and the evidence that they were exercised",
    )
    op.create_table(
        "maintenance_action",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        _text("environment"),
        _text("source", "dag_id/run_id"),
        _text("kind", "vacuum, analyze, reindex, drop-invalid"),
        _text("object", "schema.name"),
        _text("state", "running, done, failed, given-up"),
        _time("started_at", nullable=False),
        _time("ended_at"),
        _detail(),
        sa.UniqueConstraint("environment", "source", "kind", "object", name="maintenance_action_once"),
        comment="What was done to the database, with sizes before and after",
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in _TABLES:
        op.drop_table(table)
