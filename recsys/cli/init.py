"""`recsys init`: a look at a log, and the FeatureSet and commands that it suggests."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from recsys.cli.options import JsonOption, notes, output, print_lines
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.data.proposal.propose import Proposal


def init(
    log: Annotated[list[str], typer.Argument(help="Event logs: Parquet, CSV or JSON lines; files, folders or globs.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the FeatureSet. Default: that of the first file or folder.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; other files are put beside it. Default: NAME.json.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="Column of the user's id.")] = None,
    item: Annotated[str | None, typer.Option("--item", help="Column of the item's id.")] = None,
    timestamp: Annotated[str | None, typer.Option("--timestamp", help="Column of the time.")] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Rule that labels a row, like rating>=4; column operator value.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="COLUMN=ROLE",
            help="Role of a column: item, user, context, history or ignored. May be repeated.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier look.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at a log and propose its FeatureSet, with a reason for each guess, and the commands that follow.

    Writes NAME.json, which `recsys prepare --features` takes, NAME.md beside it, which explains it, and, where rows
    of the log have attributes of items or users, NAME.items.jsonl and NAME.users.jsonl. A bounded number of rows
    is looked at; attributes are then held against the whole log. Read the result: it is a draft.
    """
    from recsys.data.proposal.document import commands, looked_at, page, readable_json, shell
    from recsys.data.proposal.propose import Told, propose
    from recsys.features.feature_set import FeatureSet, is_name
    from recsys.files import write_atomically
    from recsys.progress import progress

    named = name or name_of(log[0])
    features = out or Path(f"{named}.json")
    if not is_name(named):
        raise ConfigError(f"--name {named!r}: expected letters (a to z), digits and '_', beginning with a letter")
    if features.suffix != ".json":
        raise ConfigError(f"--out {features}: expected a name that ends with .json")
    beside = {side: features.with_suffix(f".{side}s.jsonl") for side in ("item", "user")}
    written = [features, features.with_suffix(".md"), *beside.values()]
    if not overwrite and (there := [str(path) for path in written if path.exists()]):
        raise ConfigError(f"{', '.join(there)}: exists; --overwrite replaces it, --name or --out writes another")
    told = Told(user=user, item=item, timestamp=timestamp, label=label, roles=dict(map(_as_role, role or [])))
    with progress(notes, "looking") as work:
        proposal = propose(log, named, told, work.count)
    entities = {side: path for side, path in beside.items() if side in proposal.entities}
    text = readable_json(proposal.features)
    assert FeatureSet.from_json(text) == proposal.features
    for stale in set(beside.values()) - set(entities.values()):
        stale.unlink(missing_ok=True)  # of an earlier look
    proposal.write_entities(entities)
    write_atomically(written[1], page(proposal, features, entities).encode())
    write_atomically(features, text.encode())  # last: its presence says that the others are there
    following = [shell(arguments) for arguments in commands(proposal, features, entities)]
    if as_json:
        print(json.dumps(_facts(proposal, features, entities, following)))
        return
    output.print(_table(proposal))
    wrote = [features, written[1], *entities.values()]
    print_lines(
        (
            *proposal.sample.matched,
            "",
            looked_at(proposal),
            f"Samples: {' '.join(proposal.label.options) or 'the column label'}: {proposal.label.reason}.",
            f"Wrote {', '.join(map(str, wrote))}: read {written[1]} before you train. Then:",
            "",
            *(f"    {line}" for line in following),
            "",
            f"{written[1]} has the commands of a second model, which finds candidates among all items of the same log.",
        )
    )


def name_of(path: str) -> str:
    """A FeatureSet's name for a log.

    >>> name_of("logs/Ratings-2026.csv.gz"), name_of("data/"), name_of("2026.csv")
    ('ratings_2026', 'data', 'log_2026')
    """
    stem = Path(path).name.partition(".")[0].lower()
    found = re.sub(r"[^a-z0-9]+", "_", stem).strip("_") or "log"
    return found[:40] if found[0].isalpha() else f"log_{found}"[:40]


def _as_role(text: str) -> tuple[str, str]:
    column, equals, role = text.rpartition("=")
    if not equals:
        raise ConfigError(f"--as {text!r}: expected COLUMN=ROLE")
    return column, role


def _table(proposal: Proposal) -> Table:
    from recsys.data.proposal.document import type_of

    table = Table("column", "role", "type", box=None)
    table.add_column("reason", overflow="fold")
    for one in proposal.roles:
        reason = f"{one.reason}\n  or else: {one.near}" if one.near else one.reason
        table.add_row(*(Text(text) for text in (one.column, one.role, type_of(one), reason)))
    return table


def _facts(proposal: Proposal, features: Path, entities: Mapping[str, Path], following: list[str]) -> dict[str, object]:
    return {
        "features": str(features),
        "entities": {side: str(path) for side, path in entities.items()},
        "columns": [dataclasses.asdict(one) for one in proposal.roles],
        "rows": proposal.sample.rows,
        "files": [str(file.path) for file in proposal.sample.files],
        "refused": proposal.refused,
        "label": dataclasses.asdict(proposal.label),
        "commands": following,
    }
