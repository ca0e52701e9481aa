"""Training's lookup of rows and the exported lookup of raw ids assemble the same vectors."""

import numpy as np
import pytest
import torch
from tiny_run import NAMESAKES, PLAIN, odd_dataset, tiny_dataset
from torch import Tensor

from recsys.data.samples import Dataset, id_counts, make_batch
from recsys.embeddings.dense_twin import DenseTwin, RawInputs
from recsys.embeddings.row_maps import RowMap, build_vocabulary
from recsys.embeddings.tables import BatchConverter, TableSpec, input_tables
from recsys.embeddings.vectors import (
    LookedUp,
    item_vectors,
    item_width,
    key_vectors,
    key_width,
    query_vectors,
    user_vectors,
    user_width,
)
from recsys.features.columns import Column
from recsys.features.encode import EncodedBatch
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import KEY_LIMIT, MISSING

SIDES = {
    "user": (user_vectors, user_width),
    "item": (item_vectors, item_width),
    "query": (query_vectors, key_width),
    "key": (key_vectors, key_width),
}


class Case:
    """A FeatureSet with random tables, and a batch with known, unknown and missing ids."""

    def __init__(self, dataset: Dataset) -> None:
        self.features = features = dataset.table.features
        generator = torch.Generator().manual_seed(3)
        self.maps: dict[str, RowMap] = {
            t: build_vocabulary(*found) for t, found in id_counts(dataset, np.arange(100)).items()
        }
        self.dims = {table: 4 + 4 * (i % 2) for i, table in enumerate(self.maps)}
        # The unknown row is not zero here, so that it shows.
        self.weights = {t: torch.randn(m.num_rows, self.dims[t], generator=generator) for t, m in self.maps.items()}
        batch = make_batch(dataset, np.arange(90, 120))
        self.columns: dict[str, Column] = {
            **batch.user,
            **{f"item.{name}": column for name, column in batch.item.items()},
            **batch.history,
        }
        self.keys = {name: self.with_oddities(name, column) for name, column in self.columns.items()}
        self.batch = batch
        assert {f.name for f in features.categoricals()}

    def with_oddities(self, name: str, column: Column) -> Column:
        if column.dtype == np.float32:
            return column
        odd = column.copy()
        odd[0] = KEY_LIMIT - 1 if name != "history.action" else 77
        odd[1] = MISSING
        return odd

    def looked_up(self) -> LookedUp:
        tables = input_tables(self.features)
        rows = {
            name: c if c.dtype == np.float32 else np.where(c == MISSING, MISSING, self.maps[tables[name]].lookup(c))
            for name, c in self.keys.items()
        }
        encoded = EncodedBatch(
            user={n: rows[n] for n in self.batch.user},
            item={n: rows[f"item.{n}"] for n in self.batch.item},
            history={n: rows[n] for n in self.batch.history},
            history_offsets=self.batch.history_offsets,
            labels=self.batch.labels,
        )
        specs = [TableSpec(name=t, num_rows=m.num_rows, dim=self.dims[t]) for t, m in self.maps.items()]
        converted = BatchConverter(self.features, specs)(encoded)
        return LookedUp(converted, {t: self.weights[t][converted.rows[t].values()] for t in self.maps})

    def raw(self) -> RawInputs:
        twin = DenseTwin(self.weights, self.maps)
        side = {name: torch.from_numpy(column) for name, column in self.keys.items() if name.startswith("item.")}
        rest = {name: torch.from_numpy(column) for name, column in self.keys.items() if name not in side}
        return RawInputs(twin, {**side, **rest})

    def expected(self, parts: list[tuple[str, Feature]], length: int) -> Tensor:
        """By the definition, one value at a time."""
        return torch.stack(
            [torch.cat([self.vector(name, feature, n) for name, feature in parts]) for n in range(length)]
        )

    def vector(self, name: str, feature: Feature, n: int) -> Tensor:
        if not isinstance(feature, Categorical):
            return torch.tensor([self.keys[name][n]])
        weights, row_map = self.weights[feature.table], self.maps[feature.table]
        values = self.keys[name][n] if name in self.keys else np.array(MISSING)  # a stand-in: always missing
        if values.ndim == 0:
            return weights[int(row_map.lookup(values.reshape(1))[0])]
        present = [int(row_map.lookup(np.array([v]))[0]) for v in values if v != MISSING]
        return torch.stack([weights[r] for r in present]).mean(dim=0) if present else torch.zeros(weights.shape[1])


@pytest.fixture(scope="module", params=["movielens", "namesakes", "plain"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("odd")
    made = {
        "movielens": tiny_dataset,
        "namesakes": lambda: odd_dataset(NAMESAKES, folder),
        "plain": lambda: odd_dataset(PLAIN, folder),
    }
    return Case(made[request.param]())


def parts_of(features: FeatureSet, side: str) -> list[tuple[str, Feature]]:
    assert features.history is not None
    attributes = features.history.attributes
    item = {f.name for f in features.item}
    compared = {a.name for a in attributes} & item
    return {
        "user": [(f.name, f) for f in (features.user_id, *features.user, *features.context)],
        "item": [(f"item.{f.name}", f) for f in features.item if f.name not in compared],
        "query": [
            (f"item.{features.item_id.name}", features.item_id),
            *((f"item.{a.name}" if a.name in item else f"query.{a.name}", a) for a in attributes),
        ],
        "key": [
            (f"history.{features.item_id.name}", features.item_id),
            *((f"history.{a.name}", a) for a in attributes),
        ],
    }[side]


@pytest.mark.parametrize("side", SIDES)
def test_both_inputs_give_the_vectors_of_the_definition(case: Case, side: str) -> None:
    assemble, width = SIDES[side]
    parts = parts_of(case.features, side)
    length = len(case.batch.labels) if side != "key" else int(case.batch.history_offsets[-1])
    looked_up, raw = assemble(case.features, case.looked_up()), assemble(case.features, case.raw())
    assert looked_up.shape == raw.shape == (length, width(case.features, case.dims))
    if parts:
        expected = case.expected(parts, length)
        torch.testing.assert_close(looked_up, expected)
        torch.testing.assert_close(raw, expected)


def test_ids_known_unknown_and_missing_all_occur(case: Case) -> None:
    """The test above means nothing without them."""
    name = f"item.{case.features.item_id.name}"
    rows = case.maps[case.features.item_id.table].lookup(case.keys[name])
    assert case.keys[name][0] == KEY_LIMIT - 1 and rows[0] == 0 or case.features.name != "movielens_1m"
    assert case.keys[name][1] == MISSING and rows[1] == 0
    assert (rows[2:] > 0).any()
