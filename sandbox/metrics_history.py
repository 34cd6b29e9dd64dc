"""Give Prometheus a past: five weeks of the API's metrics as TSDB blocks, made by promtool.

The numbers come from :mod:`sandbox.api.traffic`, the same functions that the live API answers from.
https://prometheus.io/docs/prometheus/latest/storage/#backfilling-from-openmetrics-format
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from sandbox.api import traffic
from sandbox.api.traffic import DAY, Series, Story
from sandbox.service import SandboxError

HISTORY = 35 * DAY
STEP = 300  # seconds between samples: what an instant query still looks back over
COARSE = 3  # steps between samples of counters before RECENT: nobody reads them but over hours
RECENT = traffic.QUIET + 3600
"""The part that faults rewrite gets blocks of its own, so that rewriting it leaves the rest alone."""
GAP = 600.0  # a shorter pause of Prometheus is left as it is


def fill(data: Path, story: Story, *, promtool: str, now: float | None = None) -> None:
    """Write what is missing between the newest block and now.

    :param data: Prometheus' storage folder; it must not run.
    :param story: what has gone wrong; the past it rewrites is written accordingly.
    :param promtool: path of the program.
    :param now: where the past ends; default: the present.
    """
    now = now or time.time()
    begin = max([now - HISTORY, *(end for _, end in _blocks(data))])
    for part_begin, part_end in ((begin, now - RECENT), (max(begin, now - RECENT), now)):
        if part_end - part_begin > 1:
            _write_blocks(data, story, part_begin, part_end, promtool)


def forget(data: Path, since: float) -> None:
    """Remove the samples since a moment, and at most a few days before; older blocks stay.

    The write-ahead log goes too: Prometheus drops what is in it once a newer block is there.
    """
    for folder, end in _blocks(data):
        if end > since:
            shutil.rmtree(folder)
    for name in ("wal", "wbl", "chunks_head"):
        shutil.rmtree(data / name, ignore_errors=True)


def last_write(data: Path) -> float:
    """Return when Prometheus last wrote samples, 0 if never."""
    logs = [path.stat().st_mtime for path in (data / "wal").glob("0*")]
    return max([*logs, *(end for _, end in _blocks(data)), 0.0])


def _blocks(data: Path) -> list[tuple[Path, float]]:
    found = []
    for meta in data.glob("*/meta.json"):
        found.append((meta.parent, json.loads(meta.read_text())["maxTime"] / 1000))
    return found


def _write_blocks(data: Path, story: Story, begin: float, end: float, promtool: str) -> None:
    text = data.parent / f"history-{int(begin)}.om"
    made = data.parent / f"blocks-{int(begin)}"
    try:
        with open(text, "w") as out:
            _write_text(out, story, _times(begin, end))
        argv = [promtool, "tsdb", "create-blocks-from", "--max-block-duration=1458h"]
        done = subprocess.run(
            [*argv, "--quiet", "openmetrics", str(text), str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SandboxError(f"promtool could not write the metrics' history: {done.stderr.strip()[-500:]}")
        data.mkdir(parents=True, exist_ok=True)
        for block in made.glob("*/meta.json"):
            block.parent.rename(data / block.parent.name)
    finally:
        text.unlink(missing_ok=True)
        shutil.rmtree(made, ignore_errors=True)


def _times(begin: float, end: float) -> list[float]:
    """Return the whole steps in between, and the end itself, where the live samples take over."""
    first = int(begin // STEP + 1) * STEP
    return [*range(first, int(end), STEP), round(end, 3)]


def _thinned(times: list[float]) -> list[float]:
    """Return fewer of the times where they are long ago, always the last."""
    if times[-1] - times[0] <= RECENT + STEP:
        return times
    return [*times[:-1:COARSE], times[-1]]


def _write_text(out: TextIO, story: Story, times: list[float]) -> None:
    counted = [(at, traffic.amounts(at, story)) for at in _thinned(times)]
    for series in traffic.request_series():
        for name in (traffic.REQUESTS, traffic.RENAMED_REQUESTS):
            named = [pair for pair in counted if story.requests_name(pair[0]) == name]
            _write_series(out, series, named, name)
    for series in traffic.calculation_series():
        _write_series(out, series, counted)
    fine = times[-1] - traffic.DETAILS
    late = [pair for pair in counted if pair[0] > fine]
    for series in traffic.latency_series(story.slow_seconds):
        _write_series(out, series, late)
    for at in times:
        out.write(f"up{_labels({})} 1 {at}\n")
        for name, labels, value in traffic.gauges(at):
            if at > fine or name == "vcci_active_tenants":
                out.write(f"{name}{_labels(labels)} {value} {at}\n")
    out.write("# EOF\n")


def _write_series(
    out: TextIO, series: Series, counted: list[tuple[float, traffic.Amounts]], name: str | None = None
) -> None:
    key = f"{name or series.name}{_labels(dict(series.labels))}"
    out.writelines(_lines(key, series, counted))


def _lines(key: str, series: Series, counted: list[tuple[float, traffic.Amounts]]) -> Iterator[str]:
    for at, amounts in counted:
        yield f"{key} {series.value(amounts)} {at}\n"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in {**labels, **traffic.JOB}.items()) + "}"
