"""The reference model exported as PyTorch writes it: one graph, no user side, nothing folded.

Two forms of the inputs: the user's repeated for each candidate (*flat*), or sent once and repeated inside the graph.
Ids are rows of the tables, so the graph spares itself the id maps. Everything else is the textbook's: DIN's activation
unit on the concatenation [q, k, q - k, q * k], SDIM's buckets found for each candidate by comparing signatures, or the
history's mean in their place.

Legend: ``C`` candidates, ``S`` events, ``D`` key width, ``U`` user width, ``G`` signatures.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.arrays import Int64Array
from recsys.embeddings.sharding.shard import table_weights
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.models.ranking.attention import ActivationUnit
from recsys.models.ranking.blocks import PRelu
from recsys.models.ranking.long_attention import MeanBlock, SdimBlock
from recsys.models.ranking.sdim import Sdim
from recsys.training.trained import TrainedModel

OPSET = 21
_INSIDE_BYTES = 1 << 20
"""Larger tensors lie in a file beside the graph."""


class FlatModel(nn.Module):
    """A request to the scores of its candidates, by the layers of a trained SDIM.

    Args:
        trained: its features are single ids; its long block is ``sdim`` or ``mean``.
        repeated: the user's inputs come once per candidate.
    """

    def __init__(self, trained: TrainedModel, *, repeated: bool) -> None:
        super().__init__()
        net = trained.model.module.net
        assert isinstance(net, Sdim) and isinstance(net.short, ActivationUnit)
        assert isinstance(net.long, SdimBlock | MeanBlock)
        self.features, self.net, self.repeated = trained.features, net, repeated
        self.names = flat_inputs(trained.features)
        weights = table_weights(trained.model)
        self.tables = nn.ModuleDict({f"table_{t}": nn.Embedding.from_pretrained(w) for t, w in weights.items()})
        self.unit = nn.Sequential(
            net.short.first,
            plain(net.short.first_act),
            net.short.second,
            plain(net.short.second_act),
            net.short.last,
        )
        self.head = nn.Sequential(*(plain(layer) for layer in net.head))

    def forward(self, *rows: Tensor) -> Tensor:
        """Scores, [C]; inputs in the order of :func:`flat_inputs`."""
        given = dict(zip(self.names, rows, strict=True))
        columns = [f.name for f in self.features.event_features()]
        query_CD = torch.cat([self._vectors(name, given[name]) for name in columns], dim=1)
        user_CU = self._vectors(self.names[0], given[self.names[0]])
        present_CS = (given[f"history.{columns[0]}"] >= 0).float()
        keys_CSD = torch.cat([self._vectors(name, given[f"history.{name}"]) for name in columns], dim=-1)
        if not self.repeated:
            count = query_CD.shape[0]
            user_CU = user_CU.expand(count, -1)
            keys_CSD, present_CS = keys_CSD.expand(count, -1, -1), present_CS.expand(count, -1)
        interests = [self._short(query_CD, keys_CSD, present_CS), self._long(query_CD, keys_CSD, present_CS)]
        products = [interest_CD * query_CD for interest_CD in interests]
        logits_C1 = self.head(torch.cat([user_CU, *interests, query_CD, *products], dim=1))
        return torch.sigmoid(logits_C1).squeeze(1)

    def _vectors(self, name: str, rows: Tensor) -> Tensor:
        found: Tensor = self.tables[f"table_{_features(self.features)[name].table}"](rows.clamp_min(0))
        return found

    def _short(self, query_CD: Tensor, keys_CSD: Tensor, present_CS: Tensor) -> Tensor:
        queries_CSD = query_CD[:, None].expand(-1, keys_CSD.shape[1], -1)
        compared = torch.cat([queries_CSD, keys_CSD, queries_CSD - keys_CSD, queries_CSD * keys_CSD], dim=-1)
        weights_CS = self.unit(compared).squeeze(-1) * present_CS
        return (weights_CS[:, None] @ keys_CSD).squeeze(1)

    def _long(self, query_CD: Tensor, keys_CSD: Tensor, present_CS: Tensor) -> Tensor:
        long = self.net.long
        if isinstance(long, MeanBlock):
            return (present_CS[:, None] @ keys_CSD).squeeze(1) / present_CS.sum(dim=1, keepdim=True).clamp_min(1.0)
        assert isinstance(long, SdimBlock)
        events = long.signatures.buckets_of(keys_CSD.flatten(0, 1)).view(*keys_CSD.shape[:2], -1)
        same_CSG = (events == long.signatures.buckets_of(query_CD)[:, None]).float() * present_CS[..., None]
        return F.normalize(same_CSG.transpose(1, 2) @ keys_CSD, dim=2).mean(dim=1)


def plain(layer: nn.Module) -> nn.Module:
    """PyTorch's own PReLU in place of this project's, which its exporter does not know."""
    if not isinstance(layer, PRelu):
        return layer
    return nn.PReLU(1, init=layer.slope.item())


def flat_inputs(features: FeatureSet) -> list[str]:
    """Names of the inputs: the user's id, the history's columns, the candidates'."""
    columns = [f.name for f in features.event_features()]
    return [features.user_id.name, *(f"history.{name}" for name in columns), *columns]


def export_flat(trained: TrainedModel, path: Path, *, repeated: bool) -> Path:
    """Write the graph as ``path``, and its tables beside it.

    Inputs, int64 rows of the tables, -1 for no event: with ``repeated`` ``user`` [C], ``history.*`` [C, S] and the
    candidates' columns [C], else [1], [1, S] and [C]. Output: ``scores`` [C], float32.
    """
    model = FlatModel(trained, repeated=repeated).eval()
    candidates, events = 5, 7
    of_user = candidates if repeated else 1
    example, dynamic = [], []
    for name in model.names:
        if name.startswith("history."):
            example.append(torch.zeros(of_user, events, dtype=torch.int64))
            dynamic.append({0: "C", 1: "S"} if repeated else {1: "S"})
        else:
            length = of_user if name == model.names[0] else candidates
            example.append(torch.zeros(length, dtype=torch.int64))
            dynamic.append({0: "C"} if length > 1 else {})
    shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes} or None for axes in dynamic)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            tuple(example),
            dynamo=True,
            input_names=model.names,
            output_names=["scores"],
            dynamic_shapes=(shapes,),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    onnx.save_model(
        program.model_proto,
        path,
        save_as_external_data=True,
        location=f"{path.stem}.tables",
        size_threshold=_INSIDE_BYTES,
    )
    return path


def rows_of(trained: TrainedModel, name: str, keys: Int64Array) -> Int64Array:
    """The table's rows for an input's keys, any shape; -1 stays -1."""
    table = _features(trained.features)[name.removeprefix("history.")].table
    return np.where(keys < 0, -1, trained.row_maps[table].lookup(keys)[..., 0])


def _features(features: FeatureSet) -> dict[str, Categorical]:
    found = {f.name: f for f in (features.user_id, *features.event_features())}
    assert all(isinstance(f, Categorical) for f in found.values()), "numbers have no rows"
    return found  # type: ignore[return-value]
