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
  -- The settings' tenants.erasure.belongs_through, for foreign keys with ON DELETE SET NULL: '{schema.table.constraint}'.
  through CONSTANT text[] := '{}';
  place record;
BEGIN
  FOR place IN SELECT c.relname AS name, n.nspname AS schema FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND has_table_privilege('vcci_ops_erase', c.oid, 'DELETE')
  LOOP  -- What it was granted before, for tables that are no longer a tenant's.
    EXECUTE format('REVOKE ALL ON %I.%I FROM vcci_ops_erase', place.schema, place.name);
  END LOOP;
  FOR place IN
    -- Tables that name a tenant, and those whose rows belong to such by a foreign key.
    WITH RECURSIVE keys AS (
      SELECT coalesce(pg_partition_root(k.conrelid), k.conrelid) AS child,
             coalesce(pg_partition_root(k.confrelid), k.confrelid) AS parent
      FROM pg_constraint k
      JOIN pg_class c ON c.oid = k.conrelid
      WHERE k.contype = 'f' AND k.conparentid = 0
        AND (k.confdeltype NOT IN ('n', 'd')
             OR format('%s.%s.%s', c.relnamespace::regnamespace, c.relname, k.conname) = ANY (through))
    ), places AS (
      SELECT c.oid FROM pg_class c
      WHERE c.oid = 'public.tenants'::regclass
         OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
      UNION
      SELECT keys.child::oid FROM places JOIN keys ON keys.parent = places.oid
    )
    SELECT n.nspname AS schema, c.relname AS name, k.columns
    FROM places
    JOIN pg_class c ON c.oid = places.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
      -- Keys of its own, and what foreign keys of others refer to.
      SELECT string_agg(', ' || quote_ident(a.attname), '') AS columns
      FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND (a.attname = 'tenant_id' OR EXISTS (
          SELECT FROM pg_constraint p
          WHERE (p.conrelid = c.oid AND p.contype IN ('p', 'f') AND a.attnum = ANY (p.conkey))
             OR (p.confrelid = c.oid AND p.contype = 'f' AND a.attnum = ANY (p.confkey))))
    ) k
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO vcci_ops_erase', place.schema);
    EXECUTE format('REVOKE ALL ON %I.%I FROM vcci_ops_erase', place.schema, place.name);
    -- System columns tell rows apart, and whether they are still as they were.
    EXECUTE format('GRANT DELETE, SELECT (ctid, tableoid, xmin%s) ON %I.%I TO vcci_ops_erase',
                   place.columns, place.schema, place.name);
  END LOOP;
END $$;
