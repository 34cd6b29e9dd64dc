-- Every index that could be rebuilt, with what its size can be estimated from: how many entries it has, how wide they are
-- by the statistics, how many are different. The sum is done in vcci_ops.domain.bloat. System catalogs and temporary
-- tables are not here; the parents of partitioned indexes have no storage, their leaves are here. TOAST has no
-- statistics, but its keys are always two numbers of four bytes.
SELECT n.nspname::text AS schema, i.relname::text AS name,
       coalesce(o.schema, tn.nspname)::text AS table_schema, coalesce(o.name, t.relname)::text AS table_name,
       am.amname::text AS method, pg_get_expr(x.indpred, x.indrelid) IS NOT NULL AS partial,
       x.indisunique AS is_unique, EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid AND k.contype = 'x') AS exclusion,
       x.indisvalid AND x.indisready AND x.indislive AS valid,
       CASE WHEN l.locked THEN i.relpages * current_setting('block_size')::bigint ELSE pg_relation_size(i.oid) END AS bytes,
       i.reltuples::float8 AS entries, coalesce(f.fillfactor, 90) AS fillfactor, coalesce(f.deduplicates, true) AND w.equal_image AS deduplicates,
       w.width::float8 AS width, w.nulls::float8 AS nulls, w.different::float8 AS different,
       coalesce(ts.spcname, ds.spcname)::text AS tablespace,
       CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(coalesce(o.oid, t.oid), 'MAINTAIN')
            ELSE pg_has_role(i.relowner, 'USAGE') END AND has_schema_privilege(n.oid, 'USAGE') AS allowed,
       pg_get_userbyid(i.relowner)::text AS owner,
       extract(epoch FROM now() - greatest(s.last_analyze, s.last_autoanalyze, CASE WHEN t.relkind = 't' THEN greatest(s.last_vacuum, s.last_autovacuum) END))::float8 AS statistics_age
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_namespace n ON n.oid = i.relnamespace
JOIN pg_am am ON am.oid = i.relam
JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_namespace tn ON tn.oid = t.relnamespace
JOIN pg_database d ON d.datname = current_database()
JOIN pg_tablespace ds ON ds.oid = d.dattablespace
LEFT JOIN pg_tablespace ts ON ts.oid = i.reltablespace
LEFT JOIN pg_stat_all_tables s ON s.relid = t.oid
-- The table that a TOAST table belongs to.
LEFT JOIN LATERAL (SELECT m.oid, m.relname AS name, mn.nspname AS schema FROM pg_class m JOIN pg_namespace mn ON mn.oid = m.relnamespace
                   WHERE t.relkind = 't' AND m.reltoastrelid = t.oid) o ON true
CROSS JOIN LATERAL (
    SELECT max(option_value::int) FILTER (WHERE option_name = 'fillfactor') AS fillfactor,
           bool_and(lower(option_value) NOT IN ('off', 'false', 'no', '0')) FILTER (WHERE option_name = 'deduplicate_items') AS deduplicates
    FROM pg_options_to_table(i.reloptions)) f
CROSS JOIN LATERAL (
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND relation = i.oid AND pid IS DISTINCT FROM pg_backend_pid()) AS locked) l
CROSS JOIN LATERAL (
    -- Without a row for each column nothing can be said: then the width is null.
    SELECT CASE WHEN count(*) = count(c.width) THEN sum(c.width) END AS width, max(c.nulls) AS nulls,
           -- As a double: the product of many is large.
           exp(sum(ln(greatest(c.different, 1)))) AS different,
           bool_and(c.equal_image) AS equal_image
    FROM (
        SELECT CASE WHEN t.relkind = 't' THEN 4 WHEN a.atttypid = 'name'::regtype THEN NULL
                    ELSE (1 - p.null_frac) * p.avg_width END::float8 AS width,
               coalesce(p.null_frac, 0)::float8 AS nulls,
               CASE WHEN t.relkind = 't' THEN i.reltuples WHEN p.n_distinct < 0 THEN -p.n_distinct * t.reltuples ELSE p.n_distinct END::float8 AS different,
               -- Equal entries share their key where equal means the same bytes; included columns end that.
               x.indnatts = x.indnkeyatts AND EXISTS (
                   SELECT FROM pg_opclass oc JOIN pg_amproc ap ON ap.amprocfamily = oc.opcfamily AND ap.amproclefttype = oc.opcintype
                   WHERE oc.oid = x.indclass[a.attnum - 1] AND ap.amprocnum = 4)
               AND coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = x.indcollation[a.attnum - 1]), true) AS equal_image
        FROM pg_attribute a
        LEFT JOIN pg_attribute ta ON ta.attrelid = t.oid AND ta.attnum = x.indkey[a.attnum - 1] AND x.indkey[a.attnum - 1] <> 0
        -- Of an expression the index itself has the statistics.
        LEFT JOIN pg_stats p ON p.schemaname = n.nspname AND NOT p.inherited
             AND p.tablename = CASE WHEN ta.attname IS NULL THEN i.relname ELSE t.relname END
             AND p.attname = coalesce(ta.attname, a.attname)
        WHERE a.attrelid = i.oid AND a.attnum > 0) c) w
WHERE i.relkind = 'i' AND i.relpersistence <> 't' AND t.relkind IN ('r', 'm', 't')
  AND tn.nspname NOT IN ('pg_catalog', 'information_schema') AND tn.nspname !~ '^pg_temp'
  -- A TOAST table of a system catalog belongs to it.
  AND (t.relkind <> 't' OR o.schema NOT IN ('pg_catalog', 'information_schema'))
ORDER BY 1, 2
