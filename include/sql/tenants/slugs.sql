-- Every tenant's slug, to say which one may have been meant. Adapt it to your platform.
SELECT t.slug
FROM public.tenants t
