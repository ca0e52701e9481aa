"""`recsys pipeline`: the daily loop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys.cli.options import JsonOption, notes, print_lines, redis_url_given

if TYPE_CHECKING:
    from recsys.pipeline.state import DayState

REFUSED = 3
"""Exit code of a day whose model is not promoted."""


def pipeline(
    settings: Annotated[Path, typer.Argument(help="TOML file of the pipeline.", metavar="SHOP.toml")],
    day: Annotated[
        str | None, typer.Option("--day", help="The day, 2026-11-29, in the zone of the file. Default: yesterday.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="End of the new events instead of a day's: 2026-11-29T12:00.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train from scratch.")] = False,
    new_store: Annotated[
        bool, typer.Option("--new-store", help="The store of releases may be empty, though there were promotions.")
    ] = False,
    redis_url: Annotated[
        str | None,
        typer.Option(
            "--redis-url",
            envvar="REDIS_URL",
            callback=redis_url_given,
            help="The feature store's Redis, in which states of long histories are precomputed.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why; change nothing.")] = False,
    init: Annotated[
        bool, typer.Option("--init", help="Write an example of the file, with every key, and stop.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """New events to a release that is served: prepare, train, export, compare, precompute states, push, promote.

    Steps that were taken with the same inputs are not taken again: a run that was killed goes on. A day whose model is
    refused promotes nothing, says why, and ends with exit code 3. The page is index.html in the pipeline's folder.
    """
    if init:
        from recsys.pipeline.example import write_example

        write_example(settings)
        print_lines([f"{settings}: every key with its default; then: recsys pipeline {settings} --dry-run"])
        return
    from recsys.pipeline.days import day_of
    from recsys.pipeline.loop import run_day
    from recsys.pipeline.report import PAGE, day_facts
    from recsys.pipeline.settings import read_settings

    def say(line: str) -> None:
        notes.print(line, highlight=False, markup=False, soft_wrap=True)

    read = read_settings(settings)
    wanted = day_of(day, until, zone=read.zone, now_ms=time.time_ns() // 1_000_000)
    say(f"{read.name}: {wanted.name}")
    done = run_day(read, wanted, redis_url=redis_url, full=full, new_store=new_store, dry=dry_run, say=say)
    state = done.state
    if as_json:
        facts = {
            **day_facts(state),
            "taken": list(done.taken),
            "would": done.would,
            "after": list(done.after),
            "dry_run": dry_run,
        }
        print(json.dumps(facts))
    elif dry_run:
        after = f"; then what depends on it: {', '.join(done.after)}" if done.after else ""
        print_lines([f"would run: {done.would}{after}" if done.would else _ended(state)])
    else:
        print_lines([_ended(state), f"page: {Path(read.folder) / PAGE}"])
    if state.status == "refused" and not done.would:
        raise typer.Exit(REFUSED)


def _ended(state: DayState) -> str:
    """Words on how a day ended."""
    words = {
        "promoted": f"{state.release} is promoted",
        "ready": "pushed, and not promoted",
        "nothing": "nothing to do",
        "refused": "nothing was promoted",
    }
    why = f": {'; '.join(state.reasons)}" if state.reasons else ""
    return f"{state.day}: {words.get(state.status, state.status)}{why}"
