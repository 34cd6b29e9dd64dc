"""Alembic migrations of the history database (connection ``vcci_ops_db``).

``python -m vcci_ops.migrations`` brings it to the newest revision.
"""
