-- Mail addresses so far as people may see them: the first letter and the domain. The rest stays in the database.
SELECT id::text,
       CASE WHEN strpos(email, '@') > 1 THEN left(email, 1) || '…@' || substring(email FROM '[^@]*$') ELSE '…' END
FROM users
WHERE id = ANY (%(users)s::uuid[])
