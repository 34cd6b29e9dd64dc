-- tenants.active: tenants with a session in the window, and all that could have one.
SELECT (SELECT count(DISTINCT tenant_id) FROM sessions
        WHERE last_active > now() - make_interval(secs => %(seconds)s))::int AS active,
       (SELECT count(*) FROM tenants WHERE status = 'active')::int AS tenants
