-- How these users, and the tenant's other administrators, stand while they are locked; noted: what this review has done.
SELECT u.id::text, t.status, u.role, u.status, u.is_service_account OR u.role = 'service' AS service,
       greatest(u.last_login, (SELECT max(last_active) FROM sessions WHERE user_id = u.id)) AS seen,
       lower(u.email) = ANY (%(never_touched)s::text[]) AS protected,
       (SELECT l.details FROM audit_log AS l
        WHERE l.tenant_id = u.tenant_id AND l.action = %(action)s AND l.target = u.id::text
          AND l.details ->> 'review' = %(review)s LIMIT 1) AS noted
FROM users AS u
JOIN tenants AS t ON t.id = u.tenant_id
WHERE u.tenant_id = %(tenant)s::uuid AND (u.id = ANY (%(users)s::uuid[]) OR u.role = 'admin')
ORDER BY u.id
