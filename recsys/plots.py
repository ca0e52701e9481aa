"""Pictures of results: PNG files by matplotlib, and the same charts as text for a terminal.

Colours are those of Okabe and Ito, which people who see few colours tell apart; every series of points has a
marker of its own too. matplotlib is imported when a PNG is written, not before. The terminal's charts are drawn
here: of the libraries for it, the typed and maintained ones have no logarithmic axis or bring native code.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from recsys.arrays import Float64Array
from recsys.errors import InvalidInputError
from recsys.files import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C00")
_LINE_COLOURS = ("#555555", *_COLOURS)
_RING_COLOUR = "#888888"  # seen on black and on white
# No common factor with the number of colours: 63 series look different.
_MARKERS = tuple("osD^vPX*<")
_TEXT_MARKERS, _ASCII_MARKERS = tuple("●■◆▲▼✚✖★◀"), tuple("o#d^v+x*<")
_TEXT_HEIGHT, _TEXT_WIDTH = 18, 100
# Braille dots of a cell by row and column: it has 4 x 2.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_PANELS_PER_ROW = 3
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Series:
    """Points, or the line through them.

    Attributes:
        name: in the legend.
        x, y: coordinates; points that are not finite, or not positive on a logarithmic axis, are left out.
        error: half the length of each point's vertical error bar.
        line: a line through the points in the order given, instead of markers.
        ring: circles around points of other series, instead of markers.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    line: bool = False
    ring: bool = False

    def __post_init__(self) -> None:
        lengths = [len(values) for values in (self.x, self.y, self.error) if values is not None]
        if len(set(lengths)) > 1:
            raise InvalidInputError(f"series {self.name!r}: lengths of x, y, error are {lengths}; allowed: equal ones")


@dataclass(frozen=True)
class Chart:
    """Series on one pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Bars:
    """A horizontal bar per label, of values 0 or more."""

    title: str
    labels: Sequence[str]
    values: Sequence[float]
    unit: str = ""

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.values):
            raise InvalidInputError(f"bars {self.title!r}: {len(self.labels)} labels for {len(self.values)} values")


@dataclass(frozen=True)
class Dots:
    """A line per label with a point of each series on it: values far from 0, of which bars would show nothing.

    A series' ``x`` are the values, its ``y`` the numbers of the labels from 0, its ``error`` is along x.
    """

    title: str
    labels: Sequence[str]
    series: Sequence[Series]

    def __post_init__(self) -> None:
        wrong = [y for each in self.series for y in each.y if not 0 <= y < len(self.labels)]
        if wrong:
            raise InvalidInputError(f"dots {self.title!r}: line {wrong[0]}; allowed: 0 to {len(self.labels) - 1}")


@dataclass(frozen=True)
class Heat:
    """A square per pair of labels, the darker the larger its value, which is 0 to 1; rows from the top."""

    title: str
    labels: Sequence[str]
    values: npt.NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        size = len(self.labels)
        if self.values.shape != (size, size):
            shape = " x ".join(map(str, self.values.shape))
            raise InvalidInputError(f"heat {self.title!r}: {shape} values for {size} labels; allowed: {size} x {size}")


def write_png(charts: Sequence[Chart | Bars | Dots | Heat], path: Path) -> None:
    """Panels side by side in one file, which appears when it is whole.

    Raises:
        InvalidInputError: no chart.
        ConfigError: the folder cannot be written.
    """
    if not charts:
        raise InvalidInputError("a picture of no charts; give at least one")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(charts), _PANELS_PER_ROW)
    rows = -(-len(charts) // columns)
    with matplotlib.rc_context({"font.size": 11, "axes.titlesize": 12, "legend.fontsize": 9.5}):
        figure = Figure(figsize=(6.4 * columns, 4.6 * rows), dpi=130, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for number, chart in enumerate(charts):
            axes = figure.add_subplot(rows, columns, number + 1)
            axes.set_title(chart.title, loc="left", fontweight="bold")
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
            if isinstance(chart, Bars):
                _draw_bars(axes, chart)
            elif isinstance(chart, Dots):
                _draw_dots(axes, chart)
            elif isinstance(chart, Heat):
                _draw_heat(axes, chart)
            else:
                _draw_chart(axes, chart)
        content = io.BytesIO()
        canvas.print_figure(content, format="png", metadata={"Software": None})
    make_folder(path.parent)
    write_atomically(path, content.getvalue())


def print_chart(chart: Chart | Bars, console: Console) -> None:
    """Draw on a terminal, at most 100 columns wide; letters and signs only where it shows no more."""
    console.print(Text(chart.title, style="bold"))
    lines = _bar_lines(chart, console) if isinstance(chart, Bars) else _chart_lines(chart, console)
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop", crop=True)


def _draw_chart(axes: Axes, chart: Chart) -> None:
    for series, colour, marker in _styles(chart.series, _MARKERS):
        x, y, error = _points(series, chart)
        if series.line:
            axes.plot(x, y, color=colour, linewidth=1.6, alpha=0.9, label=series.name, zorder=1)
            continue
        if series.ring:
            axes.scatter(x, y, s=190, facecolors="none", edgecolors=colour, linewidths=1.6, label=series.name, zorder=3)
            continue
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 8 if marker != "*" else 11}
        style |= {"markeredgecolor": "white", "markeredgewidth": 0.6, "elinewidth": 1.1}
        bars = None if error is None else error.tolist()
        axes.errorbar(x, y, yerr=bars, linestyle="none", capsize=3, label=series.name, zorder=2, **style)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    for log, axis, scale in ((chart.log_x, axes.xaxis, axes.set_xscale), (chart.log_y, axes.yaxis, axes.set_yscale)):
        if log:
            scale("log")
            low, high = axis.get_view_interval()
            axis.set_ticks([tick for tick in _ticks(low, high, log=True)])
            axis.set_ticks([], minor=True)
            axis.set_major_formatter(lambda value, position: _label(value))
    axes.grid(color="#dddddd", linewidth=0.7)
    if chart.series:
        # Below: within the axes it would lie on points.
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14), columnspacing=1.2)


def _draw_bars(axes: Axes, chart: Bars) -> None:
    places = range(len(chart.values))
    drawn = axes.barh(places, list(chart.values), color=_COLOURS[0], height=0.7)
    axes.bar_label(drawn, [f"{_amount(value)}{_unit(chart)}" for value in chart.values], padding=3)
    axes.set_yticks(places, labels=list(chart.labels))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(lambda value, position: _label(value))
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)


def _draw_dots(axes: Axes, chart: Dots) -> None:
    for series, colour, marker in _styles(chart.series, _MARKERS):
        x, y = np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64)
        kept = np.isfinite(x)
        error = None if series.error is None else np.nan_to_num(np.asarray(series.error, dtype=np.float64)[kept])
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 8, "markeredgecolor": "white"}
        axes.errorbar(x[kept], y[kept], xerr=error, linestyle="none", capsize=3, label=series.name, zorder=2, **style)
    axes.set_yticks(range(len(chart.labels)), labels=list(chart.labels))
    axes.set_ylim(len(chart.labels) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1), columnspacing=1.2)


def _draw_heat(axes: Axes, chart: Heat) -> None:
    axes.imshow(chart.values, cmap="Blues", vmin=0.0, vmax=1.0)
    places = range(len(chart.labels))
    axes.set_xticks(places, labels=list(chart.labels), rotation=60, ha="right", fontsize=8)
    axes.set_yticks(places, labels=list(chart.labels), fontsize=8)
    for (row, column), value in np.ndenumerate(chart.values):
        if value >= 0.1:
            ink = "white" if value > 0.6 else "black"
            axes.text(column, row, f"{value:.1f}".lstrip("0"), ha="center", va="center", fontsize=7, color=ink)


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
    points = [_points(series, chart) for series in chart.series]
    lows_highs = [y + sign * (0 if e is None else e) for _, y, e in points for sign in (-1, 1)]
    extent = np.concatenate(lows_highs) if lows_highs else np.zeros(0)
    if not len(extent):
        yield Text("no points to draw")
        return
    x_axis = _Axis(np.concatenate([x for x, _, _ in points]), log=chart.log_x)
    y_axis = _Axis(extent[extent > 0] if chart.log_y else extent, log=chart.log_y)
    y_labels = {tick: _label(tick) for tick in _ticks(y_axis.low, y_axis.high, log=chart.log_y)}
    margin = max((len(label) for label in y_labels.values()), default=0)
    width, height = max(20, min(console.width, _TEXT_WIDTH) - margin - 2), _TEXT_HEIGHT

    def cell(x: float, y: float) -> tuple[int, int]:
        return round(x_axis.place(x) * (width - 1)), round((1 - y_axis.place(y)) * (height - 1))

    cells: dict[tuple[int, int], tuple[str, str]] = {}
    styled = list(_styles(chart.series, _ASCII_MARKERS if ascii_only else _TEXT_MARKERS))
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
    for tick in _ticks(x_axis.low, x_axis.high, log=chart.log_x):
        label = _label(tick)
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
    ends = [f" {_amount(value)}{_unit(chart)}" for value in chart.values]
    margin = max(len(label) for label in chart.labels)
    width = max(10, min(console.width, _TEXT_WIDTH) - margin - 2 - max(map(len, ends)))
    longest = max((v for v in chart.values if math.isfinite(v)), default=0.0) or 1.0
    for label, value, end in zip(chart.labels, chart.values, ends, strict=True):
        share = max(0.0, value) / longest if math.isfinite(value) else 0.0
        bar = bar_text(share, width, ascii_only=console.options.ascii_only)
        yield Text(f"{label:>{margin}} ").append(bar, _COLOURS[0]).append(end)


def bar_text(share: float, width: int, *, ascii_only: bool = False) -> str:
    """A bar of ``share`` of ``width`` columns, to an eighth of one.

    >>> bar_text(0.5, 7)
    '███▌'
    """
    eighths = round(share * width * 8)
    return "#" * round(eighths / 8) if ascii_only else ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _styles(series: Sequence[Series], markers: Sequence[str]) -> Iterator[tuple[Series, str, str]]:
    """Each series with its colour and its marker."""
    lines = points = 0
    for each in series:
        if each.line:
            yield each, _LINE_COLOURS[lines % len(_LINE_COLOURS)], ""
            lines += 1
        elif each.ring:
            yield each, _RING_COLOUR, "@" if markers is _ASCII_MARKERS else "◎"
        else:
            yield each, _COLOURS[points % len(_COLOURS)], markers[points % len(markers)]
            points += 1


def _points(series: Series, chart: Chart) -> tuple[Float64Array, Float64Array, Float64Array | None]:
    x, y = np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64)
    kept = np.isfinite(x) & np.isfinite(y) & ((x > 0) | (not chart.log_x)) & ((y > 0) | (not chart.log_y))
    error = None if series.error is None else np.nan_to_num(np.asarray(series.error, dtype=np.float64)[kept])
    return x[kept], y[kept], error


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Round values from low to high: 1, 2, 5 and their tenfolds."""
    if log and high / low >= 4:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if len(powers) <= 4 else (1,)
        return [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]
    rough = (high - low) / 6
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def _label(value: float) -> str:
    """Short: 0.7305, 40, 12.5k, 3M."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.5g}"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else _label(value)


def _unit(chart: Bars) -> str:
    return f" {chart.unit}" if chart.unit else ""
