-- What each administrator did, by the audit log: action, and how often. An actor is a mail address, which is one user's
-- within a tenant.
SELECT u.id::text, l.action, count(*)
FROM users AS u
JOIN audit_log AS l ON l.tenant_id = u.tenant_id AND lower(l.actor) = lower(u.email)
WHERE u.role = 'admin' AND u.status = 'active' AND l.created_at >= %(since)s
GROUP BY u.id, l.action
ORDER BY u.id, count(*) DESC, l.action
