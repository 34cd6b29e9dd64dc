"""Settings of scaling: named profiles, and what the database can bear."""

from __future__ import annotations

from vcci_ops.settings_base import Model


class Scaling(Model):
    """How the platform is scaled."""
