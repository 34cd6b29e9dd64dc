-- Who holds locks that deleting from these tables, or from what refers to them, may wait for; the oldest transaction first.
-- Row locks are not listed anywhere, but whoever has one holds a lock of the table, too. No statement is told: it may
-- hold personal data.
SELECT DISTINCT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(a.state, ''), a.xact_start
FROM pg_locks l
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.locktype = 'relation' AND l.mode <> 'AccessShareLock' AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (coalesce(pg_partition_root(l.relation), l.relation) = ANY (%(names)s::regclass[])
       OR l.relation IN (SELECT conrelid FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY (%(names)s::regclass[])))
ORDER BY a.xact_start
LIMIT 5
