-- Where sequences stand, by name: schema.name, or name in the schema public. None: it was never called. Sequences obey
-- no snapshot: what is called while the dump is made is ahead of this.
SELECT CASE WHEN s.schemaname = 'public' THEN s.sequencename::text ELSE s.schemaname || '.' || s.sequencename END AS name,
       s.last_value
FROM pg_catalog.pg_sequences s
WHERE s.schemaname NOT IN ('pg_catalog', 'information_schema') AND s.schemaname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e'
      AND d.objid = format('%I.%I', s.schemaname, s.sequencename)::regclass)
ORDER BY 1
