"""The signature of a retrieval bundle's graphs: inputs and outputs that they may have, by the specification.

Shapes use ``S`` events, ``A`` items that are not in the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime as ort

from recsys.bundle import (
    ALL_ALLOWED,
    HISTORY_OUTPUTS,
    RETRIEVE_INPUTS,
    RETRIEVE_OUTPUTS,
    SEGMENT_OUTPUTS,
    SIMILAR_INPUTS,
    SIMILAR_OUTPUTS,
    Bundle,
    TensorInfo,
    added_inputs,
)
from recsys.errors import BundleError
from recsys.features.feature_set import Categorical, Feature
from recsys.serving.inference.graphs import check_manifest, check_same, inputs_of, outputs_of

HISTORY_PREFIX = "history."
"""Begins the name of an input that is a field of the user's events."""


def check_retrieval(bundle: Bundle, graph: ort.InferenceSession, item: ort.InferenceSession | None) -> None:
    """Compare the graphs ``retrieve`` and ``item`` with the manifest and with ``docs/specs/bundle.md``.

    Raises:
        BundleError: an input or output is missing, another or too many; names the first.
    """
    check_manifest(bundle, "retrieve", graph)
    if item is not None:
        check_manifest(bundle, "item", item)
        _check_item(bundle, item)
    inputs, outputs = inputs_of(graph), outputs_of(graph)
    for side, expected, found in (
        ("input", _retrieve_inputs(bundle, inputs), inputs),
        ("output", retrieve_outputs(bundle, inputs, outputs), outputs),
    ):
        for name in [*expected, *found]:
            where = f"graph 'retrieve', {side} {name!r}"
            check_same(bundle, where, expected.get(name), found.get(name), source="the specification")


def check_similar(bundle: Bundle, graph: ort.InferenceSession) -> None:
    """Compare the graph ``similar`` with the manifest and with ``docs/specs/bundle.md``; raises as above."""
    check_manifest(bundle, "similar", graph)
    added = added_inputs(_row_width(bundle)) if "item" in bundle.manifest.graphs else {}
    for side, expected, found in (
        ("input", {**SIMILAR_INPUTS, **added}, inputs_of(graph)),
        ("output", SIMILAR_OUTPUTS, outputs_of(graph)),
    ):
        for name in [*expected, *found]:
            where = f"graph 'similar', {side} {name!r}"
            check_same(bundle, where, expected.get(name), found.get(name), source="the specification")


def retrieve_outputs(
    bundle: Bundle, inputs: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Outputs that the graph must have: a segment's, if it has that and reads a feature of the user."""
    outputs = dict(RETRIEVE_OUTPUTS)
    if bundle.manifest.knows_users_by == "history":
        outputs |= HISTORY_OUTPUTS
    if set(SEGMENT_OUTPUTS) & set(found) and _user_inputs(bundle, inputs):
        outputs |= SEGMENT_OUTPUTS
    return outputs


def _retrieve_inputs(bundle: Bundle, found: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Inputs that the graph may have: those of all; by history those of the events and the user that it names.

    Raises:
        BundleError: it knows users by a history that its FeatureSet does not declare.
    """
    takes_added = "item" in bundle.manifest.graphs
    # A bundle of an earlier version may take no rows that are allowed.
    of_all = {name: info for name, info in RETRIEVE_INPUTS.items() if name not in ALL_ALLOWED or "allowed" in found}
    if bundle.manifest.knows_users_by == "id":
        if takes_added:
            raise BundleError(f"{bundle.path}: it has a graph 'item' and knows users by id; expected by history")
        return {**of_all, **_user_inputs(bundle, found)}
    history = bundle.features.history
    if history is None:
        raise BundleError(
            f"{bundle.path}: it knows users by their history, but its FeatureSet declares none; export the bundle again"
        )
    item = f"{HISTORY_PREFIX}{bundle.features.item_id.name}"
    may = {
        item,
        f"{HISTORY_PREFIX}timestamp",
        *(f"{HISTORY_PREFIX}{attribute.name}" for attribute in history.attributes),
    }
    read = {item, *(may & set(found))}
    added = added_inputs(_row_width(bundle)) if takes_added else {}
    events = {name: TensorInfo(dtype="int64", shape=("S",)) for name in sorted(read)}
    return {**of_all, **events, **_user_inputs(bundle, found), **added}


def _user_inputs(bundle: Bundle, found: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Those of the graph's inputs that are features of users, as they are encoded."""
    return {each.name: _feature_tensor(each, 1) for each in bundle.features.user if each.name in found}


def _row_width(bundle: Bundle) -> int:
    """Columns of the rows of graph ``item``, as the manifest says; 0 if it does not."""
    rows = bundle.manifest.graphs["item"].outputs.get("rows")
    return rows.shape[1] if rows is not None and len(rows.shape) == 2 and isinstance(rows.shape[1], int) else 0


def _check_item(bundle: Bundle, item: ort.InferenceSession) -> None:
    """Refuse a graph whose inputs are no item features, or are encoded otherwise, or whose outputs are others."""
    declared = {each.name: each for each in (bundle.features.item_id, *bundle.features.item)}
    for name, found in inputs_of(item).items():
        expected = None if name not in declared else _feature_tensor(declared[name], "A")
        check_same(bundle, f"graph 'item', input {name!r}", expected, found)
    outputs = {"rows": TensorInfo(dtype="float32", shape=("A", _row_width(bundle)))}
    outputs["known"] = TensorInfo(dtype="int64", shape=("A",))
    for name in [*outputs, *outputs_of(item)]:
        where = f"graph 'item', output {name!r}"
        check_same(bundle, where, outputs.get(name), outputs_of(item).get(name), source="the specification")


def _feature_tensor(feature: Feature, length: int | str) -> TensorInfo:
    if not isinstance(feature, Categorical):
        return TensorInfo(dtype="float32", shape=(length,))
    return TensorInfo(dtype="int64", shape=(length,) if feature.max_values == 1 else (length, feature.max_values))
