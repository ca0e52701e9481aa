"""Files of events, and the source that reads each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recsys.errors import ConfigError
from recsys.ingest.lines import Kind, LineSource
from recsys.ingest.parquet import ParquetSource
from recsys.ingest.records import Fields
from recsys.ingest.source import Pace, Source

BATCH_EVENTS = 500_000
"""Rows of a Parquet file per batch."""

_LINE_KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_SUFFIXES = (".parquet", *_LINE_KINDS)


def find_event_files(names: Sequence[str]) -> list[Path]:
    """Files as they are, and those of folders in the order of their names; ``-`` stands for standard input.

    Raises:
        ConfigError: one is not there, or of a kind that is not read.
    """
    paths = [path for name in names for path in _expanded(name)]
    for path in paths:
        if path.suffix not in _SUFFIXES and str(path) != "-":
            raise ConfigError(
                f"{path}: kind {path.suffix!r} is not read; allowed: {', '.join(_SUFFIXES)}, or - for standard input"
            )
    return paths


def file_source(path: Path, fields: Fields, *, batch_events: int = BATCH_EVENTS, pace: Pace | None = None) -> Source:
    """Source that reads one of these files."""
    pace = pace or Pace()
    if str(path) == "-":
        return LineSource(sys.stdin.fileno(), fields, kind="jsonl", pace=pace)
    if path.suffix == ".parquet":
        return ParquetSource(path, fields, batch_events=batch_events)
    return LineSource(path, fields, kind=_LINE_KINDS[path.suffix], pace=pace)


def _expanded(name: str) -> list[Path]:
    path = Path(name)
    if name != "-" and not path.exists():
        raise ConfigError(f"{name}: no such file or folder")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if not files:
        raise ConfigError(f"{name}: the folder holds no {', '.join(_SUFFIXES)} file")
    return files
