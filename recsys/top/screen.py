"""Screen: the figures of a server, drawn for a terminal of any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from recsys.top.figures import Figures, MethodFigures, ReleaseRow

_WARN, _ALARM, _QUIET = "yellow", "bold red", "dim"
_DRIFT_WARN, _DRIFT_ALARM = 0.1, 0.25
_WIDE = 72
"""Width from which on lines have their less important parts."""


@dataclass(frozen=True)
class _Column:
    """A column of a table: the narrower the screen, the fewer there are.

    Attributes:
        title: its head.
        from_width: least width of the screen that it is shown at.
        cell: a row's text.
        right: numbers are flush right.
    """

    title: str
    from_width: int
    cell: Callable[[object], Text]
    right: bool = True


def screen(figures: Figures, *, width: int, source: str, away: str = "") -> RenderableType:
    """Draw a server.

    Args:
        figures: of it.
        width: columns of the terminal.
        source: where they come from, for the head.
        away: why the server does not answer now; the figures are then the last ones. Empty: it does.
    """
    parts: list[RenderableType] = [_head(figures, width, source)]
    if away:
        parts.append(Text(f"away: {away}; the figures are the last ones", style=_ALARM))
    parts += [Text(""), *_summary(figures, width), Text("")]
    rows: list[object] = list(figures.methods)
    parts.append(_table(_METHODS, rows, width) if rows else Text("no call yet", style=_QUIET))
    if figures.releases:
        parts += [Text(""), _table(_RELEASES, list(figures.releases), width)]
    return Group(*parts)


def amount(value: float) -> str:
    """A number of things in a second, short.

    >>> [amount(value) for value in (0, 0.25, 3.14, 42.0, 1234.5, 12_345_678)]
    ['0', '0.25', '3.1', '42', '1,234', '12.3M']
    """
    if not value:
        return "0"
    if value < 1:
        return f"{value:.2f}"
    if value < 10:
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:.1f}M"


def duration(seconds: float | None) -> str:
    """A time, short.

    >>> [duration(value) for value in (None, 0.000042, 0.0031, 0.042, 1.5)]
    ['-', '42 us', '3.1 ms', '42 ms', '1.5 s']
    """
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms" if seconds < 1e-2 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s"


def share(value: float | None) -> str:
    """A share in percent, short.

    >>> [share(value) for value in (None, 0.0, 0.0004, 0.034, 1.0)]
    ['-', '0%', '0.04%', '3.4%', '100%']
    """
    if value is None:
        return "-"
    percent = 100 * value
    if not percent or percent >= 10:
        return f"{percent:.0f}%"
    return f"{percent:.1f}%" if percent >= 0.1 else f"{percent:.2f}%"


def _head(figures: Figures, width: int, source: str) -> Text:
    text = f"recsys {figures.version}  {source}  last {figures.over_s:.1f} s"
    return Text(text if len(text) <= width else f"recsys {figures.version}", style="bold")


def _summary(figures: Figures, width: int) -> list[Text]:
    """Lines on all methods, the workers and the store."""
    calls = Text("calls    ")
    calls.append(f"{amount(figures.calls_per_s)}/s, {figures.in_flight} in flight, ")
    failed = f"{amount(figures.failed_per_s)}/s fail"
    calls.append(failed, style=_ALARM if figures.failed_per_s else "")
    if width >= _WIDE:
        calls.append(f", {amount(figures.candidates_per_s)} candidates/s")
    workers = Text("workers  ")
    down = figures.workers_serving < figures.workers
    workers.append(f"{figures.workers_serving} of {figures.workers} serve", style=_ALARM if down else "")
    if figures.restarts:
        style = _ALARM if figures.new_restarts else _WARN
        workers.append(f", {figures.restarts} restarted so far", style=style)
    store = Text("store    ")
    store.append(f"{amount(figures.store_per_s)} round trips/s, ")
    store.append(f"p50 {duration(figures.store_p50_s)}, " if width >= _WIDE else "")
    store.append(f"p99 {duration(figures.store_p99_s)}")
    if figures.store_failed_per_s:
        store.append(f", {amount(figures.store_failed_per_s)}/s fail", style=_ALARM)
    if figures.store_skipped_per_s:
        store.append(f", {amount(figures.store_skipped_per_s)}/s skipped", style=_ALARM)
    if figures.memory_share is not None and width >= _WIDE:
        store.append(f", {share(figures.memory_share)} of items in memory")
    lines = [calls, workers, store]
    parts = (figures.degraded_per_s, figures.refused_per_s, figures.early_ends_per_s)
    for title, found in zip(("degraded", "refused ", "no call "), parts, strict=True):
        if found:
            listed = ", ".join(f"{name.replace('_', ' ')} {amount(rate)}/s" for name, rate in sorted(found.items()))
            lines.append(Text(f"{title} {listed}", style=_WARN))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def _table(columns: Sequence[_Column], rows: Sequence[object], width: int) -> Table:
    shown = [column for column in columns if column.from_width <= width]
    table = Table(box=None, pad_edge=False, header_style=_QUIET)
    for column in shown:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(column.cell(row) for column in shown))
    return table


def _of_method(cell: Callable[[MethodFigures], Text | str]) -> Callable[[object], Text]:
    def of(row: object) -> Text:
        assert isinstance(row, MethodFigures)
        return _text(cell(row))

    return of


def _of_release(cell: Callable[[ReleaseRow], Text | str]) -> Callable[[object], Text]:
    def of(row: object) -> Text:
        assert isinstance(row, ReleaseRow)
        return _text(cell(row))

    return of


def _text(cell: Text | str) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def _marked(text: str, value: float | None, warn: float, alarm: float) -> Text:
    style = "" if value is None or value <= warn else _WARN if value <= alarm else _ALARM
    return Text(text, style=style)


_METHODS = (
    _Column("method", 0, _of_method(lambda row: row.method), right=False),
    _Column("calls/s", 0, _of_method(lambda row: amount(row.calls_per_s))),
    _Column("fail/s", 0, _of_method(lambda row: _marked(amount(row.failed_per_s), row.failed_per_s, 0.0, 0.0))),
    _Column("refused/s", 72, _of_method(lambda row: _marked(amount(row.refused_per_s), row.refused_per_s, 0.0, 0.0))),
    _Column("rejected/s", 84, _of_method(lambda row: amount(row.rejected_per_s))),
    _Column("in flight", 60, _of_method(lambda row: str(row.in_flight))),
    _Column("p50", 50, _of_method(lambda row: duration(row.p50_s))),
    _Column("p99", 0, _of_method(lambda row: duration(row.p99_s))),
)
_RELEASES = (
    _Column("release", 0, _of_release(lambda row: row.release), right=False),
    _Column("model", 84, _of_release(lambda row: row.model), right=False),
    _Column("version", 100, _of_release(lambda row: row.version), right=False),
    _Column("role", 60, _of_release(lambda row: row.role), right=False),
    _Column("calls/s", 0, _of_release(lambda row: amount(row.calls_per_s))),
    _Column("fail", 0, _of_release(lambda row: _marked(share(row.failed_share), row.failed_share, 0.0, 0.01))),
    _Column("degr.", 50, _of_release(lambda row: _marked(share(row.degraded_share), row.degraded_share, 0.0, 0.05))),
    _Column("p50", 72, _of_release(lambda row: duration(row.p50_s))),
    _Column("p99", 0, _of_release(lambda row: duration(row.p99_s))),
    _Column("score", 84, _of_release(lambda row: "-" if row.mean_score is None else f"{row.mean_score:.4f}")),
    _Column(
        "drift",
        72,
        _of_release(
            lambda row: _marked("-" if row.drift is None else f"{row.drift:.3f}", row.drift, _DRIFT_WARN, _DRIFT_ALARM)
        ),
    ),
)
