-- What a manifest says of the server and the database, in the snapshot that is dumped.
SELECT current_database() AS database,
       pg_export_snapshot() AS snapshot,
       now() AS taken_at,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       current_setting('server_version_num')::int AS version,
       split_part(current_setting('server_version'), ' ', 1) AS version_text,
       (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS lsn,
       pg_database_size(current_database()) AS bytes,
       (SELECT count(*) FROM pg_largeobject_metadata) AS large_objects
