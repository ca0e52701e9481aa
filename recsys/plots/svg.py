"""Charts as SVG text, to stand in a page without a script or a file beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from recsys.plots.charts import Chart, Series
from recsys.plots.scales import ticks
from recsys.plots.styles import styles

_WIDTH, _HEIGHT = 560, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 34, 40
_MOST_LABELS = 8


def svg_chart(chart: Chart, labels: Sequence[str]) -> str:
    """A chart over labelled places: a series' ``x`` are numbers of labels from 0; points are joined in their order.

    Points that are not finite are left out, with the line to them. Both axes are linear.

    >>> text = svg_chart(Chart("AUC", "day", "AUC", [Series("new", [0, 1], [0.7, 0.8])]), ["1", "2"])
    >>> text.startswith("<svg"), text.count("<circle")
    (True, 2)
    """
    values = [value for each in chart.series for value in _reach(each)]
    low, high = _limits(values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(chart.title)}" font-family="sans-serif" font-size="11">',
        f'<text x="{_LEFT}" y="14" font-size="13">{escape(chart.title)}</text>',
    ]
    for value in ticks(low, high, log=False):
        y = _y(value, low, high)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,.10g}</text>')
    step = max(1, -(-len(labels) // _MOST_LABELS))
    for n in range(0, len(labels), step):
        x = _x(n, len(labels))
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{escape(labels[n])}</text>')
    begin = float(_LEFT)
    for each, colour, _ in styles(chart.series, ("o",)):
        parts.append(_drawn(each, colour, len(labels), low, high))
        parts.append(f'<rect x="{begin:.0f}" y="{_HEIGHT - 12}" width="9" height="9" fill="{colour}"/>')
        parts.append(f'<text x="{begin + 13:.0f}" y="{_HEIGHT - 4}">{escape(each.name)}</text>')
        begin += 30 + 6.5 * len(each.name)
    return "".join([*parts, "</svg>"])


def _drawn(series: Series, colour: str, count: int, low: float, high: float) -> str:
    errors = series.error or [0.0] * len(series.x)
    parts, path, pen = [], [], "M"
    for place, value, error in zip(series.x, series.y, errors, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        x, y = _x(place, count), _y(value, low, high)
        path.append(f"{pen}{x:.1f},{y:.1f}")
        pen = "L"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        if error > 0:
            ends = (_y(value - error, low, high), _y(value + error, low, high))
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke="{colour}"/>')
    line = f'<path d="{" ".join(path)}" fill="none" stroke="{colour}"/>' if path else ""
    return line + "".join(parts)


def _reach(series: Series) -> list[float]:
    errors = series.error or [0.0] * len(series.y)
    pairs = [(value, error) for value, error in zip(series.y, errors, strict=True) if math.isfinite(value)]
    return [end for value, error in pairs for end in (value - error, value + error)]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the vertical axis: of all values, with some room."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < room else low - room), high + room


def _x(place: float, count: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (place + 0.5) / max(1, count)


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)
