-- title: Every active tenant has an active administrator
-- owner: platform
-- severity: critical
-- why: Without one nobody of the tenant can let its people in again. See whether its users were restored as a whole.
SELECT t.slug
FROM public.tenants t
WHERE t.status = 'active'
  AND NOT EXISTS (SELECT FROM public.users u WHERE u.tenant_id = t.id AND u.role = 'admin' AND u.status = 'active')
ORDER BY t.slug
