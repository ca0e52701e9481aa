"""``docs/results.md``: the text between ``<!-- table: NAME -->`` and ``<!-- end -->`` is generated, the rest is not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from recsys.errors import DataFileError
from recsys.files import write_atomically
from recsys.plots import Bars, Chart, Dots, Series, write_png
from recsys.results.protocols import TABLES, Table
from recsys.results.records import Recorded, read_all
from recsys.results.rows import ROWS, Row
from recsys.results.tables import Figure, figures, markdown

PAGE = "results.md"
RECORDS = "results"
_PART = re.compile(r"(<!-- table: ([a-z0-9_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def stale(docs: Path, *, tables: Sequence[Table] = TABLES, rows: Sequence[Row] = ROWS) -> list[str]:
    """Differences between ``docs`` and what the recorded runs say; empty: none.

    Args:
        docs: the folder with ``results.md``, and the records in ``results/``.
        tables, rows: what there is.

    Raises:
        DataFileError: the page or a record is missing or malformed.
    """
    runs = read_all(docs / RECORDS, rows)
    text = read_page(docs)
    found = [] if render(text, runs, tables=tables, rows=rows) == text else [str(docs / PAGE)]
    pictures = [docs / RECORDS / f"{table.name}.png" for table in tables if charts(table, rows, runs)]
    return found + [str(picture) for picture in pictures if not picture.exists()]


def update(docs: Path, *, tables: Sequence[Table] = TABLES, rows: Sequence[Row] = ROWS) -> list[str]:
    """Rewrite the generated parts of the page, and the pictures whose runs changed; the files that were written.

    Args:
        docs, tables, rows: as of :func:`stale`.

    Raises:
        DataFileError: as :func:`stale`.
        ConfigError: a file cannot be written.
    """
    runs = read_all(docs / RECORDS, rows)
    text = read_page(docs)
    written = []
    for table in tables:
        drawn, picture = charts(table, rows, runs), docs / RECORDS / f"{table.name}.png"
        if drawn and (not picture.exists() or _mark(drawn) not in text):
            write_png(drawn, picture)
            written.append(str(picture))
    rendered = render(text, runs, tables=tables, rows=rows)
    if rendered != text:
        write_atomically(docs / PAGE, rendered.encode())
        written.append(str(docs / PAGE))
    return written


def render(
    text: str,
    runs: Mapping[str, Sequence[Recorded]],
    *,
    tables: Sequence[Table] = TABLES,
    rows: Sequence[Row] = ROWS,
) -> str:
    """The page with its generated parts as the runs say.

    Raises:
        DataFileError: a table has no place on the page, or a place no table.
    """
    by_name = {table.name: table for table in tables}
    places = [name for _, name, _ in _PART.findall(text)]
    if sorted(places) != sorted(by_name):
        raise DataFileError(
            f"{PAGE}: places for tables {sorted(places)}; expected <!-- table: NAME --> and <!-- end --> once for each "
            f"of {sorted(by_name)}"
        )

    def part(match: re.Match[str]) -> str:
        table = by_name[match[2]]
        picture = _picture(table, charts(table, rows, runs))
        return f"{match[1]}{picture}{markdown(table, _rows(table, rows), runs)}\n{match[3]}"

    return _PART.sub(part, text)


def charts(table: Table, rows: Sequence[Row], runs: Mapping[str, Sequence[Recorded]]) -> list[Chart | Bars | Dots]:
    """The table's picture of its own among all rows; nothing before the first run."""
    rows = _rows(table, rows)
    own = {row.name: figures(row, table, runs[row.name]) for row in rows}
    if not any(own.values()):
        return []
    if table.picture == "lengths":
        return [_lengths(table, rows, own)]
    return [_dots(metric, label, rows, own) for metric, label in table.metrics.items()]


def _dots(metric: str, label: str, rows: Sequence[Row], own: Mapping[str, Mapping[str, Figure]]) -> Dots:
    shown = [row for row in rows if metric in own[row.name] or metric in row.published]
    return Dots(
        title=label,
        labels=[row.model.removesuffix(" (published)").replace("`", "") for row in shown],
        series=[
            Series(
                "ours",
                x=[figure.mean if (figure := own[row.name].get(metric)) else float("nan") for row in shown],
                y=list(range(len(shown))),
                error=[(figure.std or 0.0) if (figure := own[row.name].get(metric)) else 0.0 for row in shown],
            ),
            Series(
                "published", x=[row.published.get(metric, float("nan")) for row in shown], y=list(range(len(shown)))
            ),
        ],
    )


def _lengths(table: Table, rows: Sequence[Row], own: Mapping[str, Mapping[str, Figure]]) -> Chart:
    metric, label = next(iter(table.metrics.items()))
    by_series: dict[str, list[Row]] = {}
    for row in rows:
        if metric in own[row.name]:
            by_series.setdefault(row.series, []).append(row)
    return Chart(
        title=f"{label} by length of the history",
        x_label="events that the model reads",
        y_label=label,
        series=[
            Series(
                name,
                x=[row.length for row in of_series],
                y=[own[row.name][metric].mean for row in of_series],
                error=[own[row.name][metric].std or 0.0 for row in of_series],
            )
            for name, of_series in by_series.items()
        ],
        log_x=True,
    )


def _picture(table: Table, drawn: Sequence[Chart | Bars | Dots]) -> str:
    if not drawn:
        return ""
    labels = " and ".join(table.metrics.values()) if table.picture == "dots" else next(iter(table.metrics.values()))
    return f"![{labels} of each row]({RECORDS}/{table.name}.png)\n{_mark(drawn)}\n\n"


def _mark(drawn: Sequence[Chart | Bars | Dots]) -> str:
    """Changes when the picture does: it is how a stale one is found."""
    return f"<!-- drawn from {hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]} -->"


def _rows(table: Table, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.table == table.name]


def read_page(docs: Path) -> str:
    """The page's text.

    Raises:
        DataFileError: it is not there.
    """
    try:
        return (docs / PAGE).read_text()
    except FileNotFoundError:
        raise DataFileError(
            f"{docs / PAGE} is missing; run this in the repository, or name its docs with --docs"
        ) from None
