"""Rules that make samples of a log's rows: the label expression and the splits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.data.column_folder import FolderWriter
from recsys.data.log.arrow_values import NUMBER
from recsys.errors import ConfigError, InvalidInputError, nearest

SPLITS = ("train", "validation", "test")

_EXPRESSION = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*\Z")
_CHUNK = 1 << 20
_TRAIN_SHARE, _VALIDATION_SHARE = 0.8, 0.1


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """``column operator value``: the label of a row is whether that holds; a row without the value has none."""

    column: str
    operator: str
    value: float | str

    def apply(self, table: ir.Table) -> Any:
        """The label as an int8 expression of 0, 1 and null."""
        column: Any = table[self.column]
        if isinstance(self.value, float):
            if column.type().is_string():
                column = ibis.cases((column.re_search(NUMBER), column.cast("float64")))
            else:
                column = column.cast("float64")
        compare = {
            ">=": column.__ge__, "<=": column.__le__, ">": column.__gt__,
            "<": column.__lt__, "==": column.__eq__, "!=": column.__ne__,
        }  # fmt: skip
        return compare[self.operator](self.value).cast("int8")


def parse_label(text: str) -> LabelRule:
    """
    >>> parse_label("rating >= 4")
    LabelRule(column='rating', operator='>=', value=4.0)
    >>> parse_label("action == click").value
    'click'

    Raises:
        ConfigError: no such expression.
    """
    match = _EXPRESSION.match(text)
    if match is None:
        raise ConfigError(
            f"label {text!r}: expected COLUMN OPERATOR VALUE, for example rating>=4; operators: >=, <=, >, <, ==, !="
        )
    column, operator, written = match.groups()
    try:
        value: Any = json.loads(written)
    except ValueError:
        value = written.strip("'")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"label {text!r}: {written} is neither a number nor a text")
    return LabelRule(column=column, operator=operator, value=value if isinstance(value, str) else float(value))


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Rule that says which samples train, validate and test.

    By time: validation from ``validation_from_ms``, test from ``test_from_ms`` on. With neither, validation and test
    are the last two tenths of the time between the first sample and the last. Or ``leave_last``: each user's
    last sample is for test, the one before for validation.
    """

    validation_from_ms: int | None = None
    test_from_ms: int | None = None
    leave_last: bool = False

    def __post_init__(self) -> None:
        validation, test = self.validation_from_ms, self.test_from_ms
        if self.leave_last and (validation is not None or test is not None):
            raise ConfigError("split: leave_last goes without validation_from and test_from")
        if validation is not None and test is not None and validation > test:
            raise ConfigError(
                f"split: validation_from is {validation}, after test_from {test}; allowed: up to test_from"
            )


def write_splits(
    writer: FolderWriter,
    rule: SplitRule,
    *,
    count: int,
    users: Callable[[slice], npt.NDArray[Any]],
    times: Callable[[slice], Int64Array],
) -> dict[str, int]:
    """Add ``split.<name>`` columns, in memory of one chunk; returns how many samples each has.

    Args:
        count: M samples, sorted by (user, time).
        users, times: user index and milliseconds of a slice of the samples.

    Raises:
        InvalidInputError: there is no sample.
    """
    if count == 0:
        raise InvalidInputError("no row has a label, so there are no samples")
    chunks = [slice(begin, min(begin + _CHUNK, count)) for begin in range(0, count, _CHUNK)]
    validation_from, test_from = _times_of(rule, (times(chunk) for chunk in chunks))
    sizes = dict.fromkeys(SPLITS, 0)
    for chunk in chunks:
        if rule.leave_last:
            ahead = users(slice(chunk.start, min(chunk.stop + 2, count)))
            rows = chunk.stop - chunk.start
            ahead = np.concatenate([ahead, np.full(rows + 2 - len(ahead), -1, dtype=ahead.dtype)])
            test = ahead[:rows] != ahead[1 : rows + 1]
            validation = ~test & (ahead[:rows] != ahead[2 : rows + 2])
        else:
            moments = times(chunk)
            test = moments >= test_from
            validation = ~test & (moments >= validation_from)
        for name, chosen in zip(SPLITS, (~test & ~validation, validation, test), strict=True):
            indices = (np.flatnonzero(chosen) + chunk.start).astype(np.int64)
            writer.append(f"split.{name}", indices)
            sizes[name] += len(indices)
    return sizes


def _times_of(rule: SplitRule, chunks: Any) -> tuple[float, float]:
    """From when on samples are for validation, and for test."""
    if rule.validation_from_ms is not None or rule.test_from_ms is not None:
        test = np.inf if rule.test_from_ms is None else rule.test_from_ms
        return test if rule.validation_from_ms is None else rule.validation_from_ms, test
    first, last = np.inf, -np.inf
    for times in chunks:
        first, last = min(first, int(times.min())), max(last, int(times.max()))
    span = last - first
    return first + _TRAIN_SHARE * span, first + (_TRAIN_SHARE + _VALIDATION_SHARE) * span


def check_label_column(rule: LabelRule | None, names: Any, where: str) -> None:
    """Refuse an expression about a column that is not there."""
    if rule is not None and rule.column not in names:
        raise InvalidInputError(f"{where}: the label needs column {rule.column!r}: {nearest(rule.column, names)}")
