"""Uploaded documents and generated reports; both keep their content in S3."""

from alembic import op

revision = "0004_documents_and_reports"
down_revision = "0003_audit_and_usage"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE documents (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            supplier_id uuid REFERENCES suppliers,
            uploaded_by uuid REFERENCES users ON DELETE SET NULL,
            file_name text NOT NULL,
            s3_key text NOT NULL UNIQUE,
            content_type text NOT NULL,
            size_bytes bigint NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("CREATE INDEX documents_tenant_id ON documents (tenant_id)")
    op.execute("""
        CREATE TABLE reports (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            calculation_id bigint REFERENCES calculations,
            title text NOT NULL,
            standard text NOT NULL,
            status text NOT NULL CHECK (status IN ('draft', 'final')),
            s3_key text,
            created_at timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("CREATE INDEX reports_tenant_id ON reports (tenant_id)")


def downgrade() -> None:
    op.execute("DROP TABLE reports, documents")
