"""`recsys release prune`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from recsys.cli.options import JsonOption, print_lines
from recsys.cli.releases.shared import STORE, StoreOption, size_text
from recsys.releases.prune import KEEP
from recsys.releases.prune import prune as prune_store


def prune(
    store: StoreOption = STORE,
    keep: Annotated[int, typer.Option("--keep", help="The newest releases that stay in any case.", min=1)] = KEEP,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete releases that nothing needs, and the files that only they had.

    What served.json names stays, what a server has loaded, and the newest. Files of old servers' states go, too.
    """
    pruned = prune_store(store, keep=keep, dry_run=dry_run)
    if as_json:
        print(json.dumps({"store": str(store), "dry_run": dry_run, **dataclasses.asdict(pruned)}))
        return
    would = "would delete" if dry_run else "deleted"
    print_lines(f"{would} {name}" for name in pruned.removed)
    print_lines(f"{would} the status of {server}, which is gone" for server in pruned.servers)
    print_lines(f"kept {name}: {reason}" for name, reason in pruned.kept.items())
    print_lines(
        [
            f"{len(pruned.removed)} releases of {len(pruned.removed) + len(pruned.kept)}, "
            f"{size_text(pruned.freed_bytes)} {'to be freed' if dry_run else 'freed'}"
        ]
    )
