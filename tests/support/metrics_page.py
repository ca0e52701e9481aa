"""The metrics page of a server, as Prometheus reads it."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""(name, labels in their order by name) -> value."""


def page_text(url: str) -> str:
    """The page."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def page_series(url: str) -> Series:
    """All series of the page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page_text(url))
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    """The sum of the series of a name that have these labels."""
    return sum(
        value
        for (own, pairs), value in series.items()
        if own == name and all(dict(pairs).get(label) == wanted for label, wanted in labels.items())
    )
