-- title: Every final report names its file
-- owner: reporting
-- severity: critical
-- why: A report that was filed must be found again for ten years.
SELECT format('%s: report %s', t.slug, r.id)
FROM public.reports r
JOIN public.tenants t ON t.id = r.tenant_id
WHERE r.status = 'final' AND coalesce(r.s3_key, '') = ''
ORDER BY t.slug, r.id
