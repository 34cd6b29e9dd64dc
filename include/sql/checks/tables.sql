-- database.size: the largest tables with their indexes and TOAST. The pages that the last vacuum or
-- analyze counted choose the ten to measure, for measuring all of thousands takes long.
SELECT n.nspname::text, c.relname::text, pg_total_relation_size(c.oid)::bigint AS bytes
FROM (
    SELECT oid, relname, relnamespace FROM pg_class
    WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND relnamespace <> 'pg_catalog'::regnamespace
    ORDER BY relpages DESC, relname LIMIT 10
) c
JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY bytes DESC
LIMIT 5
