"""A loaded retrieval model: one graph in ONNX Runtime that finds a user's best items among all.

Shapes use ``K`` items found, ``N`` items to leave out, ``S`` events, ``A`` items that are not in the bundle, ``R``
columns of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.bundle import ALL_ALLOWED, ITEM_OUTPUTS, Bundle, ItemRows, no_added_items
from recsys.errors import BundleError, InvalidInputError, ModelError
from recsys.features.columns import Column, missing_column
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import MISSING, string_keys
from recsys.features.history.records import Events, attribute_keys, missing_events
from recsys.features.names import ITEM_NAMES, Names, open_names
from recsys.operators import Operators
from recsys.serving.inference.allowed_rows import allowed_inputs, count_allowed, not_allowed
from recsys.serving.inference.candidate_index import AddedItems, Allowed, Retrieved
from recsys.serving.inference.graphs import inputs_of, load_graph, outputs_of
from recsys.serving.inference.signature import HISTORY_PREFIX, check_retrieval, retrieve_outputs
from recsys.serving.inference.table_guard import TableGuard

MAX_ITEMS = 10_000
"""Most items that one request may ask for."""

_NOTHING = np.array([MISSING], dtype=np.int64)
_SAMPLE_ITEMS = 2


class RetrievalSession:
    """The :class:`~recsys.serving.inference.candidate_index.CandidateIndex` of a bundle: exact search in one graph.

    Made by :func:`open_retrieval`. Safe to use from several threads.

    Attributes:
        names: of the items, where they are named by strings; else None, and a key is the item's id.
        guard: asked before and after what reads the tables.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: ort.InferenceSession,
        names: Names | None,
        guard: TableGuard,
        item: ort.InferenceSession | None = None,
    ) -> None:
        self.model = bundle.manifest.model
        self.version = bundle.manifest.version
        self.features = bundle.features
        self.names = None if names is None else names.checked(guard.check)
        self.guard = guard
        self._graph, self._item = graph, item
        inputs = inputs_of(graph)
        self._takes_allowed = "allowed" in inputs
        self.history_fields = tuple(
            name.removeprefix(HISTORY_PREFIX) for name in inputs if name.startswith(HISTORY_PREFIX)
        )
        self.item_inputs = () if item is None else tuple(inputs_of(item))
        self._no_user = {each.name: missing_column(each, 1) for each in bundle.features.user if each.name in inputs}
        self.user_inputs = tuple(self._no_user)
        self._outputs = list(retrieve_outputs(bundle, inputs, outputs_of(graph)))
        self._keys_R = _integers(bundle, "item_id.keys")
        self._rows_RD = _floats(bundle, "item_id.rows")
        self._no_items: dict[str, Column] = {}
        self._last_added: tuple[AddedItems | None, dict[str, Column], BoolArray] = (
            None,
            {},
            np.ones(0, dtype=np.bool_),
        )
        if item is not None:
            (_, width) = inputs["added.rows"].shape
            self._no_items = no_added_items(int(width))

    @property
    def keys(self) -> Int64Array:
        """As ``CandidateIndex.keys``; mapped."""
        return np.zeros(0, dtype=np.int64) if self._keys_R is None else self._keys_R[1:]

    def has_items(self, keys: Int64Array) -> BoolArray:
        """As ``CandidateIndex.has_items``."""
        if self._keys_R is None:
            return np.zeros(len(keys), dtype=np.bool_)
        with self.guard.reading():
            place = np.minimum(np.searchsorted(self._keys_R, keys), len(self._keys_R) - 1)
            return np.asarray((self._keys_R[place] == keys) & (keys >= 0))

    def vectors(self, keys: Int64Array, added: AddedItems | None = None) -> Float32Array:
        """As ``CandidateIndex.vectors``; of the bundle's table no more is read than these rows."""
        if self._rows_RD is None or self._keys_R is None:
            return np.zeros((len(keys), 0), dtype=np.float32)
        with self.guard.reading():
            place = np.minimum(np.searchsorted(self._keys_R, keys), len(self._keys_R) - 1)
            has = (self._keys_R[place] == keys) & (keys >= 0)
            found_AD: Float32Array = np.zeros((len(keys), self._rows_RD.shape[1]), dtype=np.float32)
            found_AD[has] = self._rows_RD[place[has]]
        if added is not None and self._no_items:
            of_added = added.places(keys)
            new = ~has & (of_added >= 0)
            found_AD[new] = added.rows[of_added[new], -found_AD.shape[1] :]  # its last columns are the vector
        return found_AD

    def rows(self, columns: Mapping[str, Column]) -> ItemRows:
        """As ``CandidateIndex.rows``."""
        if self._item is None:
            raise InvalidInputError(f"retrieval model {self.model!r} makes no rows of items: it has no graph 'item'")
        declared = {each.name: each for each in (self.features.item_id, *self.features.item)}
        lengths = {len(column) for name, column in columns.items() if name in self.item_inputs}
        if len(lengths) != 1:
            raise InvalidInputError(
                f"columns of items have {sorted(lengths)} rows; expected one length, of at least one of "
                f"{', '.join(self.item_inputs)}"
            )
        (length,) = lengths
        if not length:  # graphs take one row or more
            width = self._no_items["added.rows"].shape[1]
            return ItemRows(np.zeros((0, width), dtype=np.float32), np.zeros(0, dtype=np.int64))
        given = {
            name: columns[name] if name in columns else missing_column(declared[name], length)
            for name in self.item_inputs
        }
        with self.guard.reading():
            rows, known = self._item.run(list(ITEM_OUTPUTS), given)
        return ItemRows(rows, known)

    def search_inputs(self, added: AddedItems | None, allowed: Allowed | None) -> dict[str, npt.NDArray[Any]]:
        """Inputs of a search, in graph ``retrieve`` or another: the added items, and which of all items may be found.

        Raises:
            InvalidInputError: what is allowed does not fit the items.
        """
        inputs, is_new_A = self._added_inputs(added)
        if not self._takes_allowed:  # a bundle of an earlier version: :meth:`search` leaves out the others
            return inputs
        return {**inputs, **(ALL_ALLOWED if allowed is None else allowed_inputs(allowed, len(self.keys), is_new_A))}

    def _added_inputs(self, added: AddedItems | None) -> tuple[dict[str, Column], BoolArray]:
        """Inputs of the added items that the bundle has not, and which of all these are; kept for the next search."""
        if added is None:
            return self._no_items, np.ones(0, dtype=np.bool_)
        if not self._no_items:
            return {}, np.zeros(len(added), dtype=np.bool_)
        last, inputs, is_new_A = self._last_added
        if last is not added:
            is_new_A = ~self.has_items(added.keys)
            inputs = self._no_items
            if is_new_A.any():
                places = added.row_places[is_new_A]
                inputs = {"added.items": added.keys[is_new_A], "added.places": places, "added.rows": added.rows}
            self._last_added = added, inputs, is_new_A  # one assignment: safe among threads
        return inputs, is_new_A

    def retrieve(
        self,
        user_key: int,
        seen: Int64Array,
        k: int,
        events: Events | None = None,
        added: AddedItems | None = None,
        user: Mapping[str, Column] | None = None,
        allowed: Allowed | None = None,
    ) -> Retrieved:
        """As ``CandidateIndex.retrieve``; k is 1 to ``MAX_ITEMS``.

        Raises:
            ModelError: a score is not finite, or the bundle's tables were changed; names the release.
        """
        found = self.search(user_key, seen, k, events, added, user, allowed)
        bad = int(np.count_nonzero(~np.isfinite(found.scores)))
        if len(found.items) < k:
            # A score that is no number is below no other: the graph never finds it, and then finds too few.
            items = len(self.keys) if allowed is None else count_allowed(allowed, len(self.keys))
            bad = max(bad, min(k, items - len(seen)) - len(found.items))
        if bad > 0:
            raise ModelError(
                f"retrieval model {self.model!r} of {self.guard.label} gave no finite number for {bad} items at least: "
                "it is unfit for this user; go back to another release, or leave this one out of what is served"
            )
        return found

    def search(
        self,
        user_key: int,
        seen: Int64Array,
        k: int,
        events: Events | None = None,
        added: AddedItems | None = None,
        user: Mapping[str, Column] | None = None,
        allowed: Allowed | None = None,
    ) -> Retrieved:
        """As :meth:`retrieve`, whatever the scores are."""
        if not 1 <= k <= MAX_ITEMS:
            raise InvalidInputError(f"{k:,} items were asked for; allowed: 1 to {MAX_ITEMS:,}")
        if allowed is not None and not self._takes_allowed:  # exact, too; the lookup of each takes 256 bytes
            seen = np.union1d(seen, self.keys[not_allowed(allowed, len(self.keys))])
        given = {
            "user_id": np.array([user_key], dtype=np.int64),
            "seen": seen if len(seen) else _NOTHING,
            "k": np.array(k, dtype=np.int64),
            **history_columns(self.features, events, self.history_fields),
            **self.search_inputs(added, allowed),
            **{name: missing if user is None else user.get(name, missing) for name, missing in self._no_user.items()},
        }
        with self.guard.reading():
            items, scores, *others = self._graph.run(self._outputs, given)
        flags = {name: int(value[0]) for name, value in zip(self._outputs[2:], others, strict=True)}
        known, history_known = bool(flags["known"]), flags.get("history_known", 0)
        read = len(events) if self.history_fields and events is not None else 0
        segment = not known and bool(flags.get("segment"))
        return Retrieved(items, scores, known, history_known, read - history_known, segment)


def history_columns(features: FeatureSet, events: Events | None, fields: Sequence[str]) -> dict[str, Int64Array]:
    """Inputs ``history.<field>`` of a graph, [max(S, 1)]; without events a missing one, as ranking graphs get it.

    Args:
        features: of the bundle.
        events: oldest first; of a store that may have more attributes, or lack some, which are then missing.
        fields: that the graph reads.
    """
    if events is None or not len(events):
        return {f"{HISTORY_PREFIX}{field}": np.full(1, MISSING, dtype=np.int64) for field in fields}
    columns = {
        features.item_id.name: events["item"].astype(np.int64),
        "timestamp": events["timestamp"].astype(np.int64),
    }
    for attribute in () if features.history is None else features.history.attributes:
        if attribute.name in fields:
            has = attribute.name in (events.dtype.names or ())
            keys = attribute_keys(attribute, events) if has else np.full(len(events), MISSING, dtype=np.int64)
            columns[attribute.name] = keys
    return {f"{HISTORY_PREFIX}{field}": columns[field] for field in fields}


def open_retrieval(
    bundle: Bundle,
    *,
    intra_op_threads: int = 1,
    operators: Operators = "auto",
    release: str = "",
    low_priority: bool = False,
) -> RetrievalSession:
    """Load a bundle's graph, check its signature, and run it once.

    Args:
        bundle: whose it is.
        intra_op_threads: threads inside one run.
        operators: who computes the graph's functions.
        release: name of the release that it belongs to, for messages.
        low_priority: leave the core to calls that are answered meanwhile.

    Raises:
        BundleError: it is no retrieval bundle, or its graph does not load or run, or has other inputs or outputs
            than the manifest and ``docs/specs/bundle.md`` say; the message names the first that differs. Or it lacks
            the names of its items, or they do not fit its keys.
        ModelError: a table was changed or could not be read meanwhile.
    """
    if bundle.manifest.kind != "retrieval":
        raise BundleError(
            f"{bundle.path}: a {bundle.manifest.kind} bundle; expected a retrieval bundle, which `recsys export` "
            "writes of a run that ranks all items"
        )
    guard = TableGuard(bundle, release=release)
    with guard.loading():
        load = partial(
            load_graph, bundle, intra_op_threads=intra_op_threads, operators=operators, low_priority=low_priority
        )
        return _open(bundle, guard, load("retrieve"), load("item") if "item" in bundle.manifest.graphs else None)


def _open(
    bundle: Bundle, guard: TableGuard, graph: ort.InferenceSession, item: ort.InferenceSession | None
) -> RetrievalSession:
    check_retrieval(bundle, graph, item)
    session = RetrievalSession(bundle, graph, _names(bundle), guard, item)
    # A user of each kind. The known one's search reads the whole item table: the first request need not wait for that.
    if session.history_fields:
        samples = [(MISSING, None), (MISSING, _known_events(bundle))]
    else:
        samples = [(MISSING, None), (_known_user(bundle), None)]
    for user_key, events in samples:
        _check_sample(bundle, session, user_key, events)
    if session.item_inputs:
        _check_sample_item(bundle, session)
    return session


def _check_sample(bundle: Bundle, session: RetrievalSession, user_key: int, events: Events | None) -> None:
    try:
        sample = session.search(user_key, _NOTHING, _SAMPLE_ITEMS, events)
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime's own exception classes are not public
        raise BundleError(f"{bundle.path}: the graph 'retrieve' does not run: {error}") from error
    if not 1 <= len(sample.items) <= _SAMPLE_ITEMS or not np.isfinite(sample.scores).all() or sample.items.min() < 0:
        raise BundleError(
            f"{bundle.path}: {_SAMPLE_ITEMS} items were asked for and {sample.items.tolist()} came with scores "
            f"{sample.scores.tolist()}; expected 1 or {_SAMPLE_ITEMS} keys and as many finite numbers"
        )
    if session.names is not None:
        names = session.names.of(sample.items)
        for name, key, own_key in zip(names, sample.items, string_keys(names), strict=True):
            if key != own_key:
                raise BundleError(
                    f"{bundle.path / ITEM_NAMES}: names the item of key {key} {name!r}, whose key is {own_key}; export "
                    "the bundle again"
                )


def _check_sample_item(bundle: Bundle, session: RetrievalSession) -> None:
    """An item of no attributes, and a search with it; its row may be of no use, but not of no number."""
    declared = {each.name: each for each in (bundle.features.item_id, *bundle.features.item)}
    name = session.item_inputs[0]
    try:
        made = session.rows({name: missing_column(declared[name], 1)})
        events = _known_events(bundle)
        session.search(MISSING, _NOTHING, _SAMPLE_ITEMS, events, AddedItems(np.zeros(1, dtype=np.int64), made.rows))
    except ModelError as error:
        raise BundleError(f"{bundle.path}: {error}") from error
    except Exception as error:  # ONNX Runtime's own exception classes are not public
        raise BundleError(f"{bundle.path}: the graph 'item' does not run: {error}") from error


def _known_user(bundle: Bundle) -> int:
    """The key of some user in the bundle's id map; ``MISSING`` if there is none."""
    entries = _integers(bundle, "user_id.ids")
    return MISSING if entries is None else int(entries[:, : entries.shape[1] // 2].max())


def _known_events(bundle: Bundle) -> Events | None:
    """An event of some item of the bundle; None if its map of items cannot be read."""
    keys_R = _integers(bundle, "item_id.keys")
    if keys_R is None or keys_R.ndim != 1:
        return None
    events = missing_events(bundle.features, 1)
    events["item"] = keys_R.max()
    return events


def _names(bundle: Bundle) -> Names | None:
    if bundle.features.item_id.id_type == "int":
        return None
    if ITEM_NAMES not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: its items are named by strings, but {ITEM_NAMES} is not in its list of files; export the "
            "bundle again"
        )
    keys_R = _integers(bundle, "item_id.keys")
    if keys_R is None or keys_R.ndim != 1 or (keys_R[1:] <= keys_R[:-1]).any():
        raise BundleError(
            f"{bundle.path}: its items are named by strings; expected a table 'item_id.keys' of ascending int64 keys: "
            "export the bundle again"
        )
    names = open_names(bundle.path / ITEM_NAMES)
    if not np.array_equal(names.keys_R, keys_R[1:]):
        raise BundleError(
            f"{bundle.path / ITEM_NAMES}: has the names of {len(names):,} keys, which are not those of the "
            f"{len(keys_R) - 1:,} items in 'item_id.keys'; export the bundle again"
        )
    return names


def _floats(bundle: Bundle, table: str) -> Float32Array | None:
    """A table of rows of float32, mapped; None if there is none, or nothing in it."""
    info = bundle.manifest.tables.get(table)
    if info is None or info.dtype != "float32" or len(info.shape) != 2 or 0 in info.shape:
        return None
    return np.asarray(np.memmap(bundle.path / info.file, dtype="<f4", mode="r", shape=info.shape))


def _integers(bundle: Bundle, table: str) -> Int64Array | None:
    """A table of integers, mapped; None if there is none, or nothing in it."""
    info = bundle.manifest.tables.get(table)
    if info is None or info.dtype != "int64" or 0 in info.shape:
        return None
    return np.asarray(np.memmap(bundle.path / info.file, dtype="<i8", mode="r", shape=info.shape))
