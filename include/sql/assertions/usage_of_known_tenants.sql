-- title: Usage is of tenants that exist
-- owner: billing
-- severity: critical
-- why: The table has no foreign key: rows of nobody are billed to nobody, or are what a deleted tenant left.
SELECT format('tenant %s: %s events', e.tenant_id, count(*))
FROM public.usage_events e
WHERE NOT EXISTS (SELECT FROM public.tenants t WHERE t.id = e.tenant_id)
GROUP BY e.tenant_id
ORDER BY e.tenant_id
