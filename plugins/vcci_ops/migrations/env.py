"""Alembic's environment: the connection is handed in by :func:`vcci_ops.hooks.history.upgrade`."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    # Two deployments that start at once must not migrate at once.
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7203951)")
    context.run_migrations()
