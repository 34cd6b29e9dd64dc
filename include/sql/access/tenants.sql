-- Tenants that are active and have no administrator who is: nobody there can invite or remove a user.
SELECT t.id::text, t.slug, count(u.id) AS users
FROM tenants AS t
LEFT JOIN users AS u ON u.tenant_id = t.id AND u.status = 'active' AND NOT (u.is_service_account OR u.role = 'service')
WHERE t.status = 'active'
GROUP BY t.id, t.slug
HAVING count(*) FILTER (WHERE u.role = 'admin') = 0
ORDER BY t.slug
