-- Who may do what with tables, views and sequences, and in schemas: one row for each grant that is not the owner's own.
SELECT n.nspname AS schema, c.relname AS name, coalesce(r.rolname, 'PUBLIC') AS grantee,
       g.privilege_type AS privilege, c.relkind::text AS kind
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
  SELECT * FROM pg_catalog.aclexplode(c.relacl)
  UNION ALL
  SELECT e.* FROM pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) e WHERE a.attrelid = c.oid
) g
LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND g.grantee <> c.relowner
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                  WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
GROUP BY 1, 2, 3, 4, 5
UNION ALL
SELECT n.nspname, '', coalesce(r.rolname, 'PUBLIC'), g.privilege_type, 'n'
FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) g
LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
WHERE g.privilege_type = 'CREATE' AND g.grantee <> n.nspowner
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY 3, 1, 2, 4
