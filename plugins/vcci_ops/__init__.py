"""The library that all vcci-ops DAGs share. docs/architecture.md shows its layers."""

__version__ = "0.1.0"
