"""A loaded retrieval model: one graph in ONNX Runtime that finds a user's best items among all.

Shapes use ``K`` items found, ``N`` items to leave out, ``S`` events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from recsys.arrays import Int64Array
from recsys.bundle import HISTORY_OUTPUTS, RETRIEVE_INPUTS, RETRIEVE_OUTPUTS, Bundle, TensorInfo
from recsys.errors import BundleError, InvalidInputError, ModelError
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import MISSING, string_keys
from recsys.features.history.records import Events, attribute_keys, missing_events
from recsys.features.names import ITEM_NAMES, Names, open_names
from recsys.serving.inference.candidate_index import Retrieved
from recsys.serving.inference.graphs import check_manifest, check_same, inputs_of, load_graph, outputs_of
from recsys.serving.inference.table_guard import TableGuard

MAX_ITEMS = 10_000
"""Most items that one request may ask for."""

_HISTORY, _TIMESTAMP = "history.", "history.timestamp"
_NOTHING = np.array([MISSING], dtype=np.int64)
_SAMPLE_ITEMS = 2


class RetrievalSession:
    """The :class:`~recsys.serving.inference.candidate_index.CandidateIndex` of a bundle: exact search in one graph.

    Made by :func:`open_retrieval`. Safe to use from several threads.

    Attributes:
        names: of the items, where they are named by strings; else None, and a key is the item's id.
        guard: asked before and after what reads the tables.
    """

    def __init__(self, bundle: Bundle, graph: ort.InferenceSession, names: Names | None, guard: TableGuard) -> None:
        self.model = bundle.manifest.model
        self.version = bundle.manifest.version
        self.features = bundle.features
        self.names = None if names is None else names.checked(guard.check)
        self.guard = guard
        self._graph = graph
        self.history_fields = tuple(
            name.removeprefix(_HISTORY) for name in inputs_of(graph) if name.startswith(_HISTORY)
        )
        self._outputs = list(_outputs(bundle))
        keys = bundle.manifest.tables.get("item_id.keys")
        self._item_count = 0 if keys is None else int(keys.shape[0]) - 1

    def retrieve(self, user_key: int, seen: Int64Array, k: int, events: Events | None = None) -> Retrieved:
        """As ``CandidateIndex.retrieve``; k is 1 to ``MAX_ITEMS``.

        Raises:
            ModelError: a score is not finite, or the bundle's tables were changed; names the release.
        """
        found = self.search(user_key, seen, k, events)
        # One that is no number is below no other: the graph never finds it, and then finds too few.
        bad = np.count_nonzero(~np.isfinite(found.scores)) or min(k, self._item_count - len(seen)) - len(found.items)
        if bad > 0:
            raise ModelError(
                f"retrieval model {self.model!r} of {self.guard.label} gave no finite number for {bad} items at least: "
                "it is unfit for this user; go back to another release, or leave this one out of what is served"
            )
        return found

    def search(self, user_key: int, seen: Int64Array, k: int, events: Events | None = None) -> Retrieved:
        """As :meth:`retrieve`, whatever the scores are."""
        if not 1 <= k <= MAX_ITEMS:
            raise InvalidInputError(f"{k:,} items were asked for; allowed: 1 to {MAX_ITEMS:,}")
        given = {
            "user_id": np.array([user_key], dtype=np.int64),
            "seen": seen if len(seen) else _NOTHING,
            "k": np.array(k, dtype=np.int64),
            **history_columns(self.features, events, self.history_fields),
        }
        with self.guard.reading():
            items, scores, known, *of_history = self._graph.run(self._outputs, given)
        history_known = int(of_history[0][0]) if of_history else 0
        read = len(events) if self.history_fields and events is not None else 0
        return Retrieved(items, scores, bool(known[0]), history_known, read - history_known)


def history_columns(features: FeatureSet, events: Events | None, fields: Sequence[str]) -> dict[str, Int64Array]:
    """Inputs ``history.<field>`` of a graph, [max(S, 1)]; without events a missing one, as ranking graphs get it.

    Args:
        features: of the bundle.
        events: oldest first; of a store that may have more attributes, or lack some, which are then missing.
        fields: that the graph reads.
    """
    if events is None or not len(events):
        return {f"{_HISTORY}{field}": np.full(1, MISSING, dtype=np.int64) for field in fields}
    columns = {
        features.item_id.name: events["item"].astype(np.int64),
        "timestamp": events["timestamp"].astype(np.int64),
    }
    for attribute in () if features.history is None else features.history.attributes:
        if attribute.name in fields:
            has = attribute.name in (events.dtype.names or ())
            keys = attribute_keys(attribute, events) if has else np.full(len(events), MISSING, dtype=np.int64)
            columns[attribute.name] = keys
    return {f"{_HISTORY}{field}": columns[field] for field in fields}


def open_retrieval(
    bundle: Bundle, *, intra_op_threads: int = 1, release: str = "", low_priority: bool = False
) -> RetrievalSession:
    """Load a bundle's graph, check its signature, and run it once.

    Args:
        bundle: whose it is.
        intra_op_threads: threads inside one run.
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
        graph = load_graph(bundle, "retrieve", intra_op_threads, operators="standard", low_priority=low_priority)
        return _open(bundle, guard, graph)


def _open(bundle: Bundle, guard: TableGuard, graph: ort.InferenceSession) -> RetrievalSession:
    check_manifest(bundle, "retrieve", graph)
    for side, expected, found in (
        ("input", _inputs(bundle, inputs_of(graph)), inputs_of(graph)),
        ("output", _outputs(bundle), outputs_of(graph)),
    ):
        for name in [*expected, *found]:
            where = f"graph 'retrieve', {side} {name!r}"
            check_same(bundle, where, expected.get(name), found.get(name), source="the specification")
    session = RetrievalSession(bundle, graph, _names(bundle), guard)
    # A user of each kind. The known one's search reads the whole item table: the first request need not wait for that.
    if session.history_fields:
        samples = [(MISSING, None), (MISSING, _known_events(bundle))]
    else:
        samples = [(MISSING, None), (_known_user(bundle), None)]
    for user_key, events in samples:
        _check_sample(bundle, session, user_key, events)
    return session


def _inputs(bundle: Bundle, found: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Inputs that the graph may have: those of all, and by history those of the events that it names.

    Raises:
        BundleError: it knows users by a history that its FeatureSet does not declare.
    """
    if bundle.manifest.knows_users_by == "id":
        return RETRIEVE_INPUTS
    history = bundle.features.history
    if history is None:
        raise BundleError(
            f"{bundle.path}: it knows users by their history, but its FeatureSet declares none; export the bundle again"
        )
    item = f"{_HISTORY}{bundle.features.item_id.name}"
    may = {item, _TIMESTAMP, *(f"{_HISTORY}{attribute.name}" for attribute in history.attributes)}
    read = {item, *(may & set(found))}
    return {**RETRIEVE_INPUTS, **{name: TensorInfo(dtype="int64", shape=("S",)) for name in sorted(read)}}


def _outputs(bundle: Bundle) -> dict[str, TensorInfo]:
    by_history = bundle.manifest.knows_users_by == "history"
    return {**RETRIEVE_OUTPUTS, **HISTORY_OUTPUTS} if by_history else RETRIEVE_OUTPUTS


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


def _integers(bundle: Bundle, table: str) -> Int64Array | None:
    """A table of integers, mapped; None if there is none, or nothing in it."""
    info = bundle.manifest.tables.get(table)
    if info is None or info.dtype != "int64" or 0 in info.shape:
        return None
    return np.asarray(np.memmap(bundle.path / info.file, dtype="<i8", mode="r", shape=info.shape))
