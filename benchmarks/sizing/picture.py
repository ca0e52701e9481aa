"""A plan as a picture: what grows how with the users, what breaks first, and what takes its place."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsys.files import write_atomically
from recsys.plots.scales import label_text
from recsys.plots.styles import COLOURS
from sizing import memory, serving, store
from sizing.deployment import FORMATS, Deployment, scaled
from sizing.limits import breaking_points, limits
from sizing.recorded import Recorded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 40
_PLACES = ((0.05, 0.58, 0.42, 0.38), (0.55, 0.58, 0.42, 0.38), (0.17, 0.06, 0.36, 0.43))
"""Left, bottom, width, height; beside the lower one is room for names and texts."""
_END = 2.0
"""The pictures' right end over the largest size."""


def draw(sizes: Sequence[Deployment], recorded: Recorded, path: Path) -> None:
    """Write the picture, from the smallest size to the largest; ids, items and calls in proportion to the largest's."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    largest = max(sizes, key=lambda size: size.users)
    marks = sorted({size.users for size in sizes})
    low = marks[0] if len(marks) > 1 else max(1_000.0, marks[0] / 100)
    users = np.unique(np.round(np.geomspace(low, marks[-1], _POINTS))).tolist()
    course = [scaled(largest, count) for count in users]
    with rc_context({"font.size": 11, "axes.titlesize": 12, "legend.fontsize": 9.5}):
        figure = Figure(figsize=(14.0, 10.5), dpi=100)
        canvas = FigureCanvasAgg(figure)
        left, right, lower = (figure.add_axes(place) for place in _PLACES)
        _lines(left, "Memory, GB", users, _memory(course, recorded))
        given = (("a ranker's host", largest.host_memory_gb), ("one Redis", largest.redis_gb))
        for (name, amount), style in zip(given, (":", "--"), strict=True):
            left.axhline(amount, color="#444444", linestyle=style, label=name)
        _lines(right, "At the peak", users, _machines(course, recorded))
        for axes in (left, right):
            axes.legend(frameon=False, fontsize=9, loc="upper left")
        _breaking(lower, largest, marks, recorded)
        written = io.BytesIO()
        canvas.print_png(written)
    write_atomically(path, written.getvalue())


def _memory(course: Sequence[Deployment], recorded: Recorded) -> dict[str, list[float]]:
    tables = {f"tables, {kind}": [memory.table_gb(size, kind, recorded) for size in course] for kind in FORMATS}
    return {"Redis, data once": [1e3 * store.data_tb(size).value for size in course], **tables}


def _machines(course: Sequence[Deployment], recorded: Recorded) -> dict[str, list[float]]:
    both = [store.primaries(size, recorded) for size in course]
    return {
        "ranker cores": [serving.cores(size, recorded).value for size in course],
        "ranker hosts": [serving.hosts(size, recorded).value for size in course],
        "Redis primaries for memory": [by_memory.value for by_memory, _ in both],
        "Redis primaries for processors": [by_processor.value for _, by_processor in both],
    }


def _lines(axes: Axes, title: str, users: Sequence[float], values: Mapping[str, Sequence[float]]) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    for colour, (name, course) in zip(COLOURS, values.items(), strict=False):
        axes.plot(users, course, color=colour, label=name, linewidth=1.8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: label_text(value))
    _users_axis(axes)


def _breaking(axes: Axes, size: Deployment, marks: Sequence[float], recorded: Recorded) -> None:
    """A bar for each part from where it breaks, thin where it may; what takes its place is written on it."""
    points = breaking_points(size, recorded)
    replacements = {limit.name: limit.replacement for limit in limits(size, recorded)}
    order = sorted(points, key=lambda name: points[name][0])
    end = _END * marks[-1]
    first = min([marks[0], *(low for _, low, _ in points.values() if math.isfinite(low))]) / 2
    for place, name in enumerate(order):
        value, earliest, _ = points[name]
        if value < end:
            axes.barh(place, end - value, left=value, color=COLOURS[2], height=0.62)
        if earliest < min(value, end):
            axes.barh(place, min(value, end) - earliest, left=earliest, color=COLOURS[2], alpha=0.3, height=0.62)
        text = replacements[name] if value < end else f"beyond, at {label_text(value)}: {replacements[name]}"
        text = text.replace("`", "")
        axes.text(1.15 * end, place, text if math.isfinite(value) else "never", va="center", fontsize=9.5)
    for mark in marks:
        axes.axvline(mark, color="#444444", linestyle=":", linewidth=1)
    axes.set_title("Breaks from so many users on (pale: may); in its place", loc="left", fontweight="bold")
    axes.set_yticks(range(len(order)), labels=[name.replace("`", "") for name in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    _users_axis(axes)
    axes.set_xlim(first, end)


def _users_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("users")
    axes.xaxis.set_major_formatter(lambda value, _: label_text(value))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color="#dddddd", linewidth=0.7)
