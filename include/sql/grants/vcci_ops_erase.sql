-- What deleting a tenant needs of the production database, and nothing beyond it.
--
-- Run by the database's owner or an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops_erase LOGIN PASSWORD '...';
-- Safe to run again; run it again after each migration, so that new tables are covered.
--
-- The role deletes, and reads what tells whose a row is: keys, foreign keys and tenant_id. It reads no other column, and
-- it neither inserts nor updates: circles of rows are deleted in one statement, not by clearing references first.
-- Where row-level security is on, it needs more: ALTER ROLE vcci_ops_erase BYPASSRLS.

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops_erase;

-- How far standbys are behind, and who waits for a lock of whom.
GRANT pg_read_all_stats TO vcci_ops_erase;

DO $$
DECLARE
  place record;
BEGIN
  FOR place IN
    SELECT n.nspname AS schema, c.relname AS name, k.columns
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN LATERAL (
      SELECT string_agg(quote_ident(a.attname), ', ') AS columns
      FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND (a.attname = 'tenant_id' OR EXISTS (
          -- Keys of its own, and what foreign keys of others refer to.
          SELECT FROM pg_constraint p
          WHERE (p.conrelid = c.oid AND p.contype IN ('p', 'f') AND a.attnum = ANY (p.conkey))
             OR (p.confrelid = c.oid AND p.contype = 'f' AND a.attnum = ANY (p.confkey))))
    ) k ON true
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO vcci_ops_erase', place.schema);
    EXECUTE format('REVOKE ALL ON %I.%I FROM vcci_ops_erase', place.schema, place.name);
    CONTINUE WHEN place.columns IS NULL;
    EXECUTE format('GRANT DELETE, SELECT (ctid, tableoid, xmin, %s) ON %I.%I TO vcci_ops_erase',
                   place.columns, place.schema, place.name);
  END LOOP;
END $$;
