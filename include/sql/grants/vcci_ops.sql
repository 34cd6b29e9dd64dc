-- What the read-only checks need of the production database, and nothing beyond it.
--
-- Run once by the database's owner or an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops LOGIN PASSWORD '...';
-- Safe to run again. The role reads; it can write nothing, and no password hash, token, key or
-- figure of a tenant is among what it reads. A check of your own that reads more needs its own GRANT.

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops;

-- All sessions in pg_stat_activity, all statements in pg_stat_statements, the size of the database. Not
-- pg_monitor: it also reads all settings, and with primary_conninfo the password of the replication.
-- https://www.postgresql.org/docs/current/predefined-roles.html
GRANT pg_read_all_stats TO vcci_ops;

GRANT USAGE ON SCHEMA public TO vcci_ops;

-- tenants.active
GRANT SELECT (status) ON tenants TO vcci_ops;
GRANT SELECT (tenant_id, last_active) ON sessions TO vcci_ops;

-- security.*
GRANT SELECT (id, action, actor, target, ip, details, created_at) ON audit_log TO vcci_ops;

-- Releases: the revision the schema has. No table before the first migration; run this file again after it.
DO $$ BEGIN
  IF to_regclass('alembic_version') IS NOT NULL THEN
    GRANT SELECT ON alembic_version TO vcci_ops;
  END IF;
END $$;

-- Belt and braces: a mistake in a query must neither write nor run for ever.
ALTER ROLE vcci_ops SET default_transaction_read_only = on;
ALTER ROLE vcci_ops SET statement_timeout = '30s';
ALTER ROLE vcci_ops SET lock_timeout = '5s';

-- >>> access_review: API keys without their hashes. Users are read as vcci_ops_tenants, for it takes their mail addresses;
-- roles and their rights are in catalogs that everybody may read.
GRANT SELECT (id, slug, status) ON tenants TO vcci_ops;
GRANT SELECT (id, tenant_id, last_used_at, revoked_at, created_at) ON api_keys TO vcci_ops;
-- <<< access_review
