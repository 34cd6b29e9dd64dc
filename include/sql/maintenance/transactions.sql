-- Transactions of this database that a rebuild would wait for: any that is open for longer than so many seconds. A VACUUM
-- is none of them.
SELECT format('process %%s (%%s, %%s, %%s, open for %%s s)', a.pid, coalesce(a.usename::text, '?'),
              coalesce(nullif(a.application_name, ''), 'no application name'), coalesce(a.state, a.backend_type),
              round(extract(epoch FROM clock_timestamp() - a.xact_start))) AS who
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND clock_timestamp() - a.xact_start > make_interval(secs => %(seconds)s)
  AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation'))
  AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
UNION ALL
SELECT format('the prepared transaction %%L of %%s, for %%s s', p.gid, p.owner, round(extract(epoch FROM clock_timestamp() - p.prepared)))
FROM pg_prepared_xacts p
WHERE p.database = current_database() AND clock_timestamp() - p.prepared > make_interval(secs => %(seconds)s)
LIMIT 5
