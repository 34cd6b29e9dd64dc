-- What roles own in this database, and where they may write; '' is PUBLIC, which is everybody.
WITH relation AS (
    SELECT c.oid, c.relowner, c.relacl, format('%%I.%%I', n.nspname, c.relname) AS name
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname::text, 'pg_')
), granted AS (
    SELECT a.grantee, r.name FROM relation AS r, aclexplode(r.relacl) AS a
    WHERE a.grantee <> r.relowner AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
    UNION
    SELECT a.grantee, r.name
    FROM relation AS r JOIN pg_attribute AS column_ ON column_.attrelid = r.oid, aclexplode(column_.attacl) AS a
    WHERE a.grantee <> r.relowner AND a.privilege_type IN ('INSERT', 'UPDATE')
)
SELECT coalesce(role.rolname::text, '') AS role, what, count(DISTINCT name), (array_agg(DISTINCT name))[1:5]
FROM (SELECT relowner AS id, 'owns' AS what, name FROM relation
      UNION ALL SELECT grantee, 'writes', name FROM granted) AS found
LEFT JOIN pg_roles AS role ON role.oid = found.id
GROUP BY role.rolname, what
ORDER BY 1, 2
