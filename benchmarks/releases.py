"""Releases: a new model goes live on a server under load, and is taken back, without a call lost.

``switches``: calls that fail, p99 and memory over many switches between two releases with tables of 1 GB.
``limit``: the same with little more memory than one table. ``rollback``: seconds until all workers are back.
``shared``: bytes that a release with the same table does not store again. ``states``: reads of the store after a
switch of a model with long histories. ``shadow``: p99 of answers while another release scores some requests, too.

The parts are measured one after another; two tables of 1 GB and a third while it is exported need 4 GB of disk.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import Line, machine, main, parser, say

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from releasing.stage import Stage

ON_STAGE = ("switches", "limit", "rollback", "shared")
PARTS = (*ON_STAGE, "states", "shadow")


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines; a part that breaks down is reported at the end, after the others."""
    wanted = [part for part in PARTS if part in (options.only or PARTS)]
    broken = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-bench-", dir=options.folder)))
        for part, measure in stack.enter_context(contextlib.closing(_measures(options.size, folder, wanted))):
            started_s = time.monotonic()
            say(f"part {part}")
            try:
                yield from measure()
            except Exception:  # hours of measurements of the others are not to be lost
                traceback.print_exc()
                broken.append(part)
            say(f"part {part} took {time.monotonic() - started_s:.0f} s")
    if broken:
        raise RuntimeError(f"no figures of {', '.join(broken)}: the errors are above")


def _measures(
    size: str, folder: Path, wanted: list[str]
) -> Generator[tuple[str, Callable[[], Iterator[Line]]], None, None]:
    """The parts in their order; what several of them need is made once, and ends before the parts without it."""
    from releasing import limit, rollback, shadow, shared, stage, states, switches

    on_stage: dict[str, Callable[[Stage, dict[str, Any]], Iterator[Line]]] = {
        "switches": switches.switches,
        "limit": limit.under_limit,
        "rollback": rollback.rollbacks,
        "shared": shared.shared_bytes,
    }
    bundles = folder / "bundles"
    bundles.mkdir()
    if staged := [part for part in wanted if part in on_stage]:
        with contextlib.ExitStack() as own:
            (folder / "stage").mkdir()
            made = own.enter_context(stage.stage(folder / "stage", stage.SIZES[size], bundles=bundles))
            on = machine(stage.LIBRARIES, **asdict(made.size))
            for part in staged:
                yield part, partial(on_stage[part], made, on)
    for part in wanted:
        if part not in on_stage:
            (folder / part).mkdir()
            if part == "states":
                yield part, partial(states.store_reads_after, folder / part, states.SIZES[size], bundles=bundles)
            else:
                yield part, partial(shadow.shadow_cost, folder / part, shadow.SIZES[size], bundles=bundles)


if __name__ == "__main__":
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of {', '.join(PARTS)}")
    options.add_argument("--folder", type=Path, metavar="FOLDER", help="place for 4 GB; default: the system's")
    main("releases", run, options)
