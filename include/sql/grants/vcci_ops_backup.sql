-- What pg_dump of the whole database needs of the production database, and nothing beyond it.
--
-- Run by the database's owner or an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops_backup LOGIN PASSWORD '...';
-- Safe to run again.

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops_backup;
