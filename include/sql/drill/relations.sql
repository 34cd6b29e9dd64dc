-- What amcheck reads: tables with their TOAST, and B-trees; largest first. Other kinds of index are listed, too, so that
-- what was not looked at can be told.
SELECT c.oid, n.nspname AS schema, c.relname AS name, coalesce(am.amname, '') AS method, c.relkind::text AS kind
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE c.relkind IN ('r', 'i', 'm') AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND (c.relkind <> 'i' OR i.indisready)
ORDER BY pg_catalog.pg_relation_size(c.oid) DESC, n.nspname, c.relname
