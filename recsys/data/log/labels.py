"""Label of a row: the expression that makes samples of a log's rows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir

from recsys.data.log.arrow_values import NUMBER
from recsys.errors import ConfigError, InvalidInputError, nearest

_EXPRESSION = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*\Z")


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """``column operator value``: the label of a row is whether that holds; a row without the value has none.

    NaN and the empty text are no values, like null.
    """

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
                column = column.isnan().ifelse(ibis.null("float64"), column)  # engines hold NaN above all numbers
        elif column.type().is_string():
            column = column.nullif("")
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


def check_label_column(rule: LabelRule | None, names: Any, where: str) -> None:
    """Refuse an expression about a column that is not there."""
    if rule is not None and rule.column not in names:
        raise InvalidInputError(f"{where}: the label needs column {rule.column!r}: {nearest(rule.column, names)}")
