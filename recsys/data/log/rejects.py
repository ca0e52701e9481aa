"""Rows that do not fit: an error that names the first, or lines in a file of rejects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from recsys.data.log.raw_files import RawFiles, locate
from recsys.errors import DataFileError, InvalidInputError

Report = Callable[[str, int], None]
"""Called with what is being done and how many rows of it are done."""


class RowGuard:
    """Encodes the rows that fit.

    Args:
        sink: takes the others as JSON lines; without it the first is an error.
        report: progress.

    Attributes:
        rejected: rows that did not fit so far.
    """

    def __init__(self, sink: BinaryIO | None, report: Report) -> None:
        self._sink = sink
        self.report = report
        self.rejected = 0

    def encoded(
        self, batch: pa.RecordBatch, files: RawFiles, encode: Callable[[pa.RecordBatch], Any], what: str
    ) -> list[Any]:
        """``encode`` of the rows that fit; those that do not are few, or end it, so halving finds them."""
        if batch.num_rows == 0:
            return []
        try:
            return [encode(batch)]
        except InvalidInputError as error:
            if batch.num_rows == 1:
                self._refuse(batch, files, error, what)
                return []
        half = batch.num_rows // 2
        first = self.encoded(batch.slice(0, half), files, encode, what)
        return first + self.encoded(batch.slice(half), files, encode, what)

    def _refuse(self, batch: pa.RecordBatch, files: RawFiles, error: InvalidInputError, what: str) -> None:
        reason = str(error).removeprefix("event 0: ").removeprefix("row 0: ")
        row = {name: value for name, value in batch.to_pylist()[0].items() if name in files.types}
        if self._sink is None:
            raise DataFileError(
                f"{locate(files, row)}: {reason}; to go on without such rows, have them written aside: --rejects FILE"
            ) from error
        self.rejected += 1
        line = json.dumps({"from": what, "reason": reason, "row": row}, ensure_ascii=False, default=str)
        self._sink.write(line.encode() + b"\n")
