-- What vacuuming and reindexing needs of the production database, and nothing beyond it.
--
-- Run by an administrator, connected to vcci_production, after
--   CREATE ROLE vcci_ops_maintenance LOGIN PASSWORD '...';
-- Safe to run again; run it again after each migration that makes a schema.
--
-- Up to PostgreSQL 16 only a table's owner, or a superuser, may VACUUM and REINDEX it. So the role becomes a member of the
-- owner, and CAN DO WHAT THE OWNER CAN, dropping tables included: keep its password as you keep the platform's own.
-- PostgreSQL 17 has the privilege MAINTAIN, which is all that the role is given there. With it, indexes that a rebuild has
-- left half-way are named and not dropped, for only the owner may drop; and bloat wants the extension pgstattuple, for the
-- statistics of tables that it may not read are hidden from it.

GRANT CONNECT ON DATABASE vcci_production TO vcci_ops_maintenance;

-- Who keeps dead rows from being removed, who builds an index, who holds a lock; how much of a volume is in use.
GRANT pg_read_all_stats TO vcci_ops_maintenance;

DO $$
DECLARE
  place record;
BEGIN
  IF current_setting('server_version_num')::int < 170000 THEN
    GRANT vcci_app TO vcci_ops_maintenance;
    -- Inherited, not only to SET ROLE to: PostgreSQL 16 tells them apart, before it is the role's own attribute.
    IF current_setting('server_version_num')::int >= 160000 THEN
      EXECUTE 'GRANT vcci_app TO vcci_ops_maintenance WITH INHERIT TRUE, SET FALSE';
    END IF;
  ELSE
    FOR place IN
      SELECT nspname AS schema FROM pg_namespace
      WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp)'
    LOOP
      EXECUTE format('GRANT USAGE ON SCHEMA %I TO vcci_ops_maintenance', place.schema);
      EXECUTE format('GRANT MAINTAIN ON ALL TABLES IN SCHEMA %I TO vcci_ops_maintenance', place.schema);
      EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE vcci_app IN SCHEMA %I GRANT MAINTAIN ON TABLES TO vcci_ops_maintenance',
                     place.schema);
    END LOOP;
  END IF;

  -- Indexes of TOAST are rebuilt by their name, and names are looked up in a schema that nobody else may use.
  GRANT USAGE ON SCHEMA pg_toast TO vcci_ops_maintenance;

  -- Where the extension is, bloat is measured instead of estimated.
  FOR place IN
    SELECT p.oid::regprocedure AS function, n.nspname AS schema
    FROM pg_extension x
    JOIN pg_depend e ON e.refobjid = x.oid AND e.refclassid = 'pg_extension'::regclass AND e.classid = 'pg_proc'::regclass AND e.deptype = 'e'
    JOIN pg_proc p ON p.oid = e.objid
    JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE x.extname = 'pgstattuple' AND p.proname = 'pgstatindex'
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO vcci_ops_maintenance', place.schema);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO vcci_ops_maintenance', place.function);
  END LOOP;
END $$;
