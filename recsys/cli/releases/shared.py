"""Options and words that commands on releases share, and the wait for servers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from recsys.cli.options import notes, output, show_warnings
from recsys.errors import ReleaseError
from recsys.progress import progress
from recsys.releases.following import Follower, followers, shares_text, wait_until_served
from recsys.releases.release import ReleaseFolder, open_release
from recsys.releases.served import Served
from recsys.releases.status import read_statuses

STORE = Path("runs/releases")
_WIDEST = 10_000
"""Characters of a row, at most."""
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="RECSYS_RELEASES", help="Folder of the store of releases.", metavar="FOLDER")
]
ReleaseArgument = Annotated[str, typer.Argument(help="Name of a release, or its beginning.", metavar="RELEASE")]
WhyOption = Annotated[str, typer.Option("--why", help="Reason, for people: served.json keeps it.")]
WaitOption = Annotated[
    float,
    typer.Option(
        "--wait",
        help="Seconds to wait until all servers do what served.json says; fails with the reason if one refuses, or "
        "none is there. 0: not.",
        min=0.0,
        metavar="S",
    ),
]


def wait_for_servers(store: Path, served: Served, wait_s: float) -> list[Follower]:
    """Wait as ``--wait`` says, telling what is waited for; none if it is 0.

    Raises:
        ReleaseError: as :func:`recsys.releases.following.wait_until_served`.
    """
    if not wait_s:
        return []

    def say(line: str) -> None:
        notes.print(f"waiting: {line}", highlight=False, markup=False, soft_wrap=True)

    found = wait_until_served(store, served, timeout_s=wait_s, say=say)
    show_warnings(
        [f"{each.server}: {text}" for each in found if not each.seen.fresh for text in each.differences]
        + [f"{each.server}: {text}" for each in found for text in each.seen.status.warnings]
    )
    return found


def servers_after(
    store: Path, served: Served, wait_s: float, *, as_json: bool
) -> tuple[list[Follower], dict[str, Any], ReleaseError | None]:
    """Wait for servers after a change that was made, whatever becomes of the wait.

    Returns:
        The servers; what ``--json`` says of them; the error of the wait, to be raised when that is printed.

    Raises:
        ReleaseError: as :func:`wait_for_servers`, unless ``as_json``.
    """
    problem = None
    try:
        found = wait_for_servers(store, served, wait_s)
    except ReleaseError as error:
        if not as_json:
            raise
        found, problem = followers(served, read_statuses(store)[0]), error
    values: dict[str, Any] = {"servers": [follower_values(each) for each in found]}
    return found, values | ({"problem": str(problem)} if problem else {}), problem


def open_running(store: Path, served: Served | None, model: str) -> tuple[ReleaseFolder | None, list[str]]:
    """The release that is live under a model's name, and reasons that lie in it: its record cannot be read."""
    if served is None or model not in served.models:
        return None, []
    live = served.models[model].live
    try:
        return open_release(store, live), []
    except ReleaseError as error:
        return None, [f"the running release cannot be read: {error}; nothing is compared with it"]


def served_values(served: Served | None) -> dict[str, Any]:
    """``served.json`` for ``--json``."""
    return {} if served is None else dataclasses.asdict(served)


def follower_values(each: Follower) -> dict[str, Any]:
    """A server for ``--json``."""
    return {
        **dataclasses.asdict(each.seen.status),
        "age_s": round(each.seen.age_s, 1),
        "fresh": each.seen.fresh,
        "ended": each.seen.ended,
        "as_served": not each.differences,
        "differences": list(each.differences),
    }


def uses(served: Served | None) -> Mapping[str, list[str]]:
    """Words on the use of each release that is served, by its name."""
    found: dict[str, list[str]] = {}
    for name, model in {} if served is None else served.models.items():
        found.setdefault(model.live, []).append(f"live as {name}")
        if model.previous:
            found.setdefault(model.previous, []).append(f"previous of {name}")
        for side, shares in (("split", model.split), ("shadow", model.shadow)):
            for release, percent in shares.items():
                found.setdefault(release, []).append(f"{side} of {name}, {percent:g} %")
    return found


def print_models(served: Served) -> None:
    """A table of what is served."""
    table = Table("model", "live", "previous", "split", "shadow", box=None, pad_edge=False)
    for name, model in served.models.items():
        mark = " (default)" if name == served.default and len(served.models) > 1 else ""
        table.add_row(
            escape(name + mark),
            model.live,
            model.previous or "none",
            shares_text(model.split),
            shares_text(model.shadow),
        )
    print_table(table)


def print_table(table: Table) -> None:
    """A table at its full width, one line a row: names that are cut short look the same, and cannot be copied."""
    table.width = Measurement.get(output, output.options.update(width=_WIDEST), table).maximum
    output.print(table, crop=False, no_wrap=True)


def in_spite_of(why: str, refusals: Sequence[str]) -> str:
    """The reason that ``served.json`` keeps of a change that was made although something was against it."""
    return f"{why} (in spite of: {' | '.join(refusals)})"


def changed_text(served: Served) -> str:
    """Words on the last change of ``served.json``."""
    by = f" by {served.by}" if served.by else ""
    at = f" at {served.at}" if served.at else ""
    why, spite, refusals = served.why.partition(" (in spite of: ")
    if spite:
        why += f" (in spite of {refusals.count(' | ') + 1} refusals, which served.json has)"
    return f"revision {served.revision}{by}{at}" + (f": {why}" if why else "")


def release_line(folder: ReleaseFolder) -> str:
    """Words on who pushed a release, and when."""
    release = folder.release
    return f"number {release.number}, pushed by {release.by or 'somebody'} at {release.at or 'an unknown time'}"


@contextmanager
def byte_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress in megabytes; the callback takes the bytes so far and in all."""
    with progress(notes, f"{what}, MB") as work:
        yield lambda done, total: work.count(done // 1_000_000, -(-total // 1_000_000))


def size_text(size_bytes: int) -> str:
    """A size to read.

    >>> size_text(1_234_000), size_text(12_300), size_text(5)
    ('1.2 MB', '12.3 KB', '5 bytes')
    """
    for unit, name in ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "KB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.1f} {name}"
    return f"{size_bytes} bytes"
