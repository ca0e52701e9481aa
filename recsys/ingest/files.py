"""Files of events, and the source that reads each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recsys.errors import DataFileError
from recsys.ingest.lines import LineSource
from recsys.ingest.parquet import ParquetSource
from recsys.ingest.source import Pace, Source
from recsys.rows.contract import RowContract
from recsys.rows.files import RawFile, find_files

BATCH_EVENTS = 500_000
"""Rows of a Parquet file per batch."""

STANDARD_INPUT = "-"


def find_event_files(names: Sequence[str]) -> tuple[list[RawFile | None], list[str]]:
    """Files, and those of folders and patterns in the order of their names; None for ``-``, standard input.

    Returns:
        the files, and what patterns matched, in words.

    Raises:
        DataFileError: one is not there, or of a format that is not read.
    """
    files: list[RawFile | None] = []
    matched: list[str] = []
    for name in names:
        if name == STANDARD_INPUT:
            files.append(None)
            continue
        found, said = find_files([name])
        files += found
        matched += said
    return files, matched


def file_source(
    file: RawFile | None,
    contract: RowContract,
    *,
    batch_events: int = BATCH_EVENTS,
    pace: Pace | None = None,
    complete: bool = False,
) -> Source:
    """Source that reads one of these files.

    Args:
        file: None for JSON lines from standard input.
        contract: of an event.
        batch_events: rows of a Parquet file per batch.
        pace: of what comes line by line.
        complete: whether a last line without an end is whole.

    Raises:
        DataFileError: a file that cannot grow is to be followed.
    """
    pace = pace or Pace()
    if file is None:
        return LineSource(sys.stdin.fileno(), contract, pace=pace)
    if pace.follow and not file.may_grow:
        raise DataFileError(f"{file.path}: a Parquet file or a packed one does not grow, so --follow does not read it")
    if file.format == "parquet":
        return ParquetSource(file.path, contract, batch_events=batch_events)
    return LineSource(file, contract, pace=pace, complete=complete)
