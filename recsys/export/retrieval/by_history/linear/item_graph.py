"""The graph ``item`` of a model whose items have rows by their attributes: the look-up and the sum of their parts.

Inputs are encoded as those of a ranking bundle's ``rank`` graph, by the same modules.

Legend: ``A`` items, ``R`` columns of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recsys.bundle import ITEM_OUTPUTS, GraphInfo, TableInfo
from recsys.embeddings.dense_twin import DenseTwin, RawInputs, alike
from recsys.embeddings.numbers import NumberInputs
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.embeddings.tables import ITEM
from recsys.export.graphs.files import write_graph
from recsys.export.graphs.modules import Example, example_input
from recsys.export.retrieval.by_history.given import given_numbers
from recsys.features.feature_set import Categorical, Feature, FeatureSet, Numeric
from recsys.models.retrieval.attributes import AttributeRows


def write_item_graph(
    attributes: AttributeRows, features: FeatureSet, folder: Path
) -> tuple[GraphInfo, dict[str, TableInfo]]:
    """Write ``item.onnx`` and its files in ``tables/``.

    Args:
        attributes: of the model.
        features: declares them.
        folder: of the bundle.
    """
    graph = AttributeGraph(attributes, features)
    tables: dict[str, TableInfo] = {}
    return write_graph(graph, graph.example(), folder / "item.onnx", tables), tables


class AttributeGraph(nn.Module):
    """``AttributeRows.rows``. Inputs: the item features that are read, alike ones stacked; outputs: rows, known.

    A vector's last column is 1 for a value that is known, so that one look-up gives both.
    """

    def __init__(self, attributes: AttributeRows, features: FeatureSet) -> None:
        super().__init__()
        # Two attributes may share ids; here each has vectors of its own.
        own = tuple(
            replace(each, table=each.name) if isinstance(each, Categorical) else each
            for each in attributes.encoding.features
        )
        self.item: dict[str, Feature] = {f"{ITEM}{each.name}": each for each in own}
        self.ids = [each for each in own if isinstance(each, Categorical)]
        self.given = [each for each in own if isinstance(each, Numeric)]
        alone = replace(features, user=(), item=own, context=(), history=None)
        numbers = {f"{ITEM}{name}": transform for name, transform in attributes.encoding.numbers.items()}
        vectors, row_maps = {}, {}
        for each in self.ids:
            weights = attributes.weights_of(each)
            rows = np.zeros((len(weights) + 1, weights.shape[1] + 1), dtype=np.float32)
            rows[1:, :-1], rows[1:, -1] = weights, 1.0
            vectors[each.name] = torch.from_numpy(rows)
            ids = build_id_table(attributes.encoding.keys[each.name], np.arange(1, len(rows)))
            lookup = Lookup(table=each.name, num_rows=len(rows), exact="row")
            row_maps[each.name] = RowMap(kind="vocabulary", lookups=(lookup,), ids=ids)
        self.twin = DenseTwin(vectors, row_maps, NumberInputs(alone, numbers))
        self.stacks = alike(self.twin, self.item)
        self.register_buffer("base_R", torch.from_numpy(attributes.base_R))
        of_numbers = [attributes.weights_of(each) for each in self.given]
        self.register_buffer("number_weights_FR", torch.from_numpy(np.concatenate(of_numbers)) if of_numbers else None)

    base_R: Tensor
    number_weights_FR: Tensor

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        named: Mapping[tuple[str, ...], Tensor] = dict(zip(self.stacks, tensors, strict=True))
        inputs = RawInputs(self.twin, self.item, named)
        parts, known = [], []
        for each in self.ids:
            vectors_AR = inputs.vectors(f"{ITEM}{each.name}", each)
            parts.append(vectors_AR[:, :-1])
            known.append((vectors_AR[:, -1] > 0).to(torch.int64))
        if self.given:
            parts.append(inputs.numbers("item") @ self.number_weights_FR)
            known.append(given_numbers(self.twin, named, self.given))
        rows_AR, known_A = self.base_R + parts[0], known[0]
        for part_AR, more_A in zip(parts[1:], known[1:], strict=True):
            rows_AR, known_A = rows_AR + part_AR, known_A + more_A
        return rows_AR, known_A

    def example(self) -> Example:
        """The signature of the graph."""
        inputs = {name.removeprefix(ITEM): example_input(feature, 5) for name, feature in self.item.items()}
        dynamic = {name: {0: "A"} for name in (*inputs, *ITEM_OUTPUTS)}
        stacks = [tuple(name.removeprefix(ITEM) for name in names) for names in self.stacks]
        return Example(inputs=inputs, outputs=ITEM_OUTPUTS, dynamic=dynamic, stacks=stacks)
