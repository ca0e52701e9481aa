"""Rejected rows: which file and row, which field and value, what is allowed; counted by reason."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from recsys.errors import DataFileError, InvalidInputError
from recsys.features.values import RefusedValueError
from recsys.files import writing

COMMONEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A row that is not taken.

    Attributes:
        file: or stream, or topic.
        row: its number in the file, from 1; a CSV header is no row. In a stream the entry's id.
        error: why.
        record: the row, as it came.
    """

    file: str
    row: int | str
    error: InvalidInputError
    record: Any

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}: {self.error}"

    def json(self, **more: Any) -> str:
        """One line of JSON: ``file``, ``row``, ``field``, ``value``, ``allowed``, ``reason`` and ``record``."""
        refused = self.error if isinstance(self.error, RefusedValueError) else None
        letter: Mapping[str, Any] = {
            "file": self.file,
            "row": self.row,
            "field": refused.field if refused else None,
            "value": refused.value if refused else None,
            "allowed": refused.allowed if refused else None,
            "reason": str(self.error),
            **more,
            "record": self.record,
        }
        # Lone surrogates, which JSON may hold and UTF-8 may not, stay escaped.
        return json.dumps(letter, default=str)


@dataclass(slots=True)
class RejectCounts:
    """Number of rejected rows, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All of them."""
        return self.reasons.total()

    def add(self, rejection: Rejection) -> None:
        """Count one."""
        reason = kind_of(rejection.error)
        self.reasons[reason] += 1
        self.first.setdefault(reason, str(rejection))

    def lines(self) -> list[str]:
        """The three commonest reasons, each with how many rows it has and the first of them."""
        common = self.reasons.most_common(COMMONEST)
        found = [f"{count:,} x {reason}; first: {self.first[reason]}" for reason, count in common]
        rest = self.total - sum(count for _, count in common)
        return [*found, f"{rest:,} for other reasons"] if rest else found


def kind_of(error: InvalidInputError) -> str:
    """Reason without the value, so that rows with the same fault count together."""
    if isinstance(error, RefusedValueError):
        if error.value is None:
            return str(error)
        return f"{error.field!r}: allowed: {error.allowed.partition(';')[0]}"
    return str(error).partition(":")[0]


class RejectFile:
    """JSON lines of rejected rows; the file is made with the first.

    Args:
        path: of the file; an existing one is written anew.
        strict: the first rejection is an error instead.
    """

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        self.path = path
        if path.is_file():
            path.unlink()  # of an earlier run
        self.counts = RejectCounts()
        self._strict = strict
        self._file: IO[str] | None = None

    def add(self, rejection: Rejection) -> None:
        """Set a row aside.

        Raises:
            DataFileError: if strict.
        """
        if self._strict:
            raise DataFileError(f"{rejection} (--strict: the first row that does not fit ends it)")
        self.counts.add(rejection)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")
        with writing(self.path):
            self._file.write(rejection.json(time_ms=time.time_ns() // 1_000_000) + "\n")

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            with writing(self.path):
                self._file.close()
