-- A tenant by its slug, or by its id once the slug is known: id, slug, name, status. Adapt it to your platform.
SELECT t.id::text, t.slug, t.name, t.status
FROM public.tenants t
WHERE t.slug = %(slug)s OR t.id::text = %(tenant_id)s
