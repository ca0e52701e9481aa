"""`recsys results`: the tables of results, made from recorded runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.options import notes, output
from recsys.errors import ConfigError

app = typer.Typer(no_args_is_help=False, invoke_without_command=True, rich_markup_mode="markdown")
DocsOption = Annotated[Path, typer.Option("--docs", help="Folder with results.md and the records in results/.")]


@app.callback()
def results(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if the page is not as the runs say.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each row as one line of JSON; write nothing.")] = False,
    docs: DocsOption = Path("docs"),
) -> None:
    """Rewrite the tables and pictures of docs/results.md from the recorded runs."""
    if context.invoked_subcommand is not None:
        return
    from recsys.results.page import RECORDS, stale, update
    from recsys.results.records import read_all
    from recsys.results.rows import ROWS, TABLES
    from recsys.results.tables import row_json

    if as_json and check:
        raise ConfigError("--check and --json are two different things; allowed: one of them")
    if as_json:
        runs = read_all(docs / RECORDS, ROWS)
        tables = {table.name: table for table in TABLES}
        for row in ROWS:
            print(json.dumps(row_json(row, tables[row.table], runs[row.name])))
    elif check:
        found = stale(docs)
        for file in found:
            notes.print(f"{file} is not as the recorded runs say; `recsys results` writes it", highlight=False)
        if found:
            raise typer.Exit(1)
    else:
        for file in update(docs) or ["nothing to write"]:
            output.print(file, highlight=False)


@app.command("add")
def add_run(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    row: Annotated[
        str | None, typer.Option("--row", help="Row it belongs to. Default: by recipe and overrides.")
    ] = None,
    docs: DocsOption = Path("docs"),
) -> None:
    """Record a finished run under its row, replacing the one of the same seed."""
    from recsys.results.page import RECORDS, read_page
    from recsys.results.records import add
    from recsys.results.rows import ROWS

    read_page(docs)  # or the record would be written where no page is
    file = add(run_dir, ROWS, docs / RECORDS, row=row)
    output.print(f"{file}; now: recsys results", highlight=False, soft_wrap=True)
