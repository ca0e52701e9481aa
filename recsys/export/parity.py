"""The parity certificate: the exported graphs answer what the trained model answers, on real samples.

A sample is put through both ways. Torch scores it in a batch as training cuts it, from rows looked up
in TorchRec tables. ONNX Runtime scores it as a request: the bytes that a store would hold are read
back and go through the serving encoder. So the certificate covers the encoder, the graphs and the
tables. Each request also carries candidates other than the sample's own, and the edge cases: one
candidate, no history, an unknown user, an unknown item, missing features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from recsys.bundle import Parity
from recsys.data.events import user_events
from recsys.data.row_codes import encode_ids
from recsys.data.samples import Dataset, make_batch
from recsys.embeddings.tables import ITEM, input_tables
from recsys.errors import BundleError
from recsys.features.columns import Column, missing_column
from recsys.features.encode import EncodedBatch, EncodedRequest, encode_request
from recsys.features.entities import pack_rows, unpack_rows
from recsys.features.feature_set import Feature
from recsys.features.hashing import KEY_LIMIT, Int64Array
from recsys.features.history import Events, unpack_events
from recsys.features.history_rules import visible
from recsys.training.trained import TrainedModel, check_same_data

TOLERANCE = 1e-4
REQUESTS = 64
CANDIDATES = 32


def certify(folder: Path, trained: TrainedModel, dataset: Dataset) -> Parity:
    """Compare logits on ``REQUESTS`` real requests of up to ``CANDIDATES`` candidates.

    The model must be in evaluation mode: in training, dropout and Dice depend on the batch.

    Raises:
        BundleError: a difference above ``TOLERANCE``.
        ConfigError: the model was trained on other data.
    """
    check_same_data(trained, dataset)
    graphs = OrtGraphs(folder)
    worst, requests, compared = 0.0, 0, 0
    for number, index, items in _chosen(dataset):
        got = graphs.logits(_request(dataset, index, items, number))
        expected = torch_logits(trained, _sample(dataset, index, items, number))
        difference = float(np.abs(got - expected).max())
        if not difference <= TOLERANCE:  # NaN is refused too
            raise BundleError(
                f"parity: ONNX Runtime's logit differs from torch's by {difference:.2e} on sample {index}; "
                f"allowed: {TOLERANCE:.0e}. The bundle was not written"
            )
        worst = max(worst, difference)
        requests, compared = requests + 1, compared + len(got)
    return Parity(
        requests=requests,
        candidates=compared,
        max_abs_logit_difference=worst,
        tolerance=TOLERANCE,
        compared=f"torch {torch.__version__} with onnxruntime {onnxruntime.__version__}, CPU",
    )


def certificate_logits(trained: TrainedModel, dataset: Dataset) -> npt.NDArray[np.float32]:
    """Torch's logits of all candidates of the certificate's requests, one after another."""
    asked = (_sample(dataset, index, items, number) for number, index, items in _chosen(dataset))
    return np.concatenate([torch_logits(trained, sample) for sample in asked])


class OrtGraphs:
    """The two graphs of a bundle folder in bare ONNX Runtime, one thread."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.user = onnxruntime.InferenceSession(folder / "user.onnx", options, providers=["CPUExecutionProvider"])
        self.rank = onnxruntime.InferenceSession(folder / "rank.onnx", options, providers=["CPUExecutionProvider"])
        self._side = [output.name for output in self.user.get_outputs()]

    def logits(self, request: EncodedRequest) -> npt.NDArray[np.float32]:
        """Logits of one request's candidates."""
        side = self.user.run(None, request.user)
        inputs: dict[str, Any] = {**dict(zip(self._side, side, strict=True)), **request.candidates}
        logits: npt.NDArray[np.float32] = self.rank.run(["logits"], inputs)[0]
        return logits


def torch_logits(trained: TrainedModel, request: EncodedBatch) -> npt.NDArray[np.float32]:
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
    result: npt.NDArray[np.float32] = logits.cpu().numpy()
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


def _request(dataset: Dataset, index: int, items: Int64Array, number: int) -> EncodedRequest:
    """The same as a request, from what a store loaded with the table answers: bytes, and nothing for the unknown."""
    table, features = dataset.table, dataset.table.features
    user = int(dataset.sample_user[index])
    row = dataset.context_row[index : index + 1]
    user_key, item_keys = int(table.user_keys[user]), table.item_keys[items]
    user_columns = _through_rows(features.user, table.users, np.array([user]))
    user_columns.update({name: column[row] for name, column in dataset.context.items()})
    item_columns = _through_rows(features.item, table.items, items)
    events: Events | None = None
    if features.history is not None:
        events = _known_then(dataset, user, int(dataset.sample_time_ms[index]))
    if number % 8 == 1:
        events = None
    if number % 8 == 2:
        user_key = KEY_LIMIT - 1
    if number % 8 == 3:
        item_keys[0] = KEY_LIMIT - 1
    if number % 8 == 4:
        user_columns, item_columns = {}, {}
    return encode_request(
        features,
        user_key=user_key,
        user_columns=user_columns,
        request_values={},
        events=events,
        item_keys=item_keys,
        item_columns=item_columns,
    )


def _known_then(dataset: Dataset, user: int, time_ms: int) -> Events:
    """The user's history as a store held it at that time."""
    features = dataset.table.features
    events = unpack_events(features, user_events(dataset.table, user).tobytes())
    return visible(features, events, time_ms)


def _through_rows(
    declared: tuple[Feature, ...], columns: Mapping[str, Column], indices: Int64Array
) -> dict[str, Column]:
    """Features of entities, packed and unpacked as the store does it."""
    chosen = {f.name: columns[f.name][indices] for f in declared}
    return unpack_rows(declared, pack_rows(declared, chosen)) if declared else {}
