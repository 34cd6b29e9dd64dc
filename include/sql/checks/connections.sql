-- database.connections: who uses how many of the connections that the application may have.
-- Sessions of these checks are left out: several may run side by side, and none for long.
-- superuser_reserved_connections, and from PostgreSQL 16 reserved_connections, are not for it.
-- https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW
WITH client AS (
    SELECT coalesce(state, 'starting') AS state, coalesce(usename, '?') AS usename,
           coalesce(nullif(application_name, ''), '(no application_name)') AS application, count(*) AS sessions
    FROM pg_stat_activity
    WHERE backend_type = 'client backend'
      AND NOT (usename = current_user AND application_name = current_setting('application_name'))
    GROUP BY 1, 2, 3
)
SELECT current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       coalesce((SELECT sum(sessions) FROM client), 0)::int AS used,
       (SELECT jsonb_object_agg(state, n) FROM (SELECT state, sum(sessions) AS n FROM client GROUP BY state) s) AS states,
       (SELECT jsonb_agg(jsonb_build_array(application, usename, n) ORDER BY n DESC)
        FROM (SELECT application, usename, sum(sessions) AS n FROM client
              GROUP BY application, usename ORDER BY n DESC LIMIT 5) h) AS holders,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all
