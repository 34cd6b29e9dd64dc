"""The platform itself, as far as the sandbox needs one: its schema, its data, its Celery application, its scripts.

Nothing here belongs to vcci-ops. It is what a real VCCI installation brings along.
"""

RELEASE_REVISION = "0005_activity_indexes"
"""Alembic revision that release v2.0.0 of the platform runs on."""
