"""Fields of a row, and the forms in which a column of raw values comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int64Array
from recsys.features.feature_set import Categorical, Feature

FieldKind = Literal["feature", "time", "label", "number", "text"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a row.

    Attributes:
        name: of the encoded column.
        column: of the field in a file, a message or an entry.
        kind: how it is encoded.
        feature: what declares it, of kind ``feature``.
        required: whether a row must have a value.
        needed: whether a file must have the column, though not a value in every row.
        limit: keys must be smaller, where an event's record has less room than 62 bits.
    """

    name: str
    column: str
    kind: FieldKind
    feature: Feature | None = None
    required: bool = False
    needed: bool = False
    limit: int = 1 << 62

    @property
    def wants(self) -> str:
        """Values that it takes, in words."""
        if isinstance(self.feature, Categorical):
            ids = f"{self.feature.id_type} ids"
            return f"lists of {ids}" if self.feature.max_values > 1 else ids
        return {"time": "times", "label": "labels", "text": "text"}.get(self.kind, "numbers")


def as_it_came(value: Any) -> Any:
    """A value of an array as Python's own; if Python has none (a time in the year 300,000), as a number or text.

    >>> import numpy as np
    >>> as_it_came(np.float32(1.5)), as_it_came("a")
    (1.5, 'a')
    """
    if isinstance(value, np.generic):
        return value.item()
    if not hasattr(value, "as_py"):
        return value
    try:
        return value.as_py()
    except (ArithmeticError, ValueError, LookupError):
        return getattr(value, "value", str(value.type))


class Coded(NamedTuple):
    """Distinct raw values, and which of them each row has; -1 for none. [N] indices."""

    values: Sequence[Any]
    indices: npt.NDArray[Any]


class Moments(NamedTuple):
    """Times that are milliseconds already, whatever the unit of numbers; and where there is one. [N] each."""

    ms: Int64Array
    valid: BoolArray
