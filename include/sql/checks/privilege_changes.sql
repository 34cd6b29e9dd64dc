-- security.admins, security.privileges: users created as or made administrators; every other change of
-- roles, permissions and keys. The newest 20 with the numbers of all.
WITH recent AS MATERIALIZED (
    SELECT created_at, action, actor, target, details FROM audit_log
    WHERE created_at > now() - make_interval(secs => %(seconds)s)
), changes AS (
    SELECT created_at, action, actor, target, details ->> 'from' AS before,
           coalesce(details ->> 'to', details ->> 'role') AS after,
           action = ANY(%(granting)s) AND coalesce(details ->> 'to', details ->> 'role') = ANY(%(admin_roles)s) AS admin
    FROM recent
    WHERE action = ANY(%(changing)s)
       OR (action = ANY(%(granting)s) AND coalesce(details ->> 'to', details ->> 'role') = ANY(%(admin_roles)s))
), numbered AS (
    SELECT *, count(*) OVER (PARTITION BY admin) AS total,
           row_number() OVER (PARTITION BY admin ORDER BY created_at DESC) AS number
    FROM changes
)
SELECT entries, admin, total, created_at, action, actor, target, before, after
FROM (SELECT count(*) AS entries FROM recent) e
LEFT JOIN numbered ON number <= 10
ORDER BY created_at DESC NULLS LAST
