"""AUC of each day by arm, a panel for each log, from the recorded figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "daily" / "pipeline.png"

_SHOWN = {
    "loop": "the loop: goes on every day",
    "full": "full retraining every day",
    "day_0": "the first day's model",
}
_BESIDE = 0.06
"""Of a day, so that intervals do not cover each other."""


def draw(lines: Sequence[Mapping[str, Any]], path: Path = PICTURE) -> None:
    """Write the picture, of the logs that lines of all arms are of.

    Args:
        lines: recorded figures; ``pipeline.auc_ARM.LOG`` are drawn.
        path: of the PNG file.
    """
    from recsys.plots import Chart, Series, write_png

    found = {line["figure"]: line for line in lines}
    logs = {"movielens": "MovieLens-1M", "own": "generated log, tastes move"}
    charts = []
    for log, title in logs.items():
        arms = {arm: found.get(f"pipeline.auc_{arm}.{log}") for arm in _SHOWN}
        series = []
        for place, (arm, line) in enumerate(arms.items()):
            if line is None:
                continue
            days = [day + 1 + _BESIDE * (place - 1) for day in range(len(line["days"]))]
            errors = [(high - low) / 2 for low, high in line["intervals_95"]]
            series.append(Series(_SHOWN[arm], days, line["days"], error=errors))
        if len(series) == len(_SHOWN):
            charts.append(Chart(f"{title}: AUC, 95 % intervals", "day", "AUC of the served model", series))
    if charts:
        write_png(charts, path)
