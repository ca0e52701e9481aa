"""Label rule: ``column operator value`` makes a row a sample, and says which label it has."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError
from recsys.features.columns import NO_LABEL

_EXPRESSION = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*\Z")
_COMPARE = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """``column operator value``: the label of a row is whether that holds; a row without the value has none."""

    column: str
    operator: str
    value: float | str

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {json.dumps(self.value)}"

    def labels(self, values: npt.NDArray[np.float64] | Sequence[str | None]) -> npt.NDArray[np.uint8]:
        """0, 1 or ``NO_LABEL`` of N values: numbers with NaN for none, or texts with None for none; [N].

        >>> parse_label("dwell>=4").labels(np.array([5.0, 3.0, np.nan])).tolist()
        [1, 0, 255]
        """
        compare: Any = _COMPARE[self.operator]
        if isinstance(values, np.ndarray):
            return np.where(np.isnan(values), NO_LABEL, compare(values, self.value)).astype(np.uint8)
        found = (NO_LABEL if value is None else int(compare(value, self.value)) for value in values)
        return np.fromiter(found, dtype=np.uint8, count=len(values))


def parse_label(text: str) -> LabelRule:
    """
    >>> parse_label("rating >= 4")
    LabelRule(column='rating', operator='>=', value=4.0)
    >>> parse_label("action == click").value, parse_label("bought == true").value
    ('click', 1.0)

    Raises:
        ConfigError: no such expression.
    """
    match = _EXPRESSION.match(text)
    if match is None:
        raise ConfigError(
            f"label {text!r}: expected COLUMN OPERATOR VALUE, for example rating>=4; operators: >=, <=, >, <, ==, !="
        )
    column, sign, written = match.groups()
    try:
        value: Any = json.loads(written)
    except ValueError:
        value = written.strip("'")
    if not isinstance(value, int | float | str) or value != value:
        raise ConfigError(f"label {text!r}: {written} is neither a number nor a text")
    return LabelRule(column=column, operator=sign, value=value if isinstance(value, str) else float(value))
