"""Charts of `recsys release compare`: times and failures on the servers, differences of scores on logged requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.arrays import Float64Array
from recsys.plots import Bars, Chart, Series

_BINS = 40


def comparison_charts(
    live: Mapping[str, Mapping[str, Any]], names: tuple[str, str], differences: Float64Array
) -> list[Bars | Chart]:
    """Make the charts that there are figures for.

    Args:
        live: release -> its figures on the servers, as ``--json`` has them.
        names: of both, A and B.
        differences: of the scores of logged candidates, B's less A's; empty: none were compared.
    """
    found: list[Bars | Chart] = []
    named = [(name, live[name]) for name in dict.fromkeys(names) if name in live]
    times = [
        (f"{name} {key[:3]}", of[key]) for name, of in named for key in ("p50_ms", "p99_ms") if of[key] is not None
    ]
    if times:
        found.append(_bars("Time of an answer on the servers", times, " ms"))
    shares = [
        (f"{name} {title}", round(100 * of[key], 3))
        for name, of in named
        for title, key in (("errors", "error_share"), ("degraded", "degraded_share"))
    ]
    if shares:
        found.append(_bars("Calls that fail, answers that lack a part", shares, "%"))
    if len(differences):
        counts, edges = np.histogram(differences, bins=_BINS)
        middles = ((edges[1:] + edges[:-1]) / 2).tolist()
        line = Series(f"{names[1]} less {names[0]}", middles, (100 * counts / counts.sum()).tolist(), line=True)
        found.append(Chart("Scores of logged requests", "difference of a score", "% of candidates", [line]))
    return found


def _bars(title: str, named: Sequence[tuple[str, float]], unit: str) -> Bars:
    return Bars(title, [name for name, _ in named], [value for _, value in named], unit)
