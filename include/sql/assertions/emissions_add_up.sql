-- title: Emissions of each tenant add up to activity times factor
-- owner: calculator
-- severity: critical
-- why: These sums stand in filed reports. A difference means that figures changed after they were computed.
SELECT format('%s: %s of %s kg CO2e', t.slug, round(sum(e.co2e_kg), 3), round(sum(e.activity * e.factor), 3))
FROM public.emissions e
JOIN public.tenants t ON t.id = e.tenant_id
GROUP BY t.slug
-- Each amount is rounded to a gram, so a sum may be off by half a gram for each of its rows.
HAVING abs(sum(e.co2e_kg) - sum(e.activity * e.factor)) > 0.0005 * count(*) + 0.001
    OR count(*) FILTER (WHERE abs(e.co2e_kg - e.activity * e.factor) > 0.001) > 0
ORDER BY t.slug
