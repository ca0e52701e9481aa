"""Messages of filters: arguments to requests, reports to results."""

from __future__ import annotations

from typing import Any

from recsys.client.filters import ItemTest, Where
from recsys.client.messages.fields import fitting, ids_field
from recsys.client.types import FilterReport
from recsys.errors import InvalidInputError
from recsys.proto import ranker_pb2

_REASONS = {
    ranker_pb2.EMPTY_REASON_CONTRADICTION: "contradiction",
    ranker_pb2.EMPTY_REASON_NO_ITEM: "no_item",
    ranker_pb2.EMPTY_REASON_LEFT_OUT: "left_out",
    ranker_pb2.EMPTY_REASON_NOT_READY: "not_ready",
}


def filter_message(where: Where | None) -> ranker_pb2.Filter | None:
    """The message of a filter; None for none."""
    if where is None:
        return None
    if not isinstance(where, Where):
        raise InvalidInputError(f"filter: got {where!r}; allowed: what recsys.client.where() makes")
    return ranker_pb2.Filter(
        all=[condition_message("filter", *named) for named in where.all],
        any=[
            ranker_pb2.AnyOf(of=[condition_message("filter", *named) for named in either.tests]) for either in where.any
        ],
    )


def condition_message(where: str, name: str, test: ItemTest) -> ranker_pb2.Condition:
    """The message of a test of one attribute; complaints begin with ``where``."""
    made = ranker_pb2.Condition(attribute=name)
    if test.kind in ("any_of", "none_of"):
        getattr(made, test.kind).CopyFrom(ids_field(f"{where}: {name}", list(test.values)))
        return made
    with fitting(f"{where}: {name}", allowed="numbers only"):
        if test.kind == "range":
            made.range.SetInParent()
            if test.low is not None:
                setattr(made.range, "above" if test.low_open else "min", test.low)
            if test.high is not None:
                setattr(made.range, "below" if test.high_open else "max", test.high)
        else:
            setattr(made, test.kind, test.flag)
    return made


def filter_report(response: Any) -> FilterReport | None:
    """The outcome of the filter that an answer tells; None: there was none."""
    if not response.HasField("filter"):
        return None
    of = response.filter
    return FilterReport(
        passed=of.passed,
        reason=_REASONS.get(of.reason, ""),
        detail=of.detail,
        unknown_values=tuple(of.unknown_values),
        age_ms=of.age_ms,
        filtered_out=tuple(of.filtered_out),
        withdrawn_late=of.withdrawn_late,
    )
