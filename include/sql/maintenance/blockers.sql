-- What keeps dead rows of this database from being removed: whoever may still need to see them. The oldest first. A
-- VACUUM, an ANALYZE by autovacuum and this session do not count; of a statement only the text without its literals is shown.
SELECT kind, name, who, age::bigint AS transactions, seconds::float8 AS seconds, state, query
FROM (
    SELECT 'session' AS kind, a.pid::text AS name,
           concat_ws(', ', a.usename::text, nullif(a.application_name, ''), host(a.client_addr)) AS who,
           greatest(age(a.backend_xmin), age(a.backend_xid)) AS age,
           extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change)) AS seconds,
           coalesce(a.state, a.backend_type) AS state, coalesce(a.query, '') AS query
    FROM pg_stat_activity a
    WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> pg_backend_pid()
      AND a.datname = current_database() AND a.backend_type NOT IN ('walsender', 'autovacuum worker')
      AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
    UNION ALL
    SELECT 'standby', coalesce(nullif(r.application_name, ''), r.pid::text), concat_ws(', ', r.usename::text, host(r.client_addr)),
           age(r.backend_xmin), NULL, r.state, ''
    FROM pg_stat_replication r
    WHERE r.backend_xmin IS NOT NULL
    UNION ALL
    -- catalog_xmin keeps rows of the catalogs only.
    SELECT 'slot', s.slot_name::text, concat_ws(', ', s.slot_type, s.database::text), age(s.xmin), NULL,
           CASE WHEN s.active THEN 'active' ELSE 'nobody reads it' END, ''
    FROM pg_replication_slots s
    WHERE s.xmin IS NOT NULL
    UNION ALL
    SELECT 'prepared', p.gid, p.owner::text, age(p.transaction), extract(epoch FROM clock_timestamp() - p.prepared), 'prepared', ''
    FROM pg_prepared_xacts p
    WHERE p.database = current_database()
) holders
ORDER BY age DESC NULLS LAST, seconds DESC NULLS LAST
LIMIT 50
