-- Change a user's status, from what it was when it was looked at.
UPDATE users SET status = %(after)s WHERE id = %(user)s::uuid AND status = %(before)s
