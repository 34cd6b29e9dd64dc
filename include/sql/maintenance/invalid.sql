-- Indexes that are not valid, with everything that tells whether somebody is still building them: whoever builds an index
-- concurrently holds, from its first to its last transaction, a lock of the table that lets only one of that kind in,
-- and a rebuild holds one of the index, too. Prepared transactions hold locks without a process.
SELECT n.nspname::text AS schema, i.relname::text AS name, tn.nspname::text AS table_schema, t.relname::text AS table_name,
       pg_relation_size(i.oid)::bigint AS bytes,
       -- Valid indexes of the same table that are built alike.
       ARRAY(SELECT v.relname::text FROM pg_index y JOIN pg_class v ON v.oid = y.indexrelid
             WHERE y.indrelid = x.indrelid AND y.indisvalid AND y.indislive AND v.relam = i.relam
               AND (y.indkey, y.indclass, y.indcollation, y.indoption, y.indisunique, y.indnkeyatts)
                   = (x.indkey, x.indclass, x.indcollation, x.indoption, x.indisunique, x.indnkeyatts)
               AND pg_get_expr(y.indexprs, y.indrelid) IS NOT DISTINCT FROM pg_get_expr(x.indexprs, x.indrelid)
               AND pg_get_expr(y.indpred, y.indrelid) IS NOT DISTINCT FROM pg_get_expr(x.indpred, x.indrelid)
             ORDER BY 1) AS alike,
       ARRAY(SELECT DISTINCT format('%s (%s, %s)', coalesce('process ' || l.pid, 'a prepared transaction'),
                                    coalesce(a.usename::text, '?'), coalesce(nullif(a.application_name, ''), 'no application name'))
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.relation IN (i.oid, t.oid) AND l.pid IS DISTINCT FROM pg_backend_pid()
               AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
             UNION
             SELECT format('process %s', pid) FROM pg_stat_progress_create_index
             WHERE relid = t.oid AND pid <> pg_backend_pid()) AS busy,
       pg_has_role(i.relowner, 'USAGE') AND has_schema_privilege(n.oid, 'USAGE') AS allowed
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_namespace n ON n.oid = i.relnamespace
JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE NOT x.indisvalid AND i.relkind = 'i' AND i.relpersistence <> 't' AND tn.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY 1, 2
