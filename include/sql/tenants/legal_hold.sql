-- Why a tenant must not be deleted; empty or no row: nothing stands against it. Adapt it to your platform.
SELECT coalesce(t.settings ->> 'legal_hold', '')
FROM public.tenants t
WHERE t.id::text = %(tenant_id)s
