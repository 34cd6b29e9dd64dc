-- What the read-only checks need of the production database, and nothing beyond it.
--
-- Run once by the database's owner or an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops LOGIN PASSWORD '...';
-- Safe to run again. The role reads; it can write nothing, and no password hash, token, key or
-- figure of a tenant is among what it reads.

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops;

-- All sessions in pg_stat_activity, all statements in pg_stat_statements, sizes, settings.
-- https://www.postgresql.org/docs/current/predefined-roles.html
GRANT pg_monitor TO vcci_ops;

GRANT USAGE ON SCHEMA public TO vcci_ops;

-- tenants.active; names for reports.
GRANT SELECT (id, name, slug, subscription_tier, status, created_at) ON tenants TO vcci_ops;
GRANT SELECT (id, tenant_id, user_id, created_at, last_active) ON sessions TO vcci_ops;

-- security.*
GRANT SELECT (id, tenant_id, role, status, is_service_account, last_login, created_at) ON users TO vcci_ops;
GRANT SELECT (id, tenant_id, action, actor, target, ip, details, created_at) ON audit_log TO vcci_ops;

-- The schema's revision, which reports name and releases compare.
GRANT SELECT ON alembic_version TO vcci_ops;

-- Belt and braces: a mistake in a query must neither write nor run for ever.
ALTER ROLE vcci_ops SET default_transaction_read_only = on;
ALTER ROLE vcci_ops SET statement_timeout = '30s';
ALTER ROLE vcci_ops SET lock_timeout = '5s';
