-- Who holds a lock of a table that VACUUM, ANALYZE or a rebuild waits for.
SELECT DISTINCT format('process %%s (%%s, %%s, %%s)', coalesce(l.pid::text, 'of a prepared transaction'), coalesce(a.usename::text, '?'),
                       coalesce(nullif(a.application_name, ''), a.backend_type, 'no application name'), coalesce(a.state, 'busy')) AS who
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.relation = to_regclass(%(name)s)
LIMIT 5
