-- What this transaction, and earlier ones of this session not yet handed to the statistics, wrote: table, rows deleted,
-- rows inserted and updated. By whatever means: foreign keys and triggers included. Partitions are told of their root.
SELECT n.nspname, r.relname, sum(w.deleted), sum(w.other)
FROM pg_class c
CROSS JOIN LATERAL (
    SELECT pg_stat_get_xact_tuples_deleted(c.oid) AS deleted,
           pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid) AS other
) w
JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE c.relkind = 'r' AND c.relnamespace <> 'pg_catalog'::regnamespace AND w.deleted + w.other > 0
GROUP BY 1, 2
