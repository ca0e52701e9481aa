"""Charts as PNG files, by matplotlib, which is imported when one is written, not before."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.errors import InvalidInputError
from recsys.files import make_folder, write_atomically
from recsys.plots.charts import Bars, Chart, Dots, Heat, SignedBars
from recsys.plots.scales import amount_text, label_text, shown_points, ticks, unit_text
from recsys.plots.styles import COLOURS, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# No common factor with the number of colours: 63 series look different.
_MARKERS = tuple("osD^vPX*<")
_PANELS_PER_ROW = 3
_TITLE_WIDTH = 38
# A name with two dollar signs is no formula.
_STYLE: Any = {"font.size": 11, "axes.titlesize": 12, "legend.fontsize": 9.5, "text.parse_math": False}


def write_png(charts: Sequence[Chart | Bars | SignedBars | Dots | Heat], path: Path) -> None:
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
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a box stands for a letter that the font lacks
        figure = Figure(figsize=(6.4 * columns, 4.6 * rows), dpi=130, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for number, chart in enumerate(charts):
            axes = figure.add_subplot(rows, columns, number + 1)
            title = textwrap.fill(chart.title, _TITLE_WIDTH) if isinstance(chart, SignedBars) else chart.title
            axes.set_title(title, loc="left", fontweight="bold")
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
            if isinstance(chart, Bars):
                _draw_bars(axes, chart)
            elif isinstance(chart, SignedBars):
                _draw_signed_bars(axes, chart)
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


def _draw_chart(axes: Axes, chart: Chart) -> None:
    for series, colour, marker in styles(chart.series, _MARKERS):
        x, y, error = shown_points(series, chart)
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
            axis.set_ticks([tick for tick in ticks(low, high, log=True)])
            axis.set_ticks([], minor=True)
            axis.set_major_formatter(lambda value, position: label_text(value))
    axes.grid(color="#dddddd", linewidth=0.7)
    if chart.series:
        # Below: within the axes it would lie on points.
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14), columnspacing=1.2)


def _draw_bars(axes: Axes, chart: Bars) -> None:
    places = range(len(chart.values))
    drawn = axes.barh(places, list(chart.values), color=COLOURS[0], height=0.7)
    axes.bar_label(drawn, [f"{amount_text(value)}{unit_text(chart)}" for value in chart.values], padding=3)
    axes.set_yticks(places, labels=list(chart.labels))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(lambda value, position: label_text(value))
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)


def _draw_signed_bars(axes: Axes, chart: SignedBars) -> None:
    places = range(len(chart.values))
    colours = [COLOURS[0] if value >= 0 else COLOURS[1] for value in chart.values]
    bars = None if chart.error is None or not any(chart.error) else list(chart.error)
    drawn = axes.barh(places, list(chart.values), xerr=bars, color=colours, height=0.7, capsize=3)
    axes.bar_label(drawn, [f"{value:+.3f}" for value in chart.values], padding=3, fontsize=9)
    axes.axvline(0.0, color="#444444", linewidth=1.0)
    axes.set_yticks(places, labels=list(chart.labels), fontsize=9 if len(places) <= 20 else 7)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)


def _draw_dots(axes: Axes, chart: Dots) -> None:
    for series, colour, marker in styles(chart.series, _MARKERS):
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
