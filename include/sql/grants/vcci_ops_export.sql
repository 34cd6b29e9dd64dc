-- What planning, exporting and proving the deletion of a tenant needs of the production database, and nothing beyond it.
--
-- Run by the database's owner or an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops_export LOGIN PASSWORD '...';
-- Safe to run again; run it again after each migration, so that new tables are covered.
--
-- The role reads all tables: an export has all columns, and that nothing else was changed is shown by checksums over
-- every other row. It never reads the columns named under `secrets`, the settings' tenants.erasure.withheld_columns.
-- Where row-level security is on, it needs more: ALTER ROLE vcci_ops_export BYPASSRLS.

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops_export;

-- All sessions in pg_stat_activity and all standbys in pg_stat_replication.
GRANT pg_read_all_stats TO vcci_ops_export;

DO $$
DECLARE
  secrets CONSTANT name[] := ARRAY['password_hash', 'token_hash', 'key_hash'];
  place record;
BEGIN
  FOR place IN
    SELECT n.nspname AS schema, c.relname AS name,
           string_agg(quote_ident(a.attname), ', ') FILTER (WHERE a.attname <> ALL (secrets)) AS columns
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
      -- An extension's tables are its own.
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    GROUP BY n.nspname, c.relname
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO vcci_ops_export', place.schema);
    EXECUTE format('REVOKE ALL ON %I.%I FROM vcci_ops_export', place.schema, place.name);
    -- System columns tell rows apart, and since when they stand as they are.
    EXECUTE format('GRANT SELECT (ctid, tableoid, xmin%s) ON %I.%I TO vcci_ops_export',
                   coalesce(', ' || place.columns, ''), place.schema, place.name);
  END LOOP;
END $$;

-- Belt and braces: a mistake in a query must not write.
ALTER ROLE vcci_ops_export SET default_transaction_read_only = on;
