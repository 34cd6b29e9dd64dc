-- database.size, database.growth: exact size in bytes of the database that the connection is in, and
-- whether its server is a replica.
SELECT current_database()::text, pg_database_size(current_database())::bigint, pg_is_in_recovery()
