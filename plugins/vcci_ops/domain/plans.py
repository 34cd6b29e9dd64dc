"""Plans: what exactly will change, frozen by a hash, and compared with the world before each act.

A person approves a plan by its hash. What runs afterwards computes the hash again and looks whether the world
is still what the plan was made for; a difference is told in words and nothing is changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from vcci_ops.exceptions import Refused

SHORT = 12
"""Characters of a hash that people compare."""


def canonical(plan: Mapping[str, Any]) -> bytes:
    """Return the plan as the one JSON text that equal plans share: sorted keys, no blanks, UTF-8."""
    return json.dumps(plan, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def plan_hash(plan: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the plan's canonical text, in hex."""
    return hashlib.sha256(canonical(plan)).hexdigest()


def differences(planned: Mapping[str, Any], found: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield in words what is not as planned: ``backend-api.image: planned v2.0.0, found v2.0.1``."""
    for key in sorted({*planned, *found}):
        where = f"{path}.{key}" if path else str(key)
        before, now = planned.get(key), found.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from differences(before, now, where)
        elif before != now:
            yield f"{where}: planned {_word(before)}, found {_word(now)}"


def require_unchanged(planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Pass when the world is as the plan says.

    :raises Refused: otherwise; lists every difference.
    """
    moved = list(differences(planned, found))
    if moved:
        raise Refused(
            "the plan is stale, for the platform has moved since it was made; nothing was changed. "
            f"Start a new run. {'; '.join(moved)}"
        )


def _word(value: Any) -> str:
    return "nothing" if value is None else str(value)
