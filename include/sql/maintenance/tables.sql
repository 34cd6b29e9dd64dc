-- Every table that can be vacuumed, and partitioned ones, which only ANALYZE by hand gives statistics: what is dead, what
-- has changed, how old it is. TOAST counts with its table, for VACUUM does both. System catalogs, temporary tables and
-- tables of other databases are not here. A table that somebody has locked whole is measured by the pages that were last
-- counted, for its true size would wait for the lock.
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       coalesce(s.n_live_tup, 0)::bigint AS live, coalesce(s.n_dead_tup, 0)::bigint AS dead,
       coalesce(ts.n_live_tup, 0)::bigint AS toast_live, coalesce(ts.n_dead_tup, 0)::bigint AS toast_dead,
       coalesce(s.n_mod_since_analyze, 0)::bigint AS changed, coalesce(s.n_ins_since_vacuum, 0)::bigint AS inserted,
       s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze,
       CASE WHEN c.relfrozenxid::text <> '0' THEN greatest(age(c.relfrozenxid), age(t.relfrozenxid)) ELSE 0 END AS age,
       CASE WHEN c.relminmxid::text <> '0' THEN greatest(mxid_age(c.relminmxid), mxid_age(t.relminmxid)) ELSE 0 END AS mxid_age,
       least(o.freeze_max, current_setting('autovacuum_freeze_max_age')::bigint) AS freeze_max,
       least(o.mxid_freeze_max, current_setting('autovacuum_multixact_freeze_max_age')::bigint) AS mxid_freeze_max,
       CASE WHEN c.relkind = 'p' THEN 0 WHEN l.locked THEN p.pages * current_setting('block_size')::bigint
            ELSE pg_table_size(c.oid) END AS bytes,
       CASE WHEN c.relkind = 'p' OR l.locked THEN 0 ELSE pg_indexes_size(c.oid) END AS index_bytes,
       -- Since PostgreSQL 17 there is a privilege of its own; before, only a member of the owner may.
       CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN')
            ELSE pg_has_role(c.relowner, 'USAGE') END AS allowed,
       pg_get_userbyid(c.relowner)::text AS owner,
       coalesce(o.autovacuum, 'on') IN ('off', 'false', 'no', '0') AS autovacuum_off,
       rn.nspname::text AS root_schema, r.relname::text AS root_name
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
LEFT JOIN pg_stat_all_tables ts ON ts.relid = c.reltoastrelid
CROSS JOIN LATERAL (
    SELECT max(option_value::bigint) FILTER (WHERE option_name = 'autovacuum_freeze_max_age') AS freeze_max,
           max(option_value::bigint) FILTER (WHERE option_name = 'autovacuum_multixact_freeze_max_age') AS mxid_freeze_max,
           max(lower(option_value)) FILTER (WHERE option_name = 'autovacuum_enabled') AS autovacuum
    FROM pg_options_to_table(c.reloptions)
    WHERE option_name = 'autovacuum_enabled' OR option_value ~ '^[0-9]+$') o
CROSS JOIN LATERAL (
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND (relation IN (c.oid, c.reltoastrelid) OR relation IN (SELECT indexrelid FROM pg_index WHERE indrelid = c.oid))
                   AND pid IS DISTINCT FROM pg_backend_pid()) AS locked) l
CROSS JOIN LATERAL (SELECT (c.relpages + coalesce(t.relpages, 0))::bigint AS pages) p
WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY 1, 2
