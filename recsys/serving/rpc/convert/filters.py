"""Filters: messages to checked filters, and what became of them to messages."""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.proto import ranker_pb2 as pb
from recsys.proto import related_pb2
from recsys.serving.filters.language import (
    Condition,
    Filter,
    Range,
    check_attribute,
    flag_condition,
    make_filter,
    range_condition,
    set_condition,
)
from recsys.serving.filters.selection import FilterReport
from recsys.serving.rpc.convert.ids import raw_ids

_REASONS = {
    "": pb.EMPTY_REASON_UNSPECIFIED,
    "contradiction": pb.EMPTY_REASON_CONTRADICTION,
    "no_item": pb.EMPTY_REASON_NO_ITEM,
    "left_out": pb.EMPTY_REASON_LEFT_OUT,
    "not_ready": pb.EMPTY_REASON_NOT_READY,
}


Filtered = (
    pb.RankRequest | pb.RetrieveRequest | pb.RecommendRequest | related_pb2.SimilarRequest | related_pb2.TrendingRequest
)


def filter_of(message: Filtered, features: FeatureSet) -> Filter | None:
    """Check and convert a request's filter; None if it has none.

    Raises:
        InvalidInputError: see the message; it names the condition.
    """
    if not message.HasField("filter"):
        return None
    given = message.filter
    every = [[condition_of(f"filter.all[{place}]", each, features)] for place, each in enumerate(given.all)]
    some = [
        [condition_of(f"filter.any[{place}].of[{at}]", each, features) for at, each in enumerate(group.of)]
        for place, group in enumerate(given.any)
    ]
    return make_filter([*every, *some])


def report_message(
    report: FilterReport | None, *, filtered_out: Int64Array | None = None, late: int = 0
) -> pb.FilterReport | None:
    """Convert what became of a filter; None for none.

    Args:
        report: of the filter.
        filtered_out: places of candidates that did not pass.
        late: items that passed, and did not any more.
    """
    if report is None:
        return None
    return pb.FilterReport(
        passed=report.passed,
        reason=_REASONS[report.reason],
        detail=report.detail,
        unknown_values=report.unknown_values,
        age_ms=min(report.age_ms, 0xFFFFFFFF),
        filtered_out=None if filtered_out is None else filtered_out.tolist(),
        withdrawn_late=late,
    )


def condition_of(where: str, given: pb.Condition, features: FeatureSet) -> Condition:
    """Check and convert a test of one attribute.

    Raises:
        InvalidInputError: see the message; it begins with ``where``.
    """
    feature = check_attribute(f"{where}.attribute", given.attribute, features)
    test = given.WhichOneof("test")
    if test is None:
        raise InvalidInputError(f"{where}: no test; set any_of, none_of, range, flag or present")
    if test == "any_of" or test == "none_of":
        ids = getattr(given, test)
        raw = raw_ids(f"{where}.{test}", ids, feature) if isinstance(feature, Categorical) else ids.integers
        return set_condition(f"{where}.{test}", test, feature, raw)
    if test == "range":
        return range_condition(f"{where}.range", feature, _range(given.range))
    if test == "flag":
        return flag_condition(f"{where}.flag", feature, given.flag)
    return Condition(feature=feature, test="present", flag=given.present)


def _range(given: pb.NumberRange) -> Range:
    low, high = given.WhichOneof("low"), given.WhichOneof("high")
    return Range(
        low=None if low is None else float(np.float32(getattr(given, low))),
        low_open=low == "above",
        high=None if high is None else float(np.float32(getattr(given, high))),
        high_open=high == "below",
    )
