-- Tables whose rows a dump holds, smallest first, with what their sums are made of. Partitions and children by
-- inheritance stand for themselves. Not listed: views and materialized views (made anew by a restore), foreign tables
-- (only referred to), tables of extensions (made by CREATE EXTENSION), temporary tables.
SELECT n.nspname AS schema, c.relname AS name, pg_table_size(c.oid) AS bytes,
       coalesce(columns.names, '{}') AS columns,
       coalesce(key.names, '{}') AS key, coalesce(key.types, '{}') AS key_types,
       coalesce(columns.times, '{}') AS times
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
  SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names,
         array_agg(a.attname::text ORDER BY a.attnum)
           FILTER (WHERE a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype)) AS times
  FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) columns ON true
-- The primary key; where there is none, the shortest unique index over columns that are never null.
LEFT JOIN LATERAL (
  SELECT names, types FROM (
    SELECT i.indisprimary, i.indnkeyatts, x.relname,
           array_agg(a.attname::text ORDER BY k.position) AS names,
           array_agg(t.typname::text ORDER BY k.position) AS types,
           bool_and(a.attnotnull) AS never_null
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      AND k.position <= i.indnkeyatts
    GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts, x.relname
  ) candidates WHERE never_null
  ORDER BY NOT indisprimary, indnkeyatts, relname LIMIT 1
) key ON true
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY pg_table_size(c.oid), n.nspname, c.relname
