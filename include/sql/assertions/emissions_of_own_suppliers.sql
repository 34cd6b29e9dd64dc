-- title: Emissions refer to suppliers of their own tenant
-- owner: platform
-- severity: critical
-- why: A tenant would see, or be charged with, what another one reported.
SELECT format('%s: %s emissions of suppliers of other tenants', t.slug, count(*))
FROM public.emissions e
JOIN public.suppliers s ON s.id = e.supplier_id AND s.tenant_id <> e.tenant_id
JOIN public.tenants t ON t.id = e.tenant_id
GROUP BY t.slug
ORDER BY t.slug
