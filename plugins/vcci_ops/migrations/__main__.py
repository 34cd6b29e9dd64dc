"""Bring the history database to the newest revision, or to the one that is named."""

from __future__ import annotations

import sys

from vcci_ops.hooks.history import upgrade

if __name__ == "__main__":
    upgrade(sys.argv[1] if len(sys.argv) > 1 else "head")
