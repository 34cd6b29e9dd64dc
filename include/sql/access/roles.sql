-- Every role but PostgreSQL's own, with its attributes and the roles it is a member of, at any remove.
WITH RECURSIVE membership (role, granted) AS (
    SELECT member, roleid FROM pg_auth_members
    UNION
    SELECT membership.role, further.roleid
    FROM membership JOIN pg_auth_members AS further ON further.member = membership.granted
)
SELECT r.rolname::text, r.rolcanlogin, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls,
       ARRAY(SELECT g.rolname::text FROM membership AS m JOIN pg_roles AS g ON g.oid = m.granted
             WHERE m.role = r.oid ORDER BY 1) AS member_of
FROM pg_roles AS r
WHERE NOT starts_with(r.rolname::text, 'pg_')
ORDER BY r.rolname
