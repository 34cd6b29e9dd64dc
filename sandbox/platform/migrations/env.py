"""Alembic's environment: the database is DATABASE_URL, or a URL handed over by the sandbox."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool


def run() -> None:
    url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]
    with create_engine(url, poolclass=NullPool).connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run()
