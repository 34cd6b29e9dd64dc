-- database.transactions: the oldest open transactions, idle and prepared ones included.
-- Own session, autovacuum and replication (not client backends) are left out.
SELECT age, pid, usename, application, state, query, count(age) OVER () AS open, sees_all
FROM (SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all) permission
LEFT JOIN (
    SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age, 'pid ' || pid AS pid,
           usename::text AS usename, application_name AS application, state, left(query, 2000) AS query
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT extract(epoch FROM clock_timestamp() - prepared)::float8, 'gid ' || gid, owner::text, database::text,
           'prepared', ''
    FROM pg_prepared_xacts
) transactions ON true
ORDER BY age DESC NULLS LAST
LIMIT 5
