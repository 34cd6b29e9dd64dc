-- Users who have not been seen for long, and every administrator; service accounts are told apart.
-- Seen is the last log-in, or the last use of a session where that is later: who works in a session that is kept alive
-- does not log in. Users of suspended tenants are left out, for they cannot be seen.
SELECT u.id::text, u.tenant_id::text, t.slug, u.role, u.status,
       u.is_service_account OR u.role = 'service' AS service,
       greatest(u.last_login, s.last_active) AS seen, u.created_at,
       lower(u.email) = ANY (%(never_touched)s::text[]) AS protected,
       (SELECT count(*) FROM api_keys AS k WHERE k.created_by = u.id AND k.revoked_at IS NULL) AS keys
FROM users AS u
JOIN tenants AS t ON t.id = u.tenant_id AND t.status = 'active'
LEFT JOIN LATERAL (SELECT max(last_active) AS last_active FROM sessions WHERE user_id = u.id) AS s ON true
WHERE u.status IN ('active', 'invited')
  AND (u.role = 'admin' OR coalesce(greatest(u.last_login, s.last_active), u.created_at) < %(before)s)
ORDER BY t.slug, u.role, u.id
