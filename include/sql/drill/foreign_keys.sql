-- Foreign keys with what it takes to look for rows that refer to nothing. Those that a partition has from its table are
-- its table's.
SELECT k.conname AS name, n.nspname AS schema, t.relname AS table_name, t.relkind = 'p' AS partitioned,
       rn.nspname AS other_schema, r.relname AS other_name, k.convalidated AS validated, k.confmatchtype = 'f' AS whole,
       c.names AS columns, c.others AS other_columns, c.operators, c.operator_schemas
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class t ON t.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
CROSS JOIN LATERAL (
  SELECT array_agg(a.attname::text ORDER BY u.position) AS names,
         array_agg(b.attname::text ORDER BY u.position) AS others,
         array_agg(o.oprname::text ORDER BY u.position) AS operators,
         array_agg(opn.nspname::text ORDER BY u.position) AS operator_schemas
  FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS u (mine, theirs, operator, position)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.mine
  JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.theirs
  JOIN pg_catalog.pg_operator o ON o.oid = u.operator
  JOIN pg_catalog.pg_namespace opn ON opn.oid = o.oprnamespace
) c
WHERE k.contype = 'f' AND k.conparentid = 0
ORDER BY pg_catalog.pg_table_size(k.conrelid) DESC, n.nspname, t.relname, k.conname
