"""Needs of a deployment: memory, Redis, ranker cores, network, training hours, disk, and what breaks first.

Nothing is measured here. Each constant is a recorded figure of ``results/*.jsonl``, by name; one that is missing
ends the run with its name. A deployment's size is given by arguments; several numbers of users stand side by side.
Each amount is the one to plan with, and its range where recorded figures have one or only bounds are known. The parts
are in ``sizing/``, and ``docs/operate/scaling.md`` has the answer for three sizes.

    python benchmarks/capacity.py
    python benchmarks/capacity.py --users 2M --events-per-user 200 --recent 50 --format int8 --rank-per-s 5000
    python benchmarks/capacity.py --json | grep ranker_cores
    python benchmarks/capacity.py --results my-results --png capacity.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.common import RESULTS, emit
from sizing.deployment import ARGUMENTS, COMPUTES, FORMATS, Deployment, deployment, number, option
from sizing.recorded import MissingFigureError, read_recorded

USERS = ("1M", "50M", "200M")
OF_EACH = ("users", "ids", "items", "rank_per_s")
"""One number, or one for each number of users."""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, argument in ARGUMENTS.items():
        usual = getattr(Deployment, name, None)
        default = (
            f"default {usual:,g}" if usual is not None else f"default {' '.join(USERS)}" if name == "users" else ""
        )
        about = f"{argument.meaning} [{argument.unit}; {argument.low:,.15g} to {argument.high:,.15g}"
        about += f"; {default}]" if default else "]"
        options.add_argument(
            option(name), metavar="N", nargs="+" if name in OF_EACH else None, help=about.replace("%", "%%")
        )
    options.add_argument("--format", metavar="KIND", help=f"of the served tables: {', '.join(FORMATS)} [default fp32]")
    options.add_argument("--compute", metavar="KIND", help=f"products: {', '.join(COMPUTES)} [default float32]")
    options.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FOLDER", help="recorded figures [default: results/]"
    )
    output = options.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="a JSON line for each figure and size")
    output.add_argument("--markdown", action="store_true", help="as in docs/operate/scaling.md")
    options.add_argument("--png", type=Path, metavar="FILE", help="draw it, too")
    options.add_argument("--quick", action="store_true", help="the same: nothing is measured")
    return options


def sizes_of(given: argparse.Namespace) -> tuple[list[Deployment], dict[str, float | str]]:
    """The sizes asked for, and the numbers that were given for all of them.

    Raises:
        ValueError: a number is none, or not allowed; the argument is named.
    """
    numbers: dict[str, float | str] = {
        name: _number(name, getattr(given, name))
        for name in ARGUMENTS
        if name not in OF_EACH and getattr(given, name) is not None
    }
    numbers |= {name: getattr(given, name) for name in ("format", "compute") if getattr(given, name) is not None}
    users = [_number("users", text) for text in given.users or USERS]
    of_each: list[dict[str, float | str]] = [dict(numbers) for _ in users]
    for name in OF_EACH[1:]:
        texts = getattr(given, name) or []
        if len(texts) not in (0, 1, len(users)):
            raise ValueError(
                f"{option(name)}: {len(texts)} numbers for {len(users)} of --users; allowed: one, or as many"
            )
        for i, one in enumerate(of_each if texts else []):
            one[name] = _number(name, texts[i % len(texts)])
    return [deployment(count, own) for count, own in zip(users, of_each, strict=True)], numbers


def _number(name: str, text: str) -> float:
    try:
        return number(text)
    except ValueError as error:
        raise ValueError(f"{option(name)}: {error}") from None


def run() -> None:
    """Read the arguments, print the plan."""
    from sizing import pages

    options = arguments()
    given = options.parse_args()
    try:
        sizes, numbers = sizes_of(given)
        recorded = read_recorded(given.results)
    except MissingFigureError as error:
        sys.exit(str(error))
    except ValueError as error:
        options.error(str(error))
    if given.json:
        for size in sizes:
            for line in pages.json_lines(size, recorded):
                emit(line)
    else:
        print(pages.markdown(sizes, recorded) if given.markdown else pages.text(sizes, recorded))
    if given.png:
        from sizing.picture import draw

        draw(sizes, recorded, given.png)


if __name__ == "__main__":
    run()
