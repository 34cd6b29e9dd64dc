"""Line charts as SVG: one number over the time of a watch, with its limits, its baseline and what happened.

Drawn by Vega-Lite (https://vega.github.io/vega-lite/docs/spec.html) through vl-convert, from the specification as
it is: altair would build the same one and costs twice the memory and another second. The SVG stands alone (no
script, no style sheet, no font, nothing to fetch), so it is shown under ``default-src 'none'``; verdicts differ by
shape as well as by colour, so it is readable in print; it has a title and a description for who cannot see it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vcci_ops.domain.units import humanize

Point = tuple[dt.datetime, float | None, str]
"""When, how much (None: no number), and the verdict: pass, fail, inconclusive, error."""
WIDTH, HEIGHT = 640, 170
MOST_POINTS = 120
"""More are drawn together, the worst of each handful, so that a day's watch is no bigger than an hour's."""
_VERDICTS = ("pass", "fail", "inconclusive", "error")
_COLOURS = ("#1f6f54", "#b3261e", "#8a6d00", "#5f6368")
_SHAPES = ("circle", "triangle-up", "square", "cross")
_AXIS = {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "gridColor": "#e4e4e4"}


def line_chart(  # noqa: PLR0917  the order is part of what others call
    title: str,
    unit: str,
    points: Sequence[Point],
    baseline: float | None = None,
    limits: Sequence[float] | Mapping[str, float] = (),
    marks: Sequence[tuple[dt.datetime, str]] = (),
) -> str:
    """Return an SVG of a number over time, under 40 kB.

    :param unit: of the values; percent, s, bytes and so on as in the settings.
    :param points: times with their zone, oldest first. One without a number stands on the bottom line.
    :param baseline: what is normal; dashed.
    :param limits: values, or name → value; solid.
    :param marks: moments with what happened then, e.g. the rollout's end.
    """
    import vl_convert

    kept = _thinned(points)
    named = list(limits.items()) if isinstance(limits, Mapping) else [("limit", value) for value in limits]
    layers = [*_levels(named, baseline, unit), *_moments(marks), *_lines(kept)]
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": WIDTH,
        "height": HEIGHT,
        "config": {"aria": False, "font": "sans-serif", "axis": _AXIS, "view": {"stroke": "#cccccc"}},
        "layer": [{**layer, "encoding": {**_scales(unit), **layer["encoding"]}} for layer in layers],
    }
    svg: str = vl_convert.vegalite_to_svg(spec)
    return _described(svg, title, _description(title, unit, points, named, baseline))


def _scales(unit: str) -> dict[str, Any]:
    time = {"format": "%H:%M", "title": "UTC", "labelOverlap": True, "tickCount": 8, "grid": False}
    return {
        "x": {"field": "at", "type": "temporal", "scale": {"type": "utc"}, "axis": time},
        "y": {"field": "value", "type": "quantitative", "title": unit, "axis": {"tickCount": 5}},
    }


def _lines(points: Sequence[Point]) -> list[dict[str, Any]]:
    rows = [{"at": _iso(at), "value": value, "verdict": verdict} for at, value, verdict in points]
    known, without = [r for r in rows if r["value"] is not None], [r for r in rows if r["value"] is None]
    present = [verdict for verdict in _VERDICTS if any(row["verdict"] == verdict for row in rows)]
    scale = {
        "domain": present,
        "range": [_COLOURS[_VERDICTS.index(v)] for v in present],
    }
    shapes = {**scale, "range": [_SHAPES[_VERDICTS.index(v)] for v in present]}
    legend = {"title": None, "orient": "top", "symbolSize": 60}
    how = {
        "color": {"field": "verdict", "type": "nominal", "scale": scale, "legend": legend},
        "shape": {"field": "verdict", "type": "nominal", "scale": shapes, "legend": legend},
    }
    dots = {"type": "point", "filled": True, "size": 45, "opacity": 1}
    drawn: list[dict[str, Any]] = []
    if known:
        drawn.append({"data": {"values": known}, "mark": {"type": "line", "color": "#3c6e91"}, "encoding": {}})
        drawn.append({"data": {"values": known}, "mark": dots, "encoding": how})
    if without:  # on the bottom line: there is no height that would be true
        drawn.append({"data": {"values": without}, "mark": dots, "encoding": {**how, "y": {"value": HEIGHT}}})
    return drawn


def _levels(limits: Sequence[tuple[str, float]], baseline: float | None, unit: str) -> list[dict[str, Any]]:
    levels = [(f"{name} {humanize(value, unit)}", value, "#b3261e", [1, 0], "right") for name, value in limits]
    if baseline is not None:  # its label on the other side, for it is often close to a limit
        levels.append((f"baseline {humanize(baseline, unit)}", baseline, "#444444", [5, 4], "left"))
    drawn: list[dict[str, Any]] = []
    for text, value, colour, dash, side in levels:
        data, at_level = {"values": [{"value": value, "text": text}]}, {"x": {"value": 0}, "x2": {"value": WIDTH}}
        rule = {"type": "rule", "color": colour, "strokeDash": dash, "strokeWidth": 1.2}
        label = {"type": "text", "align": side, "baseline": "bottom", "dy": -3, "fontSize": 11, "color": colour}
        drawn.append({"data": data, "mark": rule, "encoding": at_level})
        written = {"x": {"value": WIDTH - 4 if side == "right" else 4}, "text": {"field": "text"}}
        drawn.append({"data": data, "mark": label, "encoding": written})
    return drawn


def _moments(marks: Sequence[tuple[dt.datetime, str]]) -> list[dict[str, Any]]:
    if not marks:
        return []
    data = {"values": [{"at": _iso(at), "text": text[:60]} for at, text in marks]}
    rule = {"type": "rule", "color": "#7a7a7a", "strokeDash": [2, 2]}
    label = {"type": "text", "align": "left", "baseline": "top", "dx": 4, "dy": 2, "fontSize": 11, "color": "#444444"}
    high = {"y": {"value": 0}}
    return [
        {"data": data, "mark": rule, "encoding": {**high, "y2": {"value": HEIGHT}}},
        {"data": data, "mark": label, "encoding": {**high, "text": {"field": "text"}}},
    ]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Keep the worst of each handful: failures first, then what has no number, then the highest."""
    size = -(-len(points) // MOST_POINTS)
    if size <= 1:
        return list(points)

    def badness(point: Point) -> tuple[bool, bool, float]:
        return point[2] == "fail", point[2] == "error", abs(point[1] or 0.0)

    return [max(points[i : i + size], key=badness) for i in range(0, len(points), size)]


def _description(
    title: str, unit: str, points: Sequence[Point], limits: Sequence[tuple[str, float]], baseline: float | None
) -> str:
    values = [value for _, value, _ in points if value is not None]
    counted = [(verdict, sum(1 for p in points if p[2] == verdict)) for verdict in _VERDICTS]
    parts = [f"{len(points)} samples"]
    if points:
        parts[0] += f" from {points[0][0].astimezone(dt.UTC):%H:%M} to {points[-1][0].astimezone(dt.UTC):%H:%M} UTC"
        parts.append(", ".join(f"{count} {verdict}" for verdict, count in counted if count))
    if values:
        parts.append(f"between {humanize(min(values), unit)} and {humanize(max(values), unit)}")
        parts.append(f"last {humanize(values[-1], unit)}")
    if baseline is not None:
        parts.append(f"baseline {humanize(baseline, unit)}")
    parts += [f"{name} {humanize(value, unit)}" for name, value in limits]
    return f"{title}: {'; '.join(parts)}."


def _described(svg: str, title: str, description: str) -> str:
    """Give the SVG a title and a description, and let it shrink with the page."""
    id_ = "c" + hashlib.sha256(f"{title}{description}".encode()).hexdigest()[:8]  # several stand in one page
    head, body = svg.split(">", 1)
    head = re.sub(r' (?:width|height|class|version|xmlns:xlink)="[^"]*"', "", head)
    size = re.search(r'viewBox="0 0 ([\d.]+)', head)
    style = f"max-width:{float(size[1]):.0f}px" if size else ""
    said = f'<title id="{id_}t">{html.escape(title)}</title><desc id="{id_}d">{html.escape(description)}</desc>'
    return f'{head} width="100%" style="{style}" role="img" aria-labelledby="{id_}t {id_}d">{said}{body}'


def _iso(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
