-- What every row must fulfil, table by table: CHECK constraints, as the server writes them out, and NOT NULL.
SELECT n.nspname AS schema, c.relname AS table_name,
       coalesce(checks.names, '{}') AS names, coalesce(checks.expressions, '{}') AS expressions,
       coalesce(checks.validated, '{}') AS validated, coalesce(never_null.names, '{}') AS never_null
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
  SELECT array_agg(k.conname::text ORDER BY k.conname) AS names,
         array_agg(pg_catalog.pg_get_expr(k.conbin, k.conrelid) ORDER BY k.conname) AS expressions,
         array_agg(k.convalidated ORDER BY k.conname) AS validated
  FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'
) checks ON true
LEFT JOIN LATERAL (
  SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names
  FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
) never_null ON true
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND (checks.names IS NOT NULL OR never_null.names IS NOT NULL)
ORDER BY pg_catalog.pg_table_size(c.oid) DESC, n.nspname, c.relname
