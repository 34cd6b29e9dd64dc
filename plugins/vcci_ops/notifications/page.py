"""Paging the on-call, for callbacks of DAGs. Operators take it from :mod:`vcci_ops.hooks.pager`, their lower layer."""

from __future__ import annotations

from vcci_ops.hooks.pager import page

__all__ = ["page"]
