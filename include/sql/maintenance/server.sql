-- What is true of the server as a whole: its version, how old the database's oldest rows are, whether this role sees
-- other sessions at all, which extension measures indexes exactly.
SELECT current_setting('server_version') AS version, age(d.datfrozenxid)::bigint AS age, mxid_age(d.datminmxid)::bigint AS mxid_age,
       current_setting('autovacuum_freeze_max_age')::bigint AS freeze_max, current_setting('autovacuum')::bool AS autovacuum,
       pg_database_size(d.oid)::bigint AS bytes, pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
       (SELECT has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(p.pronamespace, 'USAGE')
        FROM pg_proc p JOIN pg_depend e ON e.objid = p.oid AND e.classid = 'pg_proc'::regclass AND e.deptype = 'e'
        JOIN pg_extension x ON x.oid = e.refobjid AND x.extname = 'pgstattuple'
        WHERE p.proname = 'pgstatindex' AND p.proargtypes[0] = 'regclass'::regtype) AS exact,
       (SELECT n.nspname::text FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace WHERE x.extname = 'pgstattuple') AS exact_schema
FROM pg_database d
WHERE d.datname = current_database()
