-- Bytes on disk (with TOAST, without indexes) and rows of all tenants, as far as the statistics know; partitions summed up.
SELECT w.name, sum(pg_table_size(r.oid))::bigint,
       sum(greatest(c.reltuples, pg_stat_get_live_tuples(r.oid), 0))::float8
FROM unnest(%(names)s::text[]) w (name)
CROSS JOIN LATERAL (
    SELECT to_regclass(w.name)::oid UNION SELECT relid::oid FROM pg_partition_tree(to_regclass(w.name))
) r (oid)
JOIN pg_class c ON c.oid = r.oid
GROUP BY w.name
