-- The platform's own record of it, in the same transaction; it names no person.
INSERT INTO audit_log (tenant_id, action, actor, target, details)
VALUES (%(tenant)s::uuid, %(action)s, %(actor)s, %(user)s, %(details)s)
