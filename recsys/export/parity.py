"""The parity certificate: the exported graphs answer what the trained model answers, on real samples.

A sample is put through both ways: torch scores it in a batch, from rows looked up in TorchRec
tables; ONNX Runtime scores it as a request would be, from raw ids. Each request also carries
candidates other than the sample's own, and the edge cases: one candidate, no history, an unknown
user, an unknown item, missing features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from recsys.bundle import Parity
from recsys.data.samples import Dataset, make_batch
from recsys.embeddings.tables import ITEM, input_tables
from recsys.errors import BundleError
from recsys.features.columns import Column, missing_column
from recsys.features.encode import EncodedBatch
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import KEY_LIMIT, MISSING
from recsys.training.loop import TrainedModel

TOLERANCE = 1e-4
REQUESTS = 64
CANDIDATES = 32


def certify(folder: Path, trained: TrainedModel, dataset: Dataset) -> Parity:
    """Compare logits on ``REQUESTS`` real requests of up to ``CANDIDATES`` candidates.

    The model must be in evaluation mode: in training, dropout and Dice depend on the batch.

    Raises:
        BundleError: a difference above ``TOLERANCE``.
    """
    random = np.random.Generator(np.random.PCG64(0))
    indices = dataset.split("test") if len(dataset.split("test")) else dataset.split("train")
    chosen = random.choice(indices, size=min(REQUESTS, len(indices)), replace=False)
    graphs = OrtGraphs(folder)
    worst, compared = 0.0, 0
    for number, index in enumerate(chosen):
        candidates = 1 if number % 8 == 0 else CANDIDATES
        request = _request(dataset, int(index), random, candidates=candidates)
        _make_edge_case(dataset.table.features, request, number)
        got = graphs.logits(request)
        expected = torch_logits(trained, request)
        difference = float(np.abs(got - expected).max())
        if not difference <= TOLERANCE:  # NaN is refused too
            raise BundleError(
                f"parity: ONNX Runtime's logit differs from torch's by {difference:.2e} on sample {index}; "
                f"allowed: {TOLERANCE:.0e}. The bundle was not written"
            )
        worst = max(worst, difference)
        compared += len(got)
    return Parity(
        requests=len(chosen),
        candidates=compared,
        max_abs_logit_difference=worst,
        tolerance=TOLERANCE,
        compared=f"torch {torch.__version__} with onnxruntime {onnxruntime.__version__}, CPU",
    )


class OrtGraphs:
    """The two graphs of a bundle folder in bare ONNX Runtime, one thread."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.user = onnxruntime.InferenceSession(folder / "user.onnx", options, providers=["CPUExecutionProvider"])
        self.rank = onnxruntime.InferenceSession(folder / "rank.onnx", options, providers=["CPUExecutionProvider"])
        self._side = [output.name for output in self.user.get_outputs()]

    def logits(self, request: EncodedBatch) -> npt.NDArray[np.float32]:
        """Logits of one user's candidates; ``request.item`` holds them."""
        history = {n: c if len(c) else np.full(1, MISSING, dtype=np.int64) for n, c in request.history.items()}
        side = self.user.run(None, {**request.user, **history})
        inputs: dict[str, Any] = {**dict(zip(self._side, side, strict=True)), **request.item}
        logits: npt.NDArray[np.float32] = self.rank.run(["logits"], inputs)[0]
        return logits


def torch_logits(trained: TrainedModel, request: EncodedBatch) -> npt.NDArray[np.float32]:
    """The training-side answer for one user's candidates: the user and history repeated for each."""
    features, row_maps = trained.features, trained.row_maps
    tables = input_tables(features)

    def rows(columns: Mapping[str, Column], prefix: str = "") -> dict[str, Column]:
        mapped = {}
        for name, column in columns.items():
            if column.dtype == np.float32:
                mapped[name] = column
            else:
                found = row_maps[tables[prefix + name]].lookup(column)
                mapped[name] = np.where(column == MISSING, MISSING, found)
        return mapped

    candidates = len(request.item[features.item_id.name])
    events = int(request.history_offsets[-1])
    batch = EncodedBatch(
        user={n: np.repeat(c, candidates, axis=0) for n, c in rows(request.user).items()},
        item=rows(request.item, ITEM),
        history={n: np.tile(c, candidates) for n, c in rows(request.history).items()},
        history_offsets=np.arange(candidates + 1, dtype=np.int64) * events,
        labels=np.zeros(candidates, dtype=np.float32),
    )
    with torch.no_grad():
        logits, _ = trained.model(trained.convert(batch).to(trained.device))
    result: npt.NDArray[np.float32] = logits.cpu().numpy()
    return result


def _request(dataset: Dataset, index: int, random: np.random.Generator, *, candidates: int) -> EncodedBatch:
    """One user's history and features with the sample's item first and random other candidates."""
    batch = make_batch(dataset, np.array([index]))
    others = random.integers(0, len(dataset.table.item_keys), size=candidates - 1)
    items = np.concatenate([[dataset.sample_item[index]], others])
    return EncodedBatch(
        user=batch.user,
        item={name: column[items] for name, column in dataset.item.items()},
        history=batch.history,
        history_offsets=batch.history_offsets,
        labels=batch.labels,
    )


def _make_edge_case(features: FeatureSet, request: EncodedBatch, number: int) -> None:
    """Alter some requests: no history, unknown user, unknown item, every feature missing."""
    if number % 8 == 1:
        request.history_offsets[-1] = 0
        for name, column in request.history.items():
            request.history[name] = column[:0]
    if number % 8 == 2:
        request.user[features.user_id.name] = np.array([KEY_LIMIT - 1])
    if number % 8 == 3:
        request.item[features.item_id.name] = request.item[features.item_id.name].copy()
        request.item[features.item_id.name][0] = KEY_LIMIT - 1
    if number % 8 == 4:
        for side, declared in ((request.user, (*features.user, *features.context)), (request.item, features.item)):
            side.update({f.name: missing_column(f, len(side[f.name])) for f in declared})
