"""Points that axes can show, round ticks and short labels."""

from __future__ import annotations

import math

import numpy as np

from recsys.arrays import Float64Array
from recsys.plots.charts import Bars, Chart, Series


def shown_points(series: Series, chart: Chart) -> tuple[Float64Array, Float64Array, Float64Array | None]:
    x, y = np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64)
    kept = np.isfinite(x) & np.isfinite(y) & ((x > 0) | (not chart.log_x)) & ((y > 0) | (not chart.log_y))
    error = None if series.error is None else np.nan_to_num(np.asarray(series.error, dtype=np.float64)[kept])
    return x[kept], y[kept], error


def ticks(low: float, high: float, *, log: bool) -> list[float]:
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


def label_text(value: float) -> str:
    """Short: 0.7305, 40, 12.5k, 3M."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.5g}"


def amount_text(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else label_text(value)


def unit_text(chart: Bars) -> str:
    return f" {chart.unit}" if chart.unit else ""
