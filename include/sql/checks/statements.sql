-- database.slow_queries: the slow statements, then those that take most time, at most 200.
-- Counts run since stats_reset. https://www.postgresql.org/docs/current/pgstatstatements.html
SELECT s.queryid::text || '/' || s.userid || '/' || s.dbid AS key, coalesce(r.rolname, s.userid::text)::text AS rolname,
       s.calls, s.mean_exec_time AS mean_ms, s.total_exec_time AS total_ms, left(s.query, 2000) AS query,
       info.stats_reset, info.dealloc, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all
FROM pg_stat_statements_info info
LEFT JOIN pg_stat_statements s
       ON s.toplevel AND s.queryid IS NOT NULL AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
LEFT JOIN pg_roles r ON r.oid = s.userid
ORDER BY (s.mean_exec_time > %(slow_ms)s AND s.calls >= %(min_calls)s) DESC NULLS LAST, s.total_exec_time DESC NULLS LAST
LIMIT 200
