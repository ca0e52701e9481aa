"""Certificate of an export: the exported graphs answer what the trained model answers, on real samples.

A sample is put through both ways. Torch scores it in a batch as training cuts it, from rows looked up
in TorchRec tables. ONNX Runtime scores it as a request: the bytes that a store would hold are read
back and go through the serving encoder. So the certificate covers the encoder, the graphs and the
tables. Each request also carries candidates other than the sample's own, and the edge cases: one
candidate, no history, an unknown user, an unknown item, missing features.

A model with a state is asked twice: with the whole history, and with the state of its older events, cut at a random
place, and the newest ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import Certificate
from recsys.data.log.event_table import user_events
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.row_codes import encode_ids
from recsys.embeddings.tables import ITEM, input_tables
from recsys.errors import BundleError
from recsys.export.graphs.modules import STATE_FRESH, STATE_NEXT, STATE_SUMS
from recsys.features.columns import Column, missing_column
from recsys.features.encode import EncodedBatch, EncodedRequest, encode_request
from recsys.features.entities import pack_rows, unpack_rows
from recsys.features.feature_set import Feature, FeatureSet
from recsys.features.hashing import KEY_LIMIT
from recsys.features.history.records import Events, unpack_events
from recsys.features.history.rules import visible
from recsys.models.ranking.network import StatefulNet
from recsys.operators import Operators, use_operators
from recsys.training.trained import TrainedModel, check_same_data

TOLERANCE = 1e-4
REQUESTS = 64
CANDIDATES = 32

_PLAIN = 7
"""Number of a request without anything odd."""


def certify(folder: Path, trained: TrainedModel, dataset: Dataset) -> Certificate:
    """Compare logits on ``REQUESTS`` real requests of up to ``CANDIDATES`` candidates.

    The model must be in evaluation mode: in training, dropout and Dice depend on the batch.

    Raises:
        BundleError: a difference above ``TOLERANCE``.
        ConfigError: the model was trained on other data.
    """
    check_same_data(trained, dataset)
    graphs = OrtGraphs(folder)
    net, random = trained.model.module.net, np.random.Generator(np.random.PCG64(1))
    newest = net.newest if isinstance(net, StatefulNet) else 0
    worst, requests, compared = 0.0, 0, 0
    for number, index, items in _chosen(dataset):
        request = _request(dataset, index, items, number)
        expected = torch_logits(trained, _sample(dataset, index, items, number))
        answers = {"": graphs.logits(request)}
        if graphs.encode is not None:
            covered = int(random.integers(0, request.history_events, endpoint=True))
            of_state = graphs.logits_from_state(request, covered, newest=newest)
            answers[f", {covered} events of its history as a state"] = of_state
        for how, got in answers.items():
            difference = float(np.abs(got - expected).max())
            if not difference <= TOLERANCE:  # NaN is refused too
                raise BundleError(
                    f"certificate: ONNX Runtime's logit differs from torch's by {difference:.2e} on sample {index}{how}"
                    f"; allowed: {TOLERANCE:.0e}. The bundle was not written"
                )
            worst = max(worst, difference)
        requests, compared = requests + 1, compared + len(expected)
    return Certificate(
        requests=requests,
        candidates=compared,
        max_abs_logit_difference=worst,
        tolerance=TOLERANCE,
        compared=f"torch {torch.__version__} with onnxruntime {onnxruntime.__version__}, CPU",
    )


def certificate_logits(trained: TrainedModel, dataset: Dataset) -> Float32Array:
    """Torch's logits of all candidates of the certificate's requests, one after another."""
    asked = (_sample(dataset, index, items, number) for number, index, items in _chosen(dataset))
    return np.concatenate([torch_logits(trained, sample) for sample in asked])


def graph_certificate_logits(folder: Path, dataset: Dataset, *, operators: Operators = "standard") -> Float32Array:
    """The graphs' logits of the same, in the same order."""
    graphs = OrtGraphs(folder, operators=operators)
    requests = (_request(dataset, index, items, number) for number, index, items in _chosen(dataset))
    return np.concatenate([graphs.logits(request) for request in requests])


def graph_logits(
    folder: Path, dataset: Dataset, indices: Int64Array, *, operators: Operators = "standard"
) -> Float32Array:
    """The graphs' logits of samples, each asked for before other items: [len(indices), CANDIDATES]."""
    graphs, random = OrtGraphs(folder, operators=operators), np.random.Generator(np.random.PCG64(2))
    logits = np.empty((len(indices), CANDIDATES), dtype=np.float32)
    for row, index in enumerate(indices.tolist()):
        others = random.integers(0, len(dataset.table.item_keys), size=CANDIDATES - 1)
        items = np.concatenate([[dataset.sample_item[index]], others])
        logits[row] = graphs.logits(_request(dataset, index, items, _PLAIN))
    return logits


class OrtGraphs:
    """The graphs of a bundle folder in bare ONNX Runtime, one thread.

    Attributes:
        encode: None if the model has no state.
    """

    def __init__(self, folder: Path, *, operators: Operators = "standard") -> None:
        self.user = _session(folder / "user.onnx", operators)
        self.rank = _session(folder / "rank.onnx", operators)
        self.encode = _session(folder / "encode.onnx", operators) if (folder / "encode.onnx").is_file() else None
        self._state_shape = {i.name: i.shape for i in self.user.get_inputs()}.get(STATE_SUMS)

    def logits(self, request: EncodedRequest) -> Float32Array:
        """Logits of one request's candidates, from its whole history."""
        state: dict[str, Any] = {}
        if self._state_shape is not None:
            fresh = np.ones(_columns_length(request), dtype=np.float32)
            state = {STATE_SUMS: np.zeros(self._state_shape, dtype=np.float32), STATE_FRESH: fresh}
        return self._run({**request.user, **state}, request.candidates)

    def logits_from_state(self, request: EncodedRequest, covered: int, *, newest: int) -> Float32Array:
        """The same from a state of the oldest ``covered`` events, the other ones, and in any case the ``newest``."""
        assert self.encode is not None and self._state_shape is not None
        history = {name: column for name, column in request.user.items() if name.startswith("history.")}
        sums = np.zeros(self._state_shape, dtype=np.float32)
        if covered:
            sums = self.encode.run(None, {name: column[:covered] for name, column in history.items()})[0]
        begin = max(0, min(covered, request.history_events - newest, _columns_length(request) - 1))
        tail = {name: column[begin:] for name, column in history.items()}
        fresh = (np.arange(begin, _columns_length(request)) >= covered).astype(np.float32)
        return self._run({**request.user, **tail, STATE_SUMS: sums, STATE_FRESH: fresh}, request.candidates)

    def _run(self, user: Mapping[str, Any], candidates: Mapping[str, Any]) -> Float32Array:
        names = [output.name for output in self.user.get_outputs()]
        side = dict(zip(names, self.user.run(None, user), strict=True))
        side.pop(STATE_NEXT, None)
        logits: Float32Array = self.rank.run(["logits"], {**side, **candidates})[0]
        return logits


def _session(file: Path, operators: Operators) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    use_operators(options, operators)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _columns_length(request: EncodedRequest) -> int:
    """Length of the history's columns: its events, or 1."""
    return max(1, request.history_events)


def torch_logits(trained: TrainedModel, request: EncodedBatch) -> Float32Array:
    """The training-side answer for one user's candidates: the user and history repeated for each."""
    features = trained.features
    tables = input_tables(features)
    sides = {"user": request.user, "item": request.item, "history": request.history}
    by_table: dict[str, dict[str, Column]] = {table: {} for table in trained.row_maps}
    for side, columns in sides.items():
        for name, column in columns.items():
            if column.dtype != np.float32:
                by_table[tables[f"{ITEM}{name}" if side == "item" else name]][f"{side}/{name}"] = column
    rows_of_codes: dict[str, Int64Array] = {}
    for table, ids in by_table.items():
        codes, rows_of_codes[table] = encode_ids(table, ids, trained.row_maps[table].lookup)
        for key, column in codes.items():
            side, _, name = key.partition("/")
            sides[side] = {**sides[side], name: column}
    candidates = len(request.item[features.item_id.name])
    events = int(request.history_offsets[-1])
    batch = EncodedBatch(
        user={n: np.repeat(c, candidates, axis=0) for n, c in sides["user"].items()},
        item=sides["item"],
        history={n: np.tile(c, candidates) for n, c in sides["history"].items()},
        history_offsets=np.arange(candidates + 1, dtype=np.int64) * events,
        labels=np.zeros(candidates, dtype=np.float32),
    )
    with torch.no_grad():
        logits, _ = trained.model(trained.convert(batch, rows_of_codes).to(trained.device))
    result: Float32Array = logits.cpu().numpy()
    return result


def _chosen(dataset: Dataset) -> Iterator[tuple[int, int, Int64Array]]:
    """Number, sample and candidates of each request; the same ones every time."""
    random = np.random.Generator(np.random.PCG64(0))
    indices = dataset.split("test") if len(dataset.split("test")) else dataset.split("train")
    for number, index in enumerate(random.choice(indices, size=min(REQUESTS, len(indices)), replace=False)):
        candidates = 1 if number % 8 == 0 else CANDIDATES
        others = random.integers(0, len(dataset.table.item_keys), size=candidates - 1)
        yield number, int(index), np.concatenate([[dataset.sample_item[index]], others])


def _sample(dataset: Dataset, index: int, items: Int64Array, number: int) -> EncodedBatch:
    """The training side of request ``number``: the sample's user and history as a batch, and these candidates."""
    features = dataset.table.features
    batch = make_batch(dataset, np.array([index]))
    batch.item.update({name: column[items] for name, column in dataset.item.items()})
    if number % 8 == 1:
        batch.history_offsets[-1] = 0
        batch.history.update({name: column[:0] for name, column in batch.history.items()})
    if number % 8 == 2:
        batch.user[features.user_id.name] = np.array([KEY_LIMIT - 1])
    if number % 8 == 3:
        batch.item[features.item_id.name][0] = KEY_LIMIT - 1
    if number % 8 == 4:
        for side, declared in ((batch.user, (*features.user, *features.context)), (batch.item, features.item)):
            side.update({f.name: missing_column(f, len(side[f.name])) for f in declared})
    return batch


def sample_request(dataset: Dataset, index: int, items: Int64Array, features: FeatureSet) -> EncodedRequest:
    """A sample as a request of a bundle, from what a store loaded with the dataset's table answers.

    Args:
        dataset: with keys.
        index: of the sample.
        items: candidates, row numbers of the table's items, [C].
        features: of the bundle; the table's, or one that it extends.
    """
    return _request(dataset, index, items, _PLAIN, features)


def _request(
    dataset: Dataset, index: int, items: Int64Array, number: int, features: FeatureSet | None = None
) -> EncodedRequest:
    """The same as a request, from what a store loaded with the table answers: bytes, and nothing for the unknown."""
    table, features = dataset.table, features or dataset.table.features
    user = int(dataset.sample_user[index])
    row = dataset.context_row[index : index + 1]
    user_key, item_keys = int(table.user_keys[user]), table.item_keys[items]
    user_columns = _through_rows(features.user, table.users, np.array([user]))
    context = {f.name: dataset.context[f.name][row] for f in features.context}
    item_columns = _through_rows(features.item, table.items, items)
    events: Events | None = None
    if features.history is not None:
        events = _known_then(dataset, user, int(dataset.sample_time_ms[index]), features)
    if number % 8 == 1:
        events = None
    if number % 8 == 2:
        user_key = KEY_LIMIT - 1
    if number % 8 == 3:
        item_keys[0] = KEY_LIMIT - 1
    if number % 8 == 4:
        user_columns, item_columns, context = {}, {}, {}
    encoded = encode_request(
        features,
        user_key=user_key,
        user_columns=user_columns,
        request_values={},
        events=events,
        item_keys=item_keys,
        item_columns=item_columns,
    )
    return replace(encoded, user={**encoded.user, **context})  # no store has the context


def _known_then(dataset: Dataset, user: int, time_ms: int, features: FeatureSet) -> Events:
    """The user's history as a store held it at that time, and a bundle of these features reads it."""
    events = unpack_events(dataset.table.features, user_events(dataset.table, user).tobytes())
    return visible(features, events, time_ms)


def _through_rows(
    declared: tuple[Feature, ...], columns: Mapping[str, Column], indices: Int64Array
) -> dict[str, Column]:
    """Features of entities, packed and unpacked as the store does it."""
    chosen = {f.name: columns[f.name][indices] for f in declared}
    return unpack_rows(declared, pack_rows(declared, chosen)) if declared else {}
