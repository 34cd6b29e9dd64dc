-- Lock the users that are to be changed, and the administrators who count when one of them is the last.
-- A log-in that begins now waits; a session that is being made has to be there, or not, before this goes on.
SELECT id FROM users
WHERE tenant_id = %(tenant)s::uuid AND (id = ANY (%(users)s::uuid[]) OR role = 'admin')
ORDER BY id
FOR UPDATE
