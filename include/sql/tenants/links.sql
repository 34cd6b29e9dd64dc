-- Every foreign key, those of partitions told of their root: name, child, its columns, parent, its columns, what happens
-- when the parent's row goes, and whether an index of the child begins with its columns, in any order.
SELECT min(f.conname::text), f.child_schema, f.child, f.columns, f.parent_schema, f.parent, f.parent_columns,
       CASE f.confdeltype WHEN 'a' THEN 'no action' WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade'
                          WHEN 'n' THEN 'set null' ELSE 'set default' END,
       bool_and(f.indexed)
FROM (
    SELECT k.conname, cn.nspname::text AS child_schema, c.relname::text AS child, pn.nspname::text AS parent_schema,
           p.relname::text AS parent, k.confdeltype,
           ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u (attnum, n)
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY u.n) AS columns,
           ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u (attnum, n)
                 JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum ORDER BY u.n) AS parent_columns,
           EXISTS (
               SELECT FROM pg_index i
               JOIN pg_class x ON x.oid = i.indexrelid
               JOIN pg_am m ON m.oid = x.relam
               WHERE i.indrelid = k.conrelid AND i.indisvalid AND m.amname IN ('btree', 'hash')
                 AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
                 -- Of the partial ones, that which leaves out NULL serves as well.
                 AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) ~ '^\([^()]+ IS NOT NULL\)$')
           ) AS indexed
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = coalesce(pg_partition_root(k.conrelid), k.conrelid)
    JOIN pg_namespace cn ON cn.oid = c.relnamespace
    JOIN pg_class p ON p.oid = coalesce(pg_partition_root(k.confrelid), k.confrelid)
    JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE k.contype = 'f' AND k.conparentid = 0
) f
GROUP BY f.child_schema, f.child, f.columns, f.parent_schema, f.parent, f.parent_columns, f.confdeltype
ORDER BY 2, 3, 1
