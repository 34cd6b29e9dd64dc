"""Release v2.0.0: indexes for who is active, and for what happened lately."""

from alembic import op

revision = "0005_activity_indexes"
down_revision = "0004_documents_and_reports"


def upgrade() -> None:
    op.execute("CREATE INDEX sessions_last_active ON sessions (last_active, tenant_id)")
    op.execute("CREATE INDEX users_created_at ON users (created_at) WHERE role = 'admin'")
    op.execute("CREATE INDEX emissions_created_at ON emissions USING brin (created_at)")


def downgrade() -> None:
    op.execute("DROP INDEX emissions_created_at, users_created_at, sessions_last_active")
