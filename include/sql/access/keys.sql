-- API keys that nobody has used for long, or that are old.
SELECT k.id::text, k.tenant_id::text, t.slug, k.created_at, k.last_used_at,
       coalesce(k.last_used_at, k.created_at) < %(used_before)s AS unused,
       k.created_at < %(made_before)s AS old
FROM api_keys AS k
JOIN tenants AS t ON t.id = k.tenant_id AND t.status <> 'deleted'
WHERE k.revoked_at IS NULL
  AND (coalesce(k.last_used_at, k.created_at) < %(used_before)s OR k.created_at < %(made_before)s)
ORDER BY t.slug, k.created_at, k.id
