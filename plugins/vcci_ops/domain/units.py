"""Numbers as people read them."""

from __future__ import annotations

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def humanize(value: float, unit: str) -> str:
    """Format a value with its unit, short enough for a phone.

    >>> humanize(1_340_000_000, "bytes"), humanize(5400, "s"), humanize(0.4213, "percent")
    ('1.34 GB', '1 h 30 min', '0.42 %')
    """
    if unit == "bytes":
        return _bytes(value)
    if unit == "s":
        return duration(value)
    if unit == "percent":
        return f"{_number(value)} %"
    return f"{_number(value)} {unit}".strip()


def duration(seconds: float) -> str:
    """Format seconds with at most two units: ``240 ms``, ``12 s``, ``1 h 30 min``, ``3 d 4 h``."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{_number(seconds)} s"
    for size, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            big, rest = divmod(seconds, size)
            part = int(rest // small)
            return f"{big:.0f} {name} {part} {small_name}" if part else f"{big:.0f} {name}"
    raise AssertionError("unreachable")


def _bytes(value: float) -> str:
    if value < 0:
        return f"-{_bytes(-value)}"
    for name in _BYTES:
        if value < 1000 or name == _BYTES[-1]:
            return f"{value:.0f} {name}" if name == "B" else f"{value:.2f} {name}"
        value /= 1000
    raise AssertionError("unreachable")


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
