-- security.failed_logins: failed log-ins in the window, with the addresses and accounts that had most.
-- newest_age tells a quiet night from an audit log that nobody writes; by id, which has an index.
WITH failed AS MATERIALIZED (
    SELECT coalesce(actor, '?') AS actor, coalesce(ip::text, '?') AS ip FROM audit_log
    WHERE action = ANY(%(failed)s::text[]) AND created_at > now() - make_interval(secs => %(seconds)s)
)
SELECT (SELECT extract(epoch FROM now() - max(created_at))::float8
        FROM (SELECT created_at FROM audit_log ORDER BY id DESC LIMIT 1000) latest) AS newest_age,
       (SELECT count(*) FROM failed) AS failed,
       (SELECT jsonb_agg(jsonb_build_array(split_part(ip, '/', 1), n) ORDER BY n DESC, ip)
        FROM (SELECT ip, count(*) AS n FROM failed GROUP BY ip ORDER BY n DESC, ip LIMIT 5) a) AS addresses,
       (SELECT jsonb_agg(jsonb_build_array(actor, n) ORDER BY n DESC, actor)
        FROM (SELECT actor, count(*) AS n FROM failed GROUP BY actor ORDER BY n DESC, actor LIMIT 5) a) AS accounts
