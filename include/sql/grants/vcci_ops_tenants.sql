-- What onboarding and suspending tenants, and deactivating users after an access review, needs of the production database, and nothing beyond it.
--
-- Run by the database's owner or an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops_tenants LOGIN PASSWORD '...';
-- Safe to run again; run it again after each migration.

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops_tenants;
