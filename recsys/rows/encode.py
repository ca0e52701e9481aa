"""Files to encoded rows: what does not fit is set aside, what is met on the way is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.features.values import RefusedValueError
from recsys.rows.contract import TIMESTAMP, EncodedRows, RowContract
from recsys.rows.fields import as_it_came
from recsys.rows.files import RawFile
from recsys.rows.read import BATCH_ROWS, RawRows, read_rows
from recsys.rows.rejects import Rejection

Texts = Mapping[str, tuple[Int64Array, Sequence[str]]]
"""Name of a feature with text ids -> keys, and the text of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Calls for what is met while rows are read.

    Attributes:
        rejected: a row that does not fit.
        unended: path of a file whose last line has no end yet, and was left.
        texts: texts of ids.
        rows: encoded columns of rows that fit, and how many were read for them.
    """

    rejected: Callable[[Rejection], None]
    unended: Callable[[str], None] = lambda path: None
    texts: Callable[[Texts], None] = lambda texts: None
    rows: Callable[[Mapping[str, npt.NDArray[Any]], int], None] = lambda columns, read: None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """Everything about reading that does not change from file to file; can be sent to another process.

    Attributes:
        contract: what a row is.
        complete: whether last lines without an end are whole.
        known: name of an id -> the keys that rows may have, sorted, and what to say about others.
        until_ms: rows of events from then on are left: they are of a later day. None: all are read.
        batch_rows: rows of a Parquet file at a time.
    """

    contract: RowContract
    complete: bool = False
    known: Mapping[str, tuple[Int64Array, str]] = field(default_factory=dict)
    until_ms: int | None = None
    batch_rows: int = BATCH_ROWS

    def read(self, file: RawFile, told: Told) -> Iterator[tuple[dict[str, npt.NDArray[Any]], Int64Array]]:
        """Encoded columns, and the numbers in the file of their rows; batch by batch."""
        raw_batches = read_rows(
            file, self.contract, complete=self.complete, unended=told.unended, batch_rows=self.batch_rows
        )
        for raw in raw_batches:
            for number, text, error in raw.malformed:
                told.rejected(Rejection(file=raw.file, row=number, error=error, record=text))
            encoded = self._until(self.contract.encode(raw.columns, raw.length))
            columns, kept = self._of_the_known(raw, encoded, told)
            for place in sorted(encoded.refused):
                told.rejected(
                    Rejection(
                        file=raw.file,
                        row=int(raw.numbers[place]),
                        error=encoded.refused[place],
                        record=raw.record(place),
                    )
                )
            if encoded.texts:
                told.texts(encoded.texts)
            told.rows(columns, raw.length + len(raw.malformed))
            yield columns, raw.numbers[kept]

    def _until(self, encoded: EncodedRows) -> EncodedRows:
        """Rows that fit, without those of a later day."""
        if self.until_ms is None or (early := encoded.columns[TIMESTAMP] < self.until_ms).all():
            return encoded
        columns = {name: column[early] for name, column in encoded.columns.items()}
        return replace(encoded, columns=columns, kept=encoded.kept[early])

    def _of_the_known(
        self, raw: RawRows, encoded: EncodedRows, told: Told
    ) -> tuple[dict[str, npt.NDArray[Any]], Int64Array]:
        """Of the rows that fit those of known ids."""
        fits = np.ones(len(encoded.kept), dtype=np.bool_)
        for name, (keys, allowed) in self.known.items():
            unknown = ~np.isin(encoded.columns[name], keys)
            for place in encoded.kept[unknown & fits].tolist():
                record = raw.record(place)
                value = record.get(name) if isinstance(record, dict) else as_it_came(raw.columns[name][place])
                encoded.refused[place] = RefusedValueError(name, value, allowed)
            fits &= ~unknown
        if fits.all():
            return encoded.columns, encoded.kept
        return {name: column[fits] for name, column in encoded.columns.items()}, encoded.kept[fits]
