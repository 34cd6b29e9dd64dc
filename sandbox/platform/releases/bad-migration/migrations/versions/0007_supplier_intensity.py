"""A migration that fails half-way: PostgreSQL divides by zero after the first table is made."""

from alembic import op

revision = "0007_supplier_intensity"
down_revision = "0006_supplier_scores"


def upgrade() -> None:
    op.execute("CREATE TABLE intensity_units (name text PRIMARY KEY)")
    op.execute("""
        CREATE TABLE supplier_intensity AS
        SELECT supplier_id, sum(co2e_kg) / count(*) FILTER (WHERE data_quality > 5) AS kg_per_activity
        FROM emissions GROUP BY supplier_id""")


def downgrade() -> None:
    op.execute("DROP TABLE supplier_intensity, intensity_units")
