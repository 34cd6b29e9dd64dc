-- Whether one of these users is the reviewer.
SELECT id::text FROM users WHERE id = ANY (%(users)s::uuid[]) AND lower(email) = ANY (%(addresses)s::text[])
