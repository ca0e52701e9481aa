"""Certificate of a bundle that knows users by their history: its graphs' answers compared with the trained model's.

Legend: ``M`` items, ``A`` added items, ``S`` events of a history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from scipy.sparse import csr_matrix, hstack

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import ITEM_OUTPUTS, Certificate
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions
from recsys.errors import BundleError
from recsys.export.certificate import TOLERANCE
from recsys.export.retrieval.lists import LISTS
from recsys.features.columns import missing_column
from recsys.features.hashing import KEY_LIMIT, MISSING
from recsys.models.retrieval.attributes import AttributeRows
from recsys.models.retrieval.linear import LinearModel
from recsys.training.retrieval.linear.fit import scores_of
from recsys.training.retrieval.linear.histories import history_inputs

_KEPT = "The bundle was not written"
_COPIES = 32
_ITEM_ROWS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """Inputs of the graph, and the scores that the model gives the items of these keys, -inf: not to be found."""

    what: str
    inputs: dict[str, Any]
    keys_M: Int64Array
    scores_M: Float32Array
    known: bool


def certify_histories(
    graph: Path,
    model: LinearModel,
    ids: PairIds,
    *,
    events: UserEvents,
    history_NM: csr_matrix,
    users: Int64Array,
    list_length: int,
    takes_added: bool = False,
) -> Certificate:
    """Compare the graph's lists, given the events of up to ``LISTS`` of these users, with the trained model's.

    As in ``certify_lists``, at each place the two scores must agree, and the graph's score of an item and the model's
    own of it; the tolerance grows with scores above 1.

    Args:
        graph: the file.
        model: as it was trained.
        ids: of users and items.
        events: of the users, as a store has them.
        history_NM: the same as the model takes them.
        users: of the test part.
        list_length: k.
        takes_added: ask for each user's list a second time, with copies of items, under keys that the bundle has not,
            among the added items, in the history, and among what was seen.

    Raises:
        BundleError: they do not agree.
    """
    session = _session(graph)
    fields = [each.name.removeprefix("history.") for each in session.get_inputs() if each.name.startswith("history.")]
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(users)[:LISTS]
    worst, tolerance, requests, compared = 0.0, TOLERANCE, 0, 0
    for request in _requests(model, ids, events, history_NM, chosen, fields, takes_added=takes_added):
        inputs = {"k": np.array(list_length, dtype=np.int64), **request.inputs}
        got_keys, got, known, _ = session.run(["items", "scores", "known", "history_known"], inputs)
        scores_M, index_of = request.scores_M, np.argsort(request.keys_M)
        expected = np.sort(scores_M[scores_M > -np.inf])[::-1][:list_length]
        items = index_of[np.searchsorted(request.keys_M, got_keys, sorter=index_of)]
        tolerance = max(tolerance, TOLERANCE * float(np.abs(expected).max(initial=0.0)))
        if bool(known[0]) != request.known:
            raise BundleError(f"certificate: ONNX Runtime and the model differ in if {request.what} is known. {_KEPT}")
        if (distinct := len(np.unique(got_keys))) != len(expected):
            raise BundleError(
                f"certificate: ONNX Runtime gives {distinct} items for {request.what}, the model {len(expected)}. "
                f"{_KEPT}"
            )
        difference = float(np.maximum(np.abs(got - expected), np.abs(got - scores_M[items])).max(initial=0.0))
        if not difference <= tolerance:  # NaN is refused too
            raise BundleError(
                f"certificate: a score of ONNX Runtime's list differs from the model's by {difference:.2e} for "
                f"{request.what}; allowed: {tolerance:.0e}. {_KEPT}"
            )
        worst, requests, compared = max(worst, difference), requests + 1, compared + len(expected)
    return Certificate(
        requests=requests,
        candidates=compared,
        max_abs_logit_difference=worst,
        tolerance=tolerance,
        compared=f"numpy {np.__version__} with onnxruntime {onnxruntime.__version__}, CPU",
    )


def certify_item_rows(graph: Path, attributes: AttributeRows, interactions: Interactions) -> None:
    """Compare the rows that the graph ``item`` makes of the data's items, and of one without attributes, with numpy's.

    Raises:
        BundleError: a row differs by more than rounding, or in how many of its attributes are known.
    """
    features = attributes.encoding.features
    items = np.arange(min(interactions.num_items, _ITEM_ROWS))
    given = {
        each.name: np.concatenate([interactions.item_columns[each.name][items], missing_column(each, 1)])
        for each in features
    }
    expected_AR, known_A = attributes.rows(given, len(items) + 1)
    rows_AR, got_known_A = _session(graph).run(list(ITEM_OUTPUTS), given)
    tolerance = TOLERANCE * max(1.0, float(np.abs(expected_AR).max()))
    difference = float(np.abs(rows_AR - expected_AR).max())
    if not difference <= tolerance:
        raise BundleError(
            f"certificate: a row of ONNX Runtime's differs from the model's by {difference:.2e}; allowed: "
            f"{tolerance:.0e}. {_KEPT}"
        )
    if (other := np.flatnonzero(got_known_A != known_A)).size:
        raise BundleError(
            f"certificate: ONNX Runtime knows {got_known_A[other[0]]} attributes of an item, the model "
            f"{known_A[other[0]]}. {_KEPT}"
        )


def _requests(
    model: LinearModel,
    ids: PairIds,
    events: UserEvents,
    history_NM: csr_matrix,
    users: Int64Array,
    fields: list[str],
    *,
    takes_added: bool,
) -> Iterator[_Request]:
    score = scores_of(model, history_NM)
    learnt_M = model.learnt_M
    nothing = {"seen": np.full(1, MISSING)}
    if takes_added:
        copied_A = _copied(model)
        copy_keys_A = _unused_keys(ids.item_keys_M, len(copied_A))
        rows_AR = model.rows_MR[copied_A]
        # One whose key the bundle has: its row must not count.
        foreign = np.flatnonzero(learnt_M)[:1]
        added_keys = np.concatenate([copy_keys_A, ids.item_keys_M[foreign]])
        order = np.argsort(added_keys)
        rows = np.concatenate([rows_AR, rows_AR[: len(foreign)] + 1])[order]
        with_copies = model.with_items(rows_AR)
        near = with_copies.near_MM
        nothing |= {"added.items": np.full(1, MISSING), "added.rows": np.zeros_like(rows_AR[:1])}
        given = {"added.items": added_keys[order], "added.rows": rows, "seen": copy_keys_A[-1:]}
        seen_place = len(ids.item_keys_M) + len(copied_A) - 1
        all_keys = np.concatenate([ids.item_keys_M, copy_keys_A])
    for user in users.tolist():
        columns = {"user_id": ids.user_keys_N[[user]], **history_inputs(events, user, ids, fields)}
        history_1M = history_NM[user]
        (scores_M,) = score(np.array([user])).numpy()
        yield _Request(
            what=f"user {user}",
            inputs={**columns, **nothing},
            keys_M=ids.item_keys_M,
            scores_M=scores_M,
            known=bool(history_1M.multiply(learnt_M).max() > 0),
        )
        if not takes_added:
            continue
        # Every other copied item stands in the history under the copy's key.
        name, replaced_A = f"history.{ids.features.item_id.name}", np.arange(0, len(copied_A), 2)
        renamed, of_item = columns[name].copy(), history_1M.toarray()[0]
        of_copies = np.zeros(len(copied_A), dtype=np.float32)
        for place in replaced_A:
            renamed[renamed == ids.item_keys_M[copied_A[place]]] = copy_keys_A[place]
        of_copies[replaced_A] = of_item[copied_A[replaced_A]]
        of_item[copied_A[replaced_A]] = 0.0
        history_1X = csr_matrix(hstack([csr_matrix(of_item), csr_matrix(of_copies)]))
        (scores_X,) = with_copies.scores(history_1X, near)
        scores_X[~with_copies.learnt_M] = -np.inf
        scores_X[seen_place] = -np.inf
        yield _Request(
            what=f"user {user}, with added items",
            inputs={**columns, name: renamed, **given},
            keys_M=all_keys,
            scores_M=scores_X,
            known=bool(history_1X.multiply(with_copies.learnt_M).max() > 0),
        )


def _copied(model: LinearModel) -> Int64Array:
    """Items that get copies: the most popular, which histories have, and others."""
    learnt = np.flatnonzero(model.learnt_M)
    popular = learnt[np.argsort(-model.popularity_M[learnt], kind="stable")][: _COPIES // 2]
    others = np.random.Generator(np.random.PCG64(1)).permutation(learnt)[: _COPIES // 2]
    return np.union1d(popular, others)


def _unused_keys(keys_M: Int64Array, count: int) -> Int64Array:
    """Keys of no item, ascending."""
    return np.setdiff1d(KEY_LIMIT - 1 - np.arange(len(keys_M) + count), keys_M)[:count]


def _session(graph: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
