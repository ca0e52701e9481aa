"""`recsys release push`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.options import JsonOption, output, print_lines, show_warnings
from recsys.cli.releases.shared import STORE, StoreOption, byte_progress, release_line, size_text
from recsys.errors import ConfigError


def push(
    bundle: Annotated[
        Path, typer.Argument(help="Folder of a ranking bundle, or of a retrieval bundle to be a release alone.")
    ],
    retrieval: Annotated[
        Path | None, typer.Option("--retrieval", help="Folder of the retrieval bundle that belongs to it.")
    ] = None,
    store: StoreOption = STORE,
    note: Annotated[str, typer.Option("--note", help="Text for people, kept with the release.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Push bundles to a store as one release: whole or not at all, verified, files that are the same stored once.

    Nothing is served by it yet: `recsys release promote` makes a release live. The same bundles again are the same
    release; it is looked through, and files of the store that were altered are repaired.
    """
    from recsys.bundle import read_manifest
    from recsys.releases.push import push as push_bundles
    from recsys.releases.release import RELEASES, ReleaseFolder

    ranking: Path | None = bundle
    if read_manifest(bundle).kind == "retrieval":
        if retrieval is not None:
            raise ConfigError(
                f"{bundle} is a retrieval bundle, and so is to be --retrieval {retrieval}; a release has a ranking "
                "bundle, a retrieval bundle, or one of each"
            )
        ranking, retrieval = None, bundle
    with byte_progress("pushing") as report:
        pushed = push_bundles(store, ranking=ranking, retrieval=retrieval, note=note, progress=report)
    release = pushed.release
    notes = [f"{name}: no manifest lists it; it was not pushed" for name in pushed.left_out]
    if pushed.copied_because:
        notes.append(
            f"files are not shared with other releases, but copied: no hard link could be made "
            f"({pushed.copied_because})"
        )
    if note and not pushed.new and note != release.note:
        notes.append(f"the release was there: its note stays {release.note!r}")
    show_warnings([*(f"{path} had been altered or lost, and was repaired" for path in pushed.repaired), *notes])
    if as_json:
        print(json.dumps({"store": str(store), **dataclasses.asdict(pushed)}))
        return
    if pushed.new:
        print_lines(
            [
                f"pushed {release.name}: number {release.number}, {size_text(pushed.stored_bytes)} stored, "
                f"{size_text(pushed.shared_bytes)} shared with other releases"
            ]
        )
    else:
        folder = ReleaseFolder(path=store / RELEASES / release.name, release=release)
        print_lines([f"{release.name} is there already: the same bundles ({release_line(folder)}); looked through"])
    output.print(f"\nNext: recsys release promote {release.name}{_where(store)}", highlight=False, soft_wrap=True)


def _where(store: Path) -> str:
    return "" if store == STORE else f" --store {store}"
