"""Generate ``deploy/monitoring/dashboard.json``: ``python scripts/generate_dashboard.py``.

A panel is a line of ``ROWS``. ``tests/e2e/test_monitoring.py`` runs every query against a real Prometheus, and fails
when the file is not what this writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).resolve().parent.parent / "deploy" / "monitoring" / "dashboard.json"

_CHOSEN = 'job=~"$job",instance=~"$instance"'


class Panel(NamedTuple):
    """A panel.

    Attributes:
        title: above it.
        unit: of its values, as Grafana names it.
        queries: legend -> query; ``%`` stands for the chosen job and instance.
        stacked: values are parts of a whole.
    """

    title: str
    unit: str
    queries: dict[str, str]
    stacked: bool = False


def _rate(name: str, labels: str = "") -> str:
    return f"rate(recsys_{name}{{%{',' + labels if labels else ''}}}[$__rate_interval])"


def _quantile(share: float, name: str, by: str, labels: str = "") -> str:
    return f"histogram_quantile({share}, sum by ({by}, le) ({_rate(name + '_bucket', labels)}))"


def _ratio(part: str, whole: str, by: str = "") -> str:
    summed = f"sum by ({by})" if by else "sum"
    return f"{summed} ({part}) / {summed} ({whole})"


_FAULTS = 'code=~"INTERNAL|UNKNOWN|DEADLINE_EXCEEDED|UNAVAILABLE|FAILED_PRECONDITION"'
_METHOD = 'method=~"$method"'
"""Of stages alone: a small and a large call in one figure tell of neither."""
_STAGES = f'{_METHOD},stage!="total"'
_ANSWERED = _rate("release_calls_total", 'outcome="answered"')

ROWS: dict[str, tuple[Panel, ...]] = {
    "Calls": (
        Panel("Calls by method", "reqps", {"{{method}}": f"sum by (method) ({_rate('requests_total')})"}, True),
        Panel(
            "Share that fails, not by the caller's fault",
            "percentunit",
            {"{{method}}": _ratio(_rate("requests_total", _FAULTS), _rate("requests_total"), "method")},
        ),
        Panel("Calls by status", "reqps", {"{{code}}": f"sum by (code) ({_rate('requests_total')})"}, True),
        Panel("p99 by method", "s", {"{{method}}": _quantile(0.99, "call_seconds", "method")}),
        Panel("p50 by method", "s", {"{{method}}": _quantile(0.5, "call_seconds", "method")}),
        Panel("In flight", "short", {"{{method}}": "sum by (method) (recsys_calls_in_flight{%})"}, True),
        Panel("Refused, by reason", "reqps", {"{{reason}}": f"sum by (reason) ({_rate('refused_total')})"}, True),
        Panel(
            "Ended before a handler, by reason",
            "reqps",
            {"{{reason}}": f"sum by (reason) ({_rate('early_ends_total')})"},
        ),
        Panel("Candidates scored", "ops", {"candidates": f"sum ({_rate('candidates_total')})"}),
    ),
    "Where the time goes": (
        Panel("p99 of each stage", "s", {"{{stage}}": _quantile(0.99, "stage_seconds", "stage", _METHOD)}),
        Panel(
            "Calls in each stage, in the mean",
            "short",
            {"{{stage}}": f"sum by (stage) ({_rate('stage_seconds_sum', _STAGES)})"},
            True,
        ),
    ),
    "Store": (
        Panel(
            "Round trips",
            "ops",
            {"{{link}} {{outcome}}": f"sum by (link, outcome) ({_rate('store_round_trips_total')})"},
            True,
        ),
        Panel("p99 of a round trip", "s", {"{{link}}": _quantile(0.99, "store_seconds", "link")}),
        Panel("Degraded answers, by part", "reqps", {"{{part}}": f"sum by (part) ({_rate('degraded_total')})"}, True),
        Panel(
            "Items in memory",
            "percentunit",
            {"items": _ratio(_rate("items_total", 'source="memory"'), _rate("items_total"))},
        ),
        Panel("States of long histories", "ops", {"{{outcome}}": f"sum by (outcome) ({_rate('states_total')})"}),
        Panel(
            "Items that came after training, by outcome",
            "short",
            {"{{outcome}}": "sum by (outcome) (increase(recsys_item_rows_total{%}[$__rate_interval]))"},
        ),
        Panel(
            "Workers behind with such items",
            "short",
            {"{{instance}}": "sum by (instance) (recsys_added_items_behind{%})"},
        ),
        Panel(
            "Warnings about Redis",
            "short",
            {"{{reason}}": "sum by (reason) (increase(recsys_store_warnings_total{%}[$__rate_interval]))"},
        ),
    ),
    "Releases": (
        Panel("Calls by release", "reqps", {"{{release}}": f"sum by (release) ({_rate('release_calls_total')})"}, True),
        Panel(
            "Share that fails, by release",
            "percentunit",
            {
                "{{release}}": _ratio(
                    _rate("release_calls_total", 'outcome="failed"'), _rate("release_calls_total"), "release"
                )
            },
        ),
        Panel(
            "Calls by release, method and status",
            "reqps",
            {"{{release}} {{method}} {{code}}": f"sum by (release, method, code) ({_rate('release_requests_total')})"},
        ),
        Panel("p99 by release", "s", {"{{release}}": _quantile(0.99, "release_seconds", "release")}),
        Panel(
            "Degraded answers, by release and part",
            "percentunit",
            {
                "{{release}} {{part}}": f"sum by (release, part) ({_rate('release_degraded_parts_total')}) "
                f"/ on (release) group_left sum by (release) ({_ANSWERED})"
            },
        ),
        Panel(
            "Mean score",
            "none",
            {"{{release}}": _ratio(_rate("release_score_sum"), _rate("release_score_count"), "release")},
        ),
        Panel(
            "Scores: median and 90th percentile",
            "none",
            {
                "{{release}} p50": _quantile(0.5, "release_scores", "release"),
                "{{release}} p90": _quantile(0.9, "release_scores", "release"),
            },
        ),
        Panel("Drift of scores (PSI)", "none", {"{{release}}": "max by (release) (recsys_release_score_drift{%})"}),
        Panel(
            "Ids that the store does not know",
            "percentunit",
            {
                "{{release}} {{table}}": _ratio(
                    _rate("release_unknown_ids_total"), _rate("release_ids_total"), "release, table"
                )
            },
        ),
        Panel(
            "Values that are missing",
            "percentunit",
            {
                "{{release}} {{table}}": _ratio(
                    _rate("release_missing_features_total"), _rate("release_features_total"), "release, table"
                )
            },
        ),
        Panel(
            "Shadows: difference of scores",
            "none",
            {
                "{{release}}": _ratio(
                    _rate("release_shadow_difference_sum"), _rate("release_shadow_difference_count"), "release"
                )
            },
        ),
        Panel(
            "Shadows: best candidates in common",
            "percentunit",
            {
                "{{release}}": _ratio(
                    _rate("release_shadow_overlap_sum"), _rate("release_shadow_overlap_count"), "release"
                )
            },
        ),
        Panel(
            "Switches",
            "short",
            {"{{outcome}}": "sum by (outcome) (increase(recsys_release_switches_total{%}[$__rate_interval]))"},
        ),
        Panel(
            "In service",
            "short",
            {"{{release}} {{role}}": "count by (model, version, release, role) (recsys_model_info{%})"},
        ),
    ),
    "Processes": (
        Panel(
            "Workers",
            "short",
            {"serve": "sum (recsys_workers_serving{%})", "are to serve": "sum (recsys_workers{%})"},
        ),
        Panel(
            "Workers restarted",
            "short",
            {"{{reason}}": "sum by (reason) (increase(recsys_restarts_total{%}[$__rate_interval]))"},
        ),
        Panel(
            "Days until a certificate ends",
            "d",
            {"{{instance}}": "min by (instance) (recsys_certificate_end_timestamp_seconds{%} - time()) / 86400"},
        ),
        Panel(
            "Changed certificate files",
            "short",
            {"{{outcome}}": "sum by (outcome) (increase(recsys_certificates_total{%}[$__rate_interval]))"},
        ),
        Panel("Spans", "ops", {"{{outcome}}": f"sum by (outcome) ({_rate('spans_total')})"}),
        Panel("Versions", "short", {"{{version}}": "count by (version) (recsys_build_info{%})"}),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "title": "recsys",
        "uid": "recsys",
        "description": "Servers of recsys: calls, stages, store, releases, processes. docs/operate/monitoring.md",
        "tags": ["recsys"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source(), _variable("job"), _variable("instance"), _variable("method")]},
        "panels": list(_panels()),
    }


def dashboard_text() -> str:
    """The text of the file."""
    return json.dumps(dashboard(), indent=1) + "\n"


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row, panels in ROWS.items():
        number += 1
        at = {"h": 1, "w": 24, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": row, "collapsed": False, "gridPos": at, "panels": []}
        top += 1
        for place, panel in enumerate(panels):
            number += 1
            at = {"h": 8, "w": 8, "x": 8 * (place % 3), "y": top + 8 * (place // 3)}
            yield _panel(panel, number, at)
        top += 8 * -(-len(panels) // 3)


def _panel(panel: Panel, number: int, at: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    drawn = {"fillOpacity": 20, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 0}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": drawn}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "legendFormat": legend, "expr": _expression(query)}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _expression(query: str) -> str:
    return query.replace("{%", "{" + _CHOSEN)


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "data source"}


def _variable(label: str) -> dict[str, Any]:
    scope = {
        "job": "recsys_workers",
        "instance": 'recsys_workers{job=~"$job"}',
        "method": 'recsys_stage_seconds_count{job=~"$job"}',
    }[label]
    return {
        "name": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": f"label_values({scope}, {label})", "refId": label},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


if __name__ == "__main__":
    FILE.write_text(dashboard_text())
