"""What the platform's containers would have logged: invented lines, the same for a pod and a moment each time."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

Line = tuple[float, str]

_SLOT = 10
"""Seconds that are drawn together, so that any part of a log can be made without the rest of it."""
BURST_BEFORE = 2400.0
"""An error burst began this long before it was switched on, so that it is seen at once."""

_ROUTES = ("emissions/summary", "suppliers", "suppliers/{n}", "calculations/{n}", "hotspots", "uploads", "reports/{n}")
_TASKS = ("intake.parse_upload", "calculator.run", "hotspot.analyse", "engagement.send_survey", "reporting.render_pdf")


def iso(moment: float) -> str:
    """Return a moment as log lines show it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _request(chance: random.Random) -> str:
    route = chance.choice(_ROUTES).format(n=chance.randrange(1000, 60000))
    status = chance.choices((200, 201, 304, 404, 422), (90, 4, 4, 1, 1))[0]
    took = round(math.exp(chance.gauss(3.6, 0.7)))
    method = "POST" if status == 201 else "GET"
    return f"INFO vcci.api.access {method} /api/v1/{route} {status} {took}ms request_id={_id(chance)}"


def _task(chance: random.Random) -> str:
    took = chance.uniform(0.2, 40)
    return f"INFO celery.app.trace Task vcci.{chance.choice(_TASKS)}[{_id(chance)}] succeeded in {took:.3f}s: None"


def _page(chance: random.Random) -> str:
    address = f"10.0.{chance.randrange(4)}.{chance.randrange(2, 250)}"
    file, size = f"app.{chance.getrandbits(32):08x}.js", chance.randrange(900, 90000)
    return f'INFO nginx {address} "GET /assets/{file} HTTP/1.1" 200 {size}'


def _beat(chance: random.Random) -> str:
    return f"INFO celery.beat Scheduler: Sending due task {chance.choice(_TASKS)} (vcci.{chance.choice(_TASKS)})"


_USUAL: dict[str, tuple[Callable[[random.Random], str], int]] = {
    "backend-api": (_request, 3),
    "worker": (_task, 2),
    "frontend": (_page, 2),
    "beat": (_beat, 1),
}


INVENTED = frozenset(_USUAL)
"""Apps whose lines are invented."""


def _rejected_row(chance: random.Random) -> str:
    unit = chance.choice(("kgg", "t0", "lbs."))
    row, supplier = chance.randrange(2, 9000), chance.randrange(1000, 60000)
    return (
        f"ERROR vcci.intake.parser Row {row} of upload {_id(chance)} rejected:"
        f" unit '{unit}' is unknown (supplier {supplier})"
    )


def _erp_timeout(chance: random.Random) -> str:
    attempt, took = chance.randrange(1, 4), chance.uniform(30, 31)
    return (
        f"ERROR vcci.integrations.erp SAP request {_id(chance)} timed out after {took:.1f} s (attempt {attempt} of 3)"
    )


def _bad_period(chance: random.Random) -> str:
    supplier = chance.randrange(1000, 60000)
    return (
        f"ERROR vcci.api.errors ValidationError in POST /api/v1/suppliers/{supplier}/emissions:"
        f" period is not a month (request_id={_id(chance)})"
    )


def _pool_empty(chance: random.Random) -> str:
    return (
        "ERROR vcci.api.db QueuePool limit of size 20 overflow 10 reached, connection timed out,"
        f" timeout 30.00 (request_id={_id(chance)})"
    )


def _factor_failed(chance: random.Random) -> str:
    category, supplier = chance.randrange(1, 16), chance.randrange(1000, 60000)
    return (
        f"ERROR vcci.calculator.factors Emission factor lookup failed for category {category} supplier {supplier}:"
        f" deadline exceeded after 5.0 s (request_id={_id(chance)})"
    )


def _unhandled(chance: random.Random) -> str:
    supplier = chance.randrange(1000, 60000)
    return (
        f"ERROR vcci.api.errors Unhandled exception in GET /api/v1/suppliers/{supplier}:"
        f" KeyError('scope3_category') (request_id={_id(chance)})"
    )


_ORDINARY = (_rejected_row, _erp_timeout, _bad_period)
_BURST = (_pool_empty, _factor_failed, _unhandled)


def _ordinary_errors(pod: str, slot: int) -> Iterator[Line]:
    """Yield the slot's share of the one to three errors that an hour has in each API pod."""
    hour = slot * _SLOT // 3600
    chance = random.Random(f"{pod}:errors:{hour}")
    for _ in range(chance.randrange(1, 4)):
        moment = hour * 3600 + chance.uniform(0, 3600)
        text = chance.choice(_ORDINARY)(chance)
        if moment // _SLOT == slot:
            yield moment, text


def _burst(pod: str, slot: int, since: float) -> Iterator[Line]:
    chance = random.Random(f"{pod}:burst:{slot}")
    for _ in range(1 + int(chance.random() < 0.25)):
        moment = slot * _SLOT + chance.uniform(0, _SLOT)
        if moment < since:
            continue
        yield moment, chance.choices(_BURST, (6, 3, 1))[0](chance)


def generate(
    app: str, pod: str, *, begun: float, after: float, until: float, burst: float | None = None
) -> Iterator[Line]:
    """Yield a container's lines later than ``after`` and not later than ``until``.

    :param app: whose lines; for an app that is not known there is one line, at the start.
    :param begun: when the container started, Unix time.
    :param burst: since when an error burst goes on, Unix time.
    """
    if app not in _USUAL:
        if after < begun <= until:
            yield begun, f"INFO {app} up"
        return
    text, busy = _USUAL[app]
    after = max(after, begun)
    for slot in range(int(after) // _SLOT, int(until) // _SLOT + 1):
        chance = random.Random(f"{pod}:{slot}")
        found = []
        for _ in range(chance.randrange(busy + 1) if busy > 1 else int(slot % 6 == 0)):
            found.append((slot * _SLOT + chance.uniform(0, _SLOT), text(chance)))
        if app == "backend-api":
            found.extend(_ordinary_errors(pod, slot))
        if burst is not None:
            found.extend(_burst(pod, slot, burst))
        for moment, line in sorted(found):
            if after < moment <= until:
                yield moment, f"{iso(moment)} {line}"


def crashed(app: str, ended: float) -> list[Line]:
    """Return what a container says that ends right after its start."""
    told = [
        "INFO vcci.boot starting",
        "CRITICAL vcci.boot cannot start: setting VCCI_CALCULATION_ENGINE is missing",
        "Traceback (most recent call last):",
        '  File "/app/vcci/boot.py", line 41, in main',
        "    settings = Settings.from_environment()",
        "KeyError: 'VCCI_CALCULATION_ENGINE'",
    ]
    lines = [(ended - 2 + number / 10, text) for number, text in enumerate(told)]
    return [(at, f"{iso(at)} {text}" if number < 2 else text) for number, (at, text) in enumerate(lines)]
