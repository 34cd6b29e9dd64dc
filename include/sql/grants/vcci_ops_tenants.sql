-- What onboarding and suspending tenants, and deactivating users after an access review, needs of the production database, and nothing beyond it.
--
-- Run by the database's owner or an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops_tenants LOGIN PASSWORD '...';
-- Safe to run again; run it again after each migration.
-- Where row-level security is on, it needs more: ALTER ROLE vcci_ops_tenants BYPASSRLS (it refuses to overlook rows).

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops_tenants;

-- >>> access_review, access_revert: list users, deactivate them and put them back, end their sessions, note it in the
-- audit log. The mail address is read inside the database only: masked, or compared with the reviewer's name and with the
-- actors of the audit log. Of a user nothing but the status is changed; UPDATE (status) is what SELECT ... FOR UPDATE
-- asks for, too.
GRANT USAGE ON SCHEMA public TO vcci_ops_tenants;
GRANT SELECT (id, slug, status) ON tenants TO vcci_ops_tenants;
GRANT SELECT (id, tenant_id, email, role, status, is_service_account, last_login, created_at) ON users TO vcci_ops_tenants;
GRANT UPDATE (status) ON users TO vcci_ops_tenants;
GRANT SELECT (id, user_id, last_active), DELETE ON sessions TO vcci_ops_tenants;
GRANT SELECT (created_by, revoked_at) ON api_keys TO vcci_ops_tenants;
GRANT SELECT (tenant_id, action, actor, target, details, created_at) ON audit_log TO vcci_ops_tenants;
GRANT INSERT (tenant_id, action, actor, target, details) ON audit_log TO vcci_ops_tenants;
-- <<< access_review

-- >>> tenant_onboard, tenant_suspend: create a tenant, look whether a slug or a mail address is taken, verify what the
-- platform's scripts did, suspend and reactivate, end a tenant's sessions. Addresses of users are compared, and a tenant's
-- administrators written to. Nothing else of a tenant is changed; its settings and users are the platform's scripts'.
-- Nothing is deleted but sessions: undoing an onboarding is vcci_ops_erase's.
GRANT USAGE ON SCHEMA public TO vcci_ops_tenants;
GRANT SELECT (id, slug, name, subscription_tier, status, settings, suspended_at) ON tenants TO vcci_ops_tenants;
GRANT INSERT (id, name, slug, subscription_tier, created_at) ON tenants TO vcci_ops_tenants;
GRANT UPDATE (status, suspended_at) ON tenants TO vcci_ops_tenants;
GRANT SELECT (id, tenant_id, email, name, role, status, is_service_account) ON users TO vcci_ops_tenants;
GRANT SELECT (tenant_id), DELETE ON sessions TO vcci_ops_tenants;
GRANT SELECT (id, tenant_id, action, details) ON audit_log TO vcci_ops_tenants;
-- <<< tenant_onboard, tenant_suspend
