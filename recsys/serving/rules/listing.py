"""Listing: the list that rules make of ranked candidates, with all that is read for it.

``C`` candidates, ``K`` items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.arrays import Float32Array, Int64Array
from recsys.errors import InvalidInputError
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.rules.arrange import arrange
from recsys.serving.rules.language import Rules
from recsys.serving.rules.pins import PinOutcome, pinned_positions
from recsys.serving.rules.report import RulesReport, count, report
from recsys.serving.rules.values import read_values
from recsys.serving.rules.vectors import VectorSource
from recsys.serving.telemetry.label_counts import LabelCounts


@dataclass(frozen=True, slots=True)
class Listing:
    """A list.

    Attributes:
        positions: of its items among the candidates; int64, [K].
        report: what rules did.
    """

    positions: Int64Array
    report: RulesReport


def make_list(
    logits: Float32Array,
    rules: Rules,
    *,
    top_k: int,
    keys: Int64Array,
    columns: ItemColumns | None,
    vectors: VectorSource | None,
    pins: Mapping[int, PinOutcome],
    counts: LabelCounts | None = None,
) -> Listing:
    """Make a list of candidates as :func:`arrange` does.

    Args:
        logits: of the candidates, float32, [C].
        rules: of the request.
        top_k: places of the list.
        keys: of the candidates, distinct; int64, [C].
        columns: values of the items; None: there are none.
        vectors: of the items; None: there are none.
        pins: why a pinned item is no candidate, by its rule's place.
        counts: gets what the rules did; None: nothing does.

    Raises:
        InvalidInputError: there is a diverse rule, and no vectors.
    """
    rows_CD, without_vector = None, 0
    if rules.diverse is not None:
        if vectors is None:
            raise InvalidInputError(
                f"rules[{rules.diverse[0]}].diverse: the items have no vectors, as the release has no retrieval model; "
                "leave it out"
            )
        rows_CD = vectors(keys)
        without_vector = int(np.count_nonzero(~rows_CD.any(axis=1)))
    values, pinned = read_values(columns, rules, keys), pinned_positions(rules, keys)
    arranged = arrange(logits, rules, top_k=top_k, values=values, pinned=pinned, rows_CD=rows_CD)
    made = report(
        rules,
        arranged,
        values=values,
        pinned=pinned,
        outcomes=pins,
        without_vector=without_vector,
        keys=keys,
    )
    if counts is not None:
        count(rules, made, counts)
    return Listing(arranged.positions, made)
