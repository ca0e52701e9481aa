"""Certificate of a bundle that knows users by their history: its graphs' answers compared with the trained model's.

Legend: ``M`` items, ``A`` added items, ``R`` columns of a row, ``S`` events of a history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.bundle import ALL_ALLOWED, ITEM_OUTPUTS, Certificate, no_added_items
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.ids import PairIds
from recsys.errors import BundleError
from recsys.export.certificate import TOLERANCE
from recsys.export.retrieval.index import chosen_users
from recsys.export.retrieval.lists import LISTS
from recsys.features.columns import Column
from recsys.features.hashing import KEY_LIMIT, MISSING
from recsys.training.retrieval.linear.histories import history_inputs

_KEPT = "The bundle was not written"
_COPIES = 32

ITEM_ROWS = 4096
"""Most items whose rows of the graph ``item`` are compared."""


class Reference(Protocol):
    """A trained model, as the graph of its bundle must answer."""

    @property
    def library(self) -> str:
        """Library that computes its answers, with its version."""
        ...

    @property
    def in_bundle_M(self) -> BoolArray:
        """Items that the bundle has."""
        ...

    @property
    def popularity_M(self) -> Float32Array:
        """The items' scores for users who are not known."""
        ...

    def begin(self, users: Int64Array) -> None:
        """Compute at once what the answers for these users need; all later calls are of them."""
        ...

    def user_inputs(self, user: int) -> Mapping[str, Column]:
        """Inputs of the graph that are features of the user."""
        ...

    def knows(self, user: int) -> bool:
        """True if an event of the user's history counts."""
        ...

    def scores(self, user: int) -> Float32Array:
        """Scores of all items, [M]; of those that the bundle has not, anything."""
        ...

    def copies(self, copied_A: Int64Array, renamed_A: BoolArray) -> Copies | None:
        """The model with copies of items as added items; None: its graph takes none.

        Args:
            copied_A: the items.
            renamed_A: those that stand in histories as their copies.
        """
        ...


class Copies(Protocol):
    """A model with copies of some of its items as added items."""

    @property
    def rows_AR(self) -> Float32Array:
        """Rows of the copies, [A, R]."""
        ...

    def scores(self, user: int) -> Float32Array:
        """Scores of all items, then of the copies, [M + A]."""
        ...


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
    model: Reference,
    ids: PairIds,
    *,
    events: UserEvents,
    users: Int64Array,
    list_length: int,
    beside: Mapping[str, Int64Array] | None = None,
) -> Certificate:
    """Compare the graph's lists, given the events of up to ``LISTS`` of these users, with the trained model's.

    As in ``certify_lists``, at each place the two scores must agree, and the graph's score of an item and the model's
    own of it; the tolerance grows with scores above 1. If the graph takes added items, each list is asked for a second
    time, with copies of items, under keys that the bundle has not: added, in the history, and among what was seen.

    Args:
        graph: the file.
        model: as it was trained.
        ids: of users and items.
        events: of the users, as a store has them.
        users: of the test part.
        list_length: k.
        beside: further inputs of the graph, by which it chooses what is popular; those of a missing value.

    Raises:
        BundleError: they do not agree.
    """
    session = open_graph(graph)
    fields = [each.name.removeprefix("history.") for each in session.get_inputs() if each.name.startswith("history.")]
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(users)[:LISTS]
    model.begin(chosen)
    worst, tolerance, requests, compared = 0.0, TOLERANCE, 0, 0
    missing = dict(beside or {})
    for request in _requests(model, ids, events, chosen, fields):
        inputs = {**missing, "k": np.array(list_length, dtype=np.int64), **request.inputs}
        if not request.known:  # the model may read a segment's feature, too: what is popular with all is expected
            inputs |= missing
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
        compared=f"{model.library} with onnxruntime {onnxruntime.__version__}, CPU",
    )


def history_requests(
    graph: Path,
    model: Reference,
    ids: PairIds,
    events: UserEvents,
    users: Int64Array,
    *,
    beside: Mapping[str, Int64Array],
) -> Iterator[dict[str, Any]]:
    """Inputs of the graph for some of these users, without added items and with nothing seen.

    Args:
        graph, model, ids, events, users, beside: as of :func:`certify_histories`.
    """
    session = open_graph(graph)
    inputs = {each.name: each.shape for each in session.get_inputs()}
    fields = [name.removeprefix("history.") for name in inputs if name.startswith("history.")]
    nothing: dict[str, Any] = {"seen": np.full(1, MISSING)}
    if "added.rows" in inputs:
        nothing |= no_added_items(inputs["added.rows"][1])
    for user in chosen_users(users):
        columns = {"user_id": ids.user_keys_N[[user]], **history_inputs(events, user, ids, fields)}
        yield {**beside, **nothing, **columns, **model.user_inputs(user)}


def certify_item_rows(
    graph: Path, given: Mapping[str, Column], *, expected_AR: Float32Array, known_A: Int64Array
) -> None:
    """Compare the rows that the graph ``item`` makes of some items with the model's.

    Args:
        graph: the file.
        given: inputs by name, N = A.
        expected_AR, known_A: what it must make of them.

    Raises:
        BundleError: a row differs by more than rounding, or in how many of its attributes are known.
    """
    rows_AR, got_known_A = open_graph(graph).run(list(ITEM_OUTPUTS), dict(given))
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
    model: Reference, ids: PairIds, events: UserEvents, users: Int64Array, fields: list[str]
) -> Iterator[_Request]:
    in_bundle_M, nothing = model.in_bundle_M, {"seen": np.full(1, MISSING), **ALL_ALLOWED}
    copied_A = _copied(model)
    renamed_A = np.arange(len(copied_A)) % 2 == 0
    copies = model.copies(copied_A, renamed_A)
    if copies is not None:
        keys_A = _unused_keys(ids.item_keys_M, len(copied_A))
        rows_AR = copies.rows_AR
        given = {**_scattered(keys_A, rows_AR), "seen": keys_A[-1:]}
        nothing |= no_added_items(rows_AR.shape[1])
    name = f"history.{ids.features.item_id.name}"
    for user in users.tolist():
        columns = {
            "user_id": ids.user_keys_N[[user]],
            **history_inputs(events, user, ids, fields),
            **model.user_inputs(user),
        }
        scores_M, known = model.scores(user), model.knows(user)
        yield _Request(
            what=f"user {user}",
            inputs={**columns, **nothing},
            keys_M=ids.item_keys_M,
            scores_M=np.where(in_bundle_M, scores_M, np.float32(-np.inf)),
            known=known,
        )
        if copies is None:
            continue
        history = columns[name].copy()
        for item, key in zip(copied_A[renamed_A], keys_A[renamed_A], strict=True):
            history[history == ids.item_keys_M[item]] = key
        scores_X = copies.scores(user)
        scores_X[: len(in_bundle_M)][~in_bundle_M] = -np.inf
        scores_X[-1] = -np.inf  # the copy that was seen
        yield _Request(
            what=f"user {user}, with added items",
            inputs={**columns, **ALL_ALLOWED, name: history, **given},
            keys_M=np.concatenate([ids.item_keys_M, keys_A]),
            scores_M=scores_X,
            known=known,
        )


def _scattered(keys_A: Int64Array, rows_AR: Float32Array) -> dict[str, Column]:
    """Inputs that are added items whose rows stand in the opposite order, behind one that is no item's."""
    places_A = np.arange(len(keys_A), 0, -1)
    rows_PR = np.concatenate([np.full_like(rows_AR[:1], 1e6), rows_AR[::-1]])
    return {"added.items": keys_A, "added.places": places_A, "added.rows": rows_PR}


def _copied(model: Reference) -> Int64Array:
    """Items that get copies: the most popular, which histories have, and others."""
    known = np.flatnonzero(model.in_bundle_M)
    popular = known[np.argsort(-model.popularity_M[known], kind="stable")][: _COPIES // 2]
    others = np.random.Generator(np.random.PCG64(1)).permutation(known)[: _COPIES // 2]
    return np.union1d(popular, others)


def _unused_keys(keys_M: Int64Array, count: int) -> Int64Array:
    """Keys of no item, ascending."""
    return np.setdiff1d(KEY_LIMIT - 1 - np.arange(len(keys_M) + count), keys_M)[:count]


def open_graph(graph: Path) -> onnxruntime.InferenceSession:
    """A graph in bare ONNX Runtime, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
