-- database.size, database.growth: exact size in bytes of the database that the connection is in.
SELECT current_database()::text, pg_database_size(current_database())::bigint
