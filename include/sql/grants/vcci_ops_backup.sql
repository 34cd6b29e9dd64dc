-- What pg_dump of the whole database, and the manifest beside it, need of the production database; nothing beyond it.
--
-- Run by the database's owner or an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops_backup LOGIN PASSWORD '...';
-- Safe to run again; new tables need nothing more. PostgreSQL 14 and up.
--
-- The role reads every row, secrets too: a backup without them would restore to a platform nobody can log in to.
-- Where row-level security is on, it needs more: ALTER ROLE vcci_ops_backup BYPASSRLS (pg_dump refuses to leave rows out).
-- Large objects are read by their owners only: where there are some, GRANT SELECT ON LARGE OBJECT ... to the role.

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops_backup;

-- SELECT on every table and sequence, USAGE of every schema. That is all that LOCK TABLE ... IN ACCESS SHARE MODE needs.
GRANT pg_read_all_data TO vcci_ops_backup;

-- Belt and braces: a mistake must not write.
ALTER ROLE vcci_ops_backup SET default_transaction_read_only = on;
