-- security.failed_logins: failed log-ins in the window, with the addresses and accounts that had most.
-- entries counts all kinds, to tell a quiet night from an audit log that nobody writes.
WITH recent AS MATERIALIZED (
    SELECT action, actor, ip::text AS ip FROM audit_log
    WHERE created_at > now() - make_interval(secs => %(seconds)s)
), failed AS (
    SELECT actor, ip FROM recent WHERE action = ANY(%(failed)s)
)
SELECT (SELECT count(*) FROM recent) AS entries,
       (SELECT count(*) FROM failed) AS failed,
       (SELECT jsonb_agg(jsonb_build_array(ip, n) ORDER BY n DESC, ip)
        FROM (SELECT coalesce(ip, '?') AS ip, count(*) AS n FROM failed GROUP BY 1 ORDER BY n DESC, 1 LIMIT 5) a) AS addresses,
       (SELECT jsonb_agg(jsonb_build_array(actor, n) ORDER BY n DESC, actor)
        FROM (SELECT coalesce(actor, '?') AS actor, count(*) AS n FROM failed GROUP BY 1 ORDER BY n DESC, 1 LIMIT 5) a) AS accounts
