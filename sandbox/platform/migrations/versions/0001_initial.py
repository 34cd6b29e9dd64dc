"""Tenants, their users, sessions and API keys."""

from alembic import op

revision = "0001_initial"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE tenants (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            name text NOT NULL,
            slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
            subscription_tier text NOT NULL CHECK (subscription_tier IN ('starter', 'professional', 'enterprise')),
            status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'deleted')),
            settings jsonb NOT NULL DEFAULT '{}',
            created_at timestamptz NOT NULL DEFAULT now(),
            suspended_at timestamptz
        )""")
    op.execute("""
        CREATE TABLE users (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            email text NOT NULL,
            name text NOT NULL,
            role text NOT NULL CHECK (role IN ('admin', 'manager', 'analyst', 'viewer', 'service')),
            status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive', 'invited')),
            password_hash text,
            is_service_account boolean NOT NULL DEFAULT false,
            last_login timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (tenant_id, email)
        )""")
    op.execute("""
        CREATE TABLE sessions (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            user_id uuid NOT NULL REFERENCES users,
            token_hash text NOT NULL,
            ip inet,
            created_at timestamptz NOT NULL DEFAULT now(),
            last_active timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("CREATE INDEX sessions_user_id ON sessions (user_id)")
    op.execute("""
        CREATE TABLE api_keys (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            created_by uuid REFERENCES users ON DELETE SET NULL,
            name text NOT NULL,
            key_hash text NOT NULL,
            scopes text[] NOT NULL DEFAULT '{}',
            last_used_at timestamptz,
            revoked_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("CREATE INDEX api_keys_tenant_id ON api_keys (tenant_id)")


def downgrade() -> None:
    op.execute("DROP TABLE api_keys, sessions, users, tenants")
