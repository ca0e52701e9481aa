"""The way in: from a log of one's own to a model that learnt from it what it holds, and to a bundle to serve.

``rows_agreeing``: every way in gives one verdict on each odd row.
``first_list_lines``: commands that lead from a CSV to a ranked list.
``numeric_auc_kept``: numbers as they come, a price in cents, are learnt from as if they had been standardised by hand.
``export_s_22``, ``export_s_202``: seconds of `recsys export` for a run with so many features.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from entry.export import export_seconds
from entry.first_list import first_list_lines
from entry.numbers import numeric_auc_kept
from entry.rows import rows_agreeing
from harness import common


def run(given: argparse.Namespace) -> Iterator[common.Line]:
    with tempfile.TemporaryDirectory(prefix="way-in-") as name:
        yield from rows_agreeing(Path(name))
        yield from first_list_lines(given.size, Path(name))
        yield from numeric_auc_kept(given.size, Path(name))
        yield from export_seconds(given.size, Path(name))


if __name__ == "__main__":
    common.main("way_in", run, common.parser(__doc__ or ""))
