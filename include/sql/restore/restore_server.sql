-- What a restore server needs before the first drill; the drill itself then works as vcci_restore, no superuser.
--
-- Run by an administrator, connected to template1 of the restore server (or to the database that drill.template names),
-- after
--   CREATE ROLE vcci_restore LOGIN CREATEDB PASSWORD '...';
--   CREATE ROLE vcci_drill_app LOGIN PASSWORD '...';
-- Safe to run again; run it again when production has a new role or a new extension.

-- The roles that the dump names as owners or grants something to. Nobody logs in as them here.
DO $$
DECLARE
  known CONSTANT name[] := ARRAY['vcci_app', 'vcci_ops', 'vcci_ops_tenants', 'vcci_ops_export', 'vcci_ops_erase',
                                 'vcci_ops_backup', 'vcci_ops_maintenance'];
  missing name;
BEGIN
  FOREACH missing IN ARRAY known LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = missing) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', missing);
    END IF;
  END LOOP;
END $$;

-- Copies belong to the platform's role, as in production; who makes them must be able to hand them over and to read them.
GRANT vcci_app TO vcci_restore;
-- The platform's own tests log in as vcci_drill_app and act as the platform's role.
GRANT vcci_app TO vcci_drill_app;
ALTER ROLE vcci_drill_app SET role = 'vcci_app';
-- A test that hangs must not keep its copy: only a member of a role may end its sessions.
GRANT vcci_drill_app TO vcci_restore;

-- Only a superuser can create these. A database made from this template has them; the dump's own CREATE EXTENSION IF NOT
-- EXISTS then passes. Add what production has of this kind (pg_stat_statements also wants shared_preload_libraries).
CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;

-- Indexes and heap are read in full, which shows no value of a row to the caller.
DO $$
DECLARE
  tool regprocedure;
BEGIN
  FOR tool IN
    SELECT p.oid FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid WHERE e.extname = 'amcheck'
  LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO vcci_restore', tool);
  END LOOP;
END $$;

-- Belt and braces: databases of this server are for drills and proofs; nobody comes in uninvited.
REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
GRANT CONNECT ON DATABASE postgres TO vcci_restore;
