-- Every table, and what looks like one, with its columns; leaves of partitioned tables aside, for their root has them.
-- Everybody may read the catalogue: a table that the role may not read is seen here, too.
SELECT n.nspname, c.relname, c.relkind::text, a.columns, coalesce(k.columns, '{}'), coalesce(d.names, '{}')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT json_agg(json_build_array(
               a.attname, coalesce(base.typname, t.typname), NOT a.attnotnull, a.attgenerated <> ''
           ) ORDER BY a.attnum) AS columns
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_type base ON base.oid = t.typbasetype
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) a
LEFT JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY u.n) AS columns
    FROM pg_constraint p
    CROSS JOIN unnest(p.conkey) WITH ORDINALITY u (attnum, n)
    JOIN pg_attribute a ON a.attrelid = p.conrelid AND a.attnum = u.attnum
    WHERE p.conrelid = c.oid AND p.contype = 'p'
) k ON true
LEFT JOIN LATERAL (
    -- What runs by itself for each deleted row: triggers (bit 3 of tgtype: DELETE) and rules.
    SELECT array_agg(name ORDER BY name) AS names
    FROM (SELECT g.tgname::text FROM pg_trigger g
          WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 8 = 8
          UNION ALL
          SELECT 'rule ' || r.rulename FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '4') f (name)
) d ON true
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
  AND (NOT c.relispartition OR c.relkind = 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY n.nspname, c.relname
