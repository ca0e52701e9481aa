"""A page of what a pipeline did: one file, without scripts, and without anything from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from recsys.plots import Chart, Series, svg_chart

_MOST_DAYS = 60

_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .5em 0 1.5em } td, th { padding: .15em .8em .15em 0; text-align: left }
th { border-bottom: 1px solid #aaa; font-weight: 600 } td.n { text-align: right; font-variant-numeric: tabular-nums }
td { vertical-align: top } td.n, td:first-child { white-space: nowrap }
.bad { color: #a40000; font-weight: 600 } .good { color: #006a4e; font-weight: 600 } .dim { color: #666 }
.charts { display: flex; flex-wrap: wrap; gap: 1em } .charts svg { width: 560px; max-width: 100% }
"""

_VERDICTS = (
    "within: not worse by more than the margin; noise: worse by more, but too few samples to be sure; small: too few "
    "to decide anything; worse and missing refuse the model"
)
_STATUS = {"promoted": "good", "ready": "good", "nothing": "dim", "refused": "bad", "failed": "bad", "begun": "dim"}


def page(report: Mapping[str, Any]) -> str:
    """The page of a report (``report.py``), as HTML."""
    ran, days = report["ran"], report["days"][-_MOST_DAYS:]
    name = escape(report["pipeline"])
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{name}: pipeline</title><style>{_STYLE}</style></head><body>",
        f"<h1>{name}</h1>",
        _ran(ran),
        '<h2>Days</h2><div class="charts">',
        *(svg_chart(chart, [str(day["day"])[5:] for day in days]) for chart in _charts(days)),
        "</div>",
        _days(days),
        _comparison(report["comparison"]),
        _steps(ran),
        *(f'<p class="bad">{escape(line)}</p>' for line in report["damaged"]),
        "</body></html>\n",
    ]
    return "".join(parts)


def _ran(ran: Mapping[str, Any]) -> str:
    status = ran["status"]
    lines = [
        f'<p>{escape(ran["day"])}, until {escape(ran["until"])}: <span class="{_STATUS[status]}">{status}</span> '
        f'{escape(ran["release"])} <span class="dim">{escape(ran["at"])}</span></p>'
    ]
    if ran["why"]:
        lines.append(f"<p>Training: {escape(ran['mode'])}, {escape(ran['why'])}.</p>")
    if ran["retrieval"]["why"]:
        lines.append(f"<p>Retrieval: {escape(ran['retrieval']['why'])}.</p>")
    for what, words in (("Reasons", ran["reasons"]), ("To be known", ran["notes"])):
        if words:
            lines.append(f"<h3>{what}</h3><ul>{''.join(f'<li>{escape(line)}</li>' for line in words)}</ul>")
    return "".join(lines)


def _charts(days: Sequence[Mapping[str, Any]]) -> list[Chart]:
    places = list(range(len(days)))

    def figures(metric: str) -> list[Series]:
        found = []
        for whose, shown in (("candidate", "the day's model"), ("served", "served before")):
            values = [_number(day["metrics"].get(whose, {}).get(metric)) for day in days]
            errors = [1.96 * (day["standard_errors"].get(whose, {}).get(metric) or 0.0) for day in days]
            found.append(Series(shown, places, values, error=errors))
        return found

    def rows(kind: str) -> Series:
        return Series(kind.replace("_", " "), places, [_number(day["rows"][kind]) for day in days])

    drift = [Series("PSI of items", places, [_number(day["drift"]["drift"]) for day in days])]
    shares = [
        Series(shown, places, [_number(day["drift"][name]) for day in days])
        for name, shown in (("new_users", "events of new users"), ("new_items", "events of new items"))
    ]
    positives = Series("positive labels, trained on", places, [_number(day["positives"]) for day in days])
    lists = [Chart("Recall of retrieval, 95 % intervals", "day", "recall", figures("recall"))]
    retrieves = any("recall" in of for day in days for of in day["metrics"].values())
    return [
        Chart("AUC of the held-out samples, 95 % intervals", "day", "AUC", figures("auc")),
        Chart("Log loss of the held-out samples, 95 % intervals", "day", "log loss", figures("log_loss")),
        *(lists if retrieves else []),
        Chart("Drift of the new events; above 0.25 it is another distribution", "day", "PSI", drift),
        Chart("Shares of the new events, and of positives", "day", "share", [*shares, positives]),
        Chart("Rows", "day", "rows", [rows(kind) for kind in ("new_events", "trained", "held_out")]),
    ]


def _days(days: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for day in reversed(days):
        metrics = day["metrics"]
        values = [metrics.get(whose, {}).get("auc") for whose in ("candidate", "served")]
        seconds = sum(step["seconds"] for step in day["steps"].values())
        rows.append(
            [
                escape(day["day"]),
                f'<span class="{_STATUS[day["status"]]}">{day["status"]}</span>',
                escape(day["mode"]),
                escape(day["retrieval"]["mode"] or ""),
                escape(day["release"]),
                *(_shown(value) for value in values),
                *(_count(day["rows"][kind]) for kind in ("new_events", "trained", "held_out")),
                f"{seconds / 60:.1f}",
                escape("; ".join(day["reasons"])),
            ]
        )
    titles = "day,ended,training,retrieval,release,AUC,served before,new events,trained on,held out,minutes,why"
    return _table(titles.split(","), rows, numbers=range(5, 11))


def _comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    shown = []
    for row in rows:
        error = row["standard_error"]
        pair = (row["running"], row["candidate"])
        difference = "" if None in pair else f"{pair[1] - pair[0]:+.4f}"
        bad = ' class="bad"' if row["verdict"] in ("worse", "missing") else ""
        shown.append(
            [
                escape(row["segment"] or "all samples"),
                escape(row["metric"]),
                *map(_shown, pair),
                difference,
                "" if error is None else f"{error:.4f}",
                f"{row['samples']:,}",
                f"<span{bad}>{escape(row['verdict'])}</span> {escape(row['why'])}",
            ]
        )
    titles = ["segment", "metric", "served", "new", "difference", "standard error", "samples", "verdict"]
    return f"<h2>The day's model beside the served one</h2><p class='dim'>{_VERDICTS}</p>" + _table(
        titles, shown, numbers=range(2, 7)
    )


def _steps(ran: Mapping[str, Any]) -> str:
    rows = [
        [escape(name), escape(step["at"]), f"{step['seconds']:.1f}", f'<code class="dim">{escape(step["key"])}</code>']
        for name, step in ran["steps"].items()
    ]
    return "<h2>Steps</h2>" + _table(["step", "taken", "seconds", "key"], rows, numbers=(2,))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int]) -> str:
    right = set(numbers)
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="n">{cell}</td>' if n in right else f"<td>{cell}</td>" for n, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
