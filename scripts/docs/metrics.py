"""The page of what a server counts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prometheus_client import Metric

from docs.table import generated, table
from recsys.serving.rpc.methods import METHODS
from recsys.serving.telemetry.families import CODES, families, histograms, slot_families
from recsys.serving.telemetry.in_service import InService
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.prometheus import TotalsCollector

_MOST_VALUES = 12
"""Of a label that are written out."""


def metrics_page() -> str:
    """The text of ``docs/reference/metrics.md``: the families that a server of nothing shows, too."""
    methods = tuple(METHODS.values())
    with tempfile.TemporaryDirectory() as folder:
        counts = create_counter_file(Path(folder) / "counts", workers=1, methods=methods)
        shown = list(TotalsCollector(counts, InService(counts)).collect())
    values = {
        (family.name, label): found
        for family in (*families(methods), *histograms(methods), *slot_families(methods))
        for label, found in family.labels.items()
        if len(found) <= _MOST_VALUES and tuple(found) not in (methods, CODES)
    }
    lines = generated(
        "Metrics",
        "Every metric of `GET /metrics`; [Monitoring](../operate/monitoring.md) explains them and has alerts.",
        "A histogram's series end with `_bucket`, `_count` and `_sum`, a summary's with the last two. Times are in",
        "seconds.",
        "A server with TLS also shows when its certificates end ([more](../operate/monitoring.md#what-is-counted)).",
    )
    for title, of_releases in (("Of the server", False), ("Of each release in service", True)):
        found = [family for family in shown if _of_a_release(family) == of_releases]
        lines += [f"## {title}", ""]
        lines += table(
            ("name", "kind", "labels", "what it counts"),
            [
                (f"`{_full_name(family)}`", family.type, _labels(family, values), family.documentation)
                for family in sorted(found, key=lambda family: (_KINDS.index(family.type), family.name))
            ],
        )
    return "\n".join(lines).rstrip() + "\n"


_KINDS = ("counter", "gauge", "histogram", "summary", "info")
_ENDINGS = {"counter": "_total", "info": "_info"}


def _of_a_release(family: Metric) -> bool:
    return "release" in family._labelnames and family.type != "info"


def _full_name(family: Metric) -> str:
    return family.name + _ENDINGS.get(family.type, "")


def _labels(family: Metric, values: dict[tuple[str, str], object]) -> str:
    """The labels, with their values where they are few and the family's own."""
    lines = []
    for label in family._labelnames:
        found = values.get((family.name.removeprefix("recsys_"), label))
        lines.append(f"`{label}`" + (f" ({', '.join(f'`{value}`' for value in found)})" if found else ""))  # type: ignore[attr-defined]
    return ", ".join(lines)
