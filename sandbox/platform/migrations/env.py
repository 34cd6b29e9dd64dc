"""Alembic's environment: the database is DATABASE_URL, or a URL handed over by the sandbox."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

LOCK = 20_250_101
"""The platform's migration lock: two releases, or a release and a person, never migrate at the same time."""


def run() -> None:
    url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]
    with create_engine(url, poolclass=NullPool).connect() as connection:
        # Held by the session, for a migration may commit half-way; it ends with the connection.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
        connection.commit()
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run()
