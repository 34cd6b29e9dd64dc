-- End the sessions of users who are inactive.
DELETE FROM sessions USING users
WHERE users.id = sessions.user_id AND users.id = ANY (%(users)s::uuid[]) AND users.status = 'inactive'
