-- scale_workloads: how many connections the server has, and whose the taken ones are.
-- Sessions of vcci-ops itself are left out: they are few and short.
-- https://www.postgresql.org/docs/current/runtime-config-connection.html
SELECT current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       count(*) FILTER (WHERE usename = ANY(%(roles)s))::int AS ours,
       count(*) FILTER (WHERE usename <> ALL(%(roles)s) OR usename IS NULL)::int AS others,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all
FROM pg_stat_activity
WHERE backend_type = 'client backend'
  AND NOT (usename = current_user AND application_name = current_setting('application_name'))
