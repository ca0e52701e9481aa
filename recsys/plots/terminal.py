"""Charts as text for a terminal.

Drawn here: of the libraries for it, the typed and maintained ones have no logarithmic axis or bring native code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from recsys.arrays import Float64Array
from recsys.plots.charts import Bars, Chart, SignedBars
from recsys.plots.scales import amount_text, label_text, shown_points, ticks, unit_text
from recsys.plots.styles import COLOURS, styles

# As many as a PNG has.
_MARKERS, _ASCII_MARKERS = tuple("●■◆▲▼✚✖★◀"), tuple("o#d^v+x*<")
_RING, _ASCII_RING = "◎", "@"
_HEIGHT, _WIDTH = 18, 100
# Braille dots of a cell by row and column: it has 4 x 2.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_EIGHTHS = " ▏▎▍▌▋▊▉"


def print_chart(chart: Chart | Bars | SignedBars, console: Console) -> None:
    """Draw on a terminal, at most 100 columns wide; letters and signs only where it shows no more."""
    console.print(Text(encodable(chart.title, console), style="bold"))
    lines: Iterator[Text]
    if isinstance(chart, SignedBars):
        lines = _signed_lines(chart, console)
    else:
        lines = _bar_lines(chart, console) if isinstance(chart, Bars) else _chart_lines(chart, console)
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop", crop=True)


def bar_text(share: float, width: int, *, ascii_only: bool = False) -> str:
    """A bar of ``share`` of ``width`` columns, to an eighth of one.

    >>> bar_text(0.5, 7)
    '███▌'
    """
    eighths = round(share * width * 8)
    return "#" * round(eighths / 8) if ascii_only else ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


class _Axis:
    """Values to places: 0 is the lowest value shown, 1 the highest."""

    def __init__(self, values: Float64Array, *, log: bool) -> None:
        self.log = log
        low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)
        if log:
            factor = max((high / low) ** 0.04, 1.05)
            self.low, self.high = low / factor, high * factor
        else:
            margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
            self.low, self.high = low - margin, high + margin

    def place(self, value: float) -> float:
        if self.log:
            return float(np.log(max(value, self.low) / self.low) / np.log(self.high / self.low))
        return float((value - self.low) / (self.high - self.low))


def _chart_lines(chart: Chart, console: Console) -> Iterator[Text]:
    ascii_only = console.options.ascii_only
    points = [shown_points(series, chart) for series in chart.series]
    lows_highs = [y + sign * (0 if e is None else e) for _, y, e in points for sign in (-1, 1)]
    extent = np.concatenate(lows_highs) if lows_highs else np.zeros(0)
    if not len(extent):
        yield Text("no points to draw")
        return
    x_axis = _Axis(np.concatenate([x for x, _, _ in points]), log=chart.log_x)
    y_axis = _Axis(extent[extent > 0] if chart.log_y else extent, log=chart.log_y)
    y_labels = {tick: label_text(tick) for tick in ticks(y_axis.low, y_axis.high, log=chart.log_y)}
    margin = max((len(label) for label in y_labels.values()), default=0)
    width, height = max(20, min(console.width, _WIDTH) - margin - 2), _HEIGHT

    def cell(x: float, y: float) -> tuple[int, int]:
        return round(x_axis.place(x) * (width - 1)), round((1 - y_axis.place(y)) * (height - 1))

    cells: dict[tuple[int, int], tuple[str, str]] = {}
    markers, ring = (_ASCII_MARKERS, _ASCII_RING) if ascii_only else (_MARKERS, _RING)
    styled = list(styles(chart.series, markers, ring=ring))
    # Lines lie below error bars, and those below markers.
    for (series, colour, _), (x, y, _) in zip(styled, points, strict=True):
        if series.line:
            places = [(x_axis.place(a), y_axis.place(b)) for a, b in zip(x, y, strict=True)]
            cells |= {at: (sign, colour) for at, sign in _line_cells(places, width, height, ascii_only)}
    for (series, colour, _), (x, y, error) in zip(styled, points, strict=True):
        if error is not None and not series.line:
            for a, b, e in zip(x, y, error, strict=True):
                (column, top), (_, bottom) = cell(a, b + e), cell(a, b - e)
                cells |= {(column, row): ("|" if ascii_only else "│", colour) for row in range(top, bottom + 1)}
    for (series, colour, marker), (x, y, _) in zip(styled, points, strict=True):
        if not series.line:
            cells |= {cell(a, b): (marker, colour) for a, b in zip(x, y, strict=True)}

    vertical, corner, horizontal = ("|", "+", "-") if ascii_only else ("┤", "└", "─")
    label_rows = {cell(x_axis.low, tick)[1]: label for tick, label in y_labels.items()}
    yield Text(f"{chart.y_label}", style="dim")
    for row in range(height):
        line = Text(f"{label_rows.get(row, ''):>{margin}} ")
        line.append(vertical if row in label_rows or ascii_only else "│")
        for column in range(width):
            line.append(*cells.get((column, row), (" ", "")))
        yield line
    yield Text(" " * (margin + 1) + corner + horizontal * width)
    below = [" "] * (width + margin + 2)
    free = 0
    for tick in ticks(x_axis.low, x_axis.high, log=chart.log_x):
        label = label_text(tick)
        start = max(0, min(margin + 2 + cell(tick, y_axis.low)[0] - len(label) // 2, len(below) - len(label)))
        if start >= free:
            below[start : start + len(label)] = label
            free = start + len(label) + 1
    yield Text("".join(below))
    yield Text(f"{chart.x_label:>{len(below)}}", style="dim")
    legend = Text(" " * (margin + 2))
    for series, colour, marker in styled:
        sign = ("---" if ascii_only else "───") if series.line else marker
        entry = f"{sign} {series.name}   "
        if len(legend) > margin + 2 and len(legend) + len(entry) > len(below) + 3:
            yield legend
            legend = Text(" " * (margin + 2))
        legend.append(f"{sign} ", colour).append(f"{series.name}   ")
    yield legend


def _line_cells(
    places: Sequence[tuple[float, float]], width: int, height: int, ascii_only: bool
) -> Iterator[tuple[tuple[int, int], str]]:
    dots: dict[tuple[int, int], int] = {}
    for (x0, y0), (x1, y1) in zip(places, places[1:], strict=False):
        steps = max(1, round(max(abs(x1 - x0) * width * 2, abs(y1 - y0) * height * 4)))
        for step in range(steps + 1):
            x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
            column, row = round(x * (width * 2 - 1)), round((1 - y) * (height * 4 - 1))
            at = (column // 2, row // 4)
            dots[at] = dots.get(at, 0) | _DOTS[row % 4][column % 2]
    for at, bits in dots.items():
        yield at, "." if ascii_only else chr(0x2800 + bits)


def _bar_lines(chart: Bars, console: Console) -> Iterator[Text]:
    if not chart.values:
        yield Text("no bars to draw")
        return
    ends = [f" {amount_text(value)}{unit_text(chart)}" for value in chart.values]
    margin = max(len(label) for label in chart.labels)
    width = max(10, min(console.width, _WIDTH) - margin - 2 - max(map(len, ends)))
    longest = max((v for v in chart.values if math.isfinite(v)), default=0.0) or 1.0
    for label, value, end in zip(chart.labels, chart.values, ends, strict=True):
        share = max(0.0, value) / longest if math.isfinite(value) else 0.0
        bar = bar_text(share, width, ascii_only=console.options.ascii_only)
        yield Text(f"{label:>{margin}} ").append(bar, COLOURS[0]).append(end)


def _signed_lines(chart: SignedBars, console: Console) -> Iterator[Text]:
    """Bars from a middle axis, with the numbers behind them: signs tell the direction where there is no colour."""
    if not chart.values:
        yield Text("no bars to draw")
        return
    ascii_only = console.options.ascii_only
    errors = [0.0] * len(chart.values) if chart.error is None else chart.error
    between = " +/- " if ascii_only else " ± "
    ends = [f" {v:+.4f}{f'{between}{e:.4f}' if e else ''}" for v, e in zip(chart.values, errors, strict=True)]
    width = min(console.width, _WIDTH)
    margin = min(max(map(cell_len, chart.labels)), width // 2)
    room = max(10, width - margin - 2 - max(map(len, ends)))
    least, most = min(0.0, *chart.values), max(0.0, *chart.values)
    scale = (room - 1) / ((most - least) or 1.0)
    left = round(-least * scale)
    axis = "|" if ascii_only else "│"
    for label, value, end in zip(chart.labels, chart.values, ends, strict=True):
        size = abs(value) * scale
        line = Text(f"{encodable(fitted(label, margin), console)} ")
        if value < 0:
            drawn = min(left, max(1, round(size)))
            line.append(" " * (left - drawn)).append(("#" if ascii_only else "█") * drawn, COLOURS[1]).append(axis)
            yield line.append(" " * (room - 1 - left)).append(end)
            continue
        bar = bar_text(min(size / room, 1.0), room, ascii_only=ascii_only)
        if value > 0 and not bar:
            bar = "#" if ascii_only else "▏"
        bar = bar[: room - 1 - left]
        line.append(" " * left).append(axis).append(bar, COLOURS[0])
        yield line.append(" " * (room - 1 - left - len(bar))).append(end)


def encodable(text: str, console: Console) -> str:
    """Text with stand-ins for letters that a console of letters and signs only could not show, or would end at."""
    if not console.options.ascii_only:
        return text
    return text.replace("…", "~").encode("ascii", "replace").decode()


def fitted(text: str, width: int) -> str:
    """Text cut or filled up to so many columns, as a terminal counts them.

    >>> fitted("Toy Story", 6), fitted("Heat", 6)
    ('Toy S…', 'Heat  ')
    """
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1).rstrip() + "…"
    return set_cell_size(text, width)
