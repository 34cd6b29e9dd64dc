"""What every part of the settings is built from: the strict model, durations, names."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(value: object) -> float:
    """Read ``90``, ``"30s"``, ``"1h30m"`` or ``"7d"`` as seconds.

    :raises ValueError: when it is none of these.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise ValueError("expected a duration such as 30s, 5m, 24h or 7d")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def _dns_label(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise ValueError("expected a DNS label: lower-case letters, digits and '-', at most 63")
    return value


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds; written as 30s, 5m, 24h, 7d in the file."""
DnsLabel = Annotated[str, AfterValidator(_dns_label)]
"""Name of a namespace, Deployment or container as Kubernetes allows it."""


class Model(BaseModel):
    """Base: immutable, and a key that is not known is an error, for it is most likely a typo."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
