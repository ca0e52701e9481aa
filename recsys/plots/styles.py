"""Colours of series and the order of their markers.

Colours are those of Okabe and Ito, which people who see few colours tell apart; every series of points has a marker of
its own too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recsys.plots.charts import Series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C00")
_LINE_COLOURS = ("#555555", *COLOURS)
_RING_COLOUR = "#888888"  # seen on black and on white


def styles(series: Sequence[Series], markers: Sequence[str], *, ring: str = "") -> Iterator[tuple[Series, str, str]]:
    """Each series with its colour and its marker: none for a line, ``ring`` for rings."""
    lines = points = 0
    for each in series:
        if each.line:
            yield each, _LINE_COLOURS[lines % len(_LINE_COLOURS)], ""
            lines += 1
        elif each.ring:
            yield each, _RING_COLOUR, ring
        else:
            yield each, COLOURS[points % len(COLOURS)], markers[points % len(markers)]
            points += 1
