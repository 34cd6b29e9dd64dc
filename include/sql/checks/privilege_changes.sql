-- security.admins, security.privileges: users created as or made administrators; every other change of
-- roles, permissions and keys. The newest ten of each, with the numbers of all.
-- newest_age tells a quiet night from an audit log that nobody writes; by id, which has an index.
WITH recent AS MATERIALIZED (
    SELECT created_at, action, actor, target, details ->> 'from' AS before,
           coalesce(details ->> 'to', details ->> 'role') AS after
    FROM audit_log
    WHERE action = ANY(%(granting)s::text[] || %(changing)s::text[])
      AND created_at > now() - make_interval(secs => %(seconds)s)
), changes AS (
    SELECT *, coalesce(action = ANY(%(granting)s::text[]) AND lower(after) = ANY(%(admin_roles)s::text[]), false) AS admin
    FROM recent
), numbered AS (
    SELECT *, count(*) OVER (PARTITION BY admin) AS total,
           row_number() OVER (PARTITION BY admin ORDER BY created_at DESC) AS number
    FROM changes
    WHERE admin OR action = ANY(%(changing)s::text[])
)
SELECT newest_age, admin, total, created_at, action, actor, target, before, after
FROM (SELECT extract(epoch FROM now() - max(created_at))::float8 AS newest_age
      FROM (SELECT created_at FROM audit_log ORDER BY id DESC LIMIT 1000) latest) written
LEFT JOIN numbered ON number <= 10
ORDER BY created_at DESC NULLS LAST
