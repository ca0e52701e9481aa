"""Training's lookup of rows and the exported lookup of raw ids assemble the same vectors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny_run import NAMESAKES, PLAIN, odd_dataset, tiny_dataset
from torch import Tensor

from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.ids import id_counts
from recsys.data.samples.row_codes import encode_ids
from recsys.embeddings.dense_twin import DenseTwin, RawInputs, alike
from recsys.embeddings.numbers import NumberInputs
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.quotient_remainder import quotient_remainder
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.row_maps.unified import unified_rows
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.embeddings.tables import BatchConverter, input_tables
from recsys.embeddings.vectors import (
    LookedUp,
    item_fields,
    item_vectors,
    key_fields,
    key_vectors,
    query_vectors,
    user_fields,
    user_vectors,
)
from recsys.features.columns import Column
from recsys.features.encode import EncodedBatch
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import KEY_LIMIT, MISSING

SIDES = {
    "user": (user_vectors, user_fields),
    "item": (item_vectors, item_fields),
    "query": (query_vectors, key_fields),
    "key": (key_vectors, key_fields),
}


class Case:
    """A FeatureSet with random tables, and a batch with known, unknown and missing ids.

    ``combined``: ids are looked up in several rows, of which each way to combine them occurs.
    """

    def __init__(self, dataset: Dataset, *, combined: bool = False) -> None:
        self.features = features = dataset.table.features
        generator = torch.Generator().manual_seed(3)
        counts = id_counts(dataset, np.arange(100))
        self.maps: dict[str, RowMap] = {t: vocabulary(t, *found) for t, found in counts.items()}
        shared = {"unified_0": 4, "unified_1": 8}
        if combined:
            for i, (table, found) in enumerate(counts.items()):
                if i % 3 == 0:
                    self.maps[table] = hash_rows(table, rows=9, functions=2)
                if i % 3 == 1:
                    self.maps[table] = quotient_remainder(table, *found, rows=len(found[0]) + 5)
            chunked = [table for i, table in enumerate(counts) if i % 3 == 2]
            chunks = {table: 2 + i for i, table in enumerate(chunked)}
            self.maps |= unified_rows(chunked, rows=13, chunks=chunks, num_tables=2)
            assert {row_map.combine for row_map in self.maps.values()} == {"sum", "product", "concat"}
        widths = {table: 4 + 4 * (i % 2) for i, table in enumerate(self.maps)}
        # Row 0 is not zero here, so that it shows.
        self.weights = {
            name: torch.randn(rows, shared.get(name, widths[table]), generator=generator)
            for table, row_map in self.maps.items()
            for name, rows in row_map.table_rows().items()
        }
        self.dims = {table: len(self.vector_of(table, MISSING)) for table in self.maps}
        self.numbers = NumberInputs(features, {})
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
        columns, rows_of_codes = dict(self.keys), {}
        for table, row_map in self.maps.items():
            of_table = {n: c for n, c in self.keys.items() if tables.get(n) == table}
            codes, rows_of_codes[table] = encode_ids(table, of_table, row_map.lookup)
            columns |= codes
        encoded = EncodedBatch(
            user={n: columns[n] for n in self.batch.user},
            item={n: columns[f"item.{n}"] for n in self.batch.item},
            history={n: columns[n] for n in self.batch.history},
            history_offsets=self.batch.history_offsets,
            labels=self.batch.labels,
        )
        converted = BatchConverter(self.features, self.maps)(encoded, rows_of_codes)
        found = {}
        for table, codes in converted.codes.items():
            rows = rows_of_codes[table][codes.numpy()]
            found[table] = torch.stack([self.combined(table, each) for each in rows.tolist()])
        return LookedUp(converted, found, self.numbers)

    def raw(self, side: str) -> RawInputs:
        """Alike inputs stacked, as a graph takes them."""
        twin, of_user = DenseTwin(self.weights, self.maps, self.numbers), (*self.features.user, *self.features.context)
        inputs: dict[str, dict[str, Feature]] = {
            "user": {f.name: f for f in (self.features.user_id, *of_user)},
            "item": {f"item.{f.name}": f for f in (self.features.item_id, *self.features.item)},
            "key": {f"history.{f.name}": f for f in self.features.event_features()},
        }
        features = inputs["item" if side == "query" else side]
        tensors = {}
        for names in alike(twin, features):
            columns = [torch.from_numpy(self.keys[name]) for name in names]
            tensors[names] = torch.stack(columns) if len(names) > 1 else columns[0]
        return RawInputs(twin, features, tensors)

    def expected(self, parts: list[tuple[str, Feature]], length: int) -> Tensor:
        """By the definition, one value at a time."""
        return torch.stack(
            [torch.cat([self.vector(name, feature, n) for name, feature in parts]) for n in range(length)]
        )

    def vector(self, name: str, feature: Feature, n: int) -> Tensor:
        if not isinstance(feature, Categorical):
            return torch.tensor([self.keys[name][n]])
        table = feature.table
        values = self.keys[name][n] if name in self.keys else np.array(MISSING)  # a stand-in: always missing
        if values.ndim == 0:
            return self.vector_of(table, int(values))
        present = [self.vector_of(table, v) for v in values.tolist() if v != MISSING]
        return torch.stack(present).mean(dim=0) if present else torch.zeros(self.dims[table])

    def vector_of(self, table: str, key: int) -> Tensor:
        return self.combined(table, self.maps[table].lookup(np.array([key]))[0].tolist())

    def combined(self, table: str, rows: list[int]) -> Tensor:
        """The rows of an id's lookups as one vector, by the definition."""
        row_map = self.maps[table]
        parts = [self.weights[lookup.table][row] for lookup, row in zip(row_map.lookups, rows, strict=True)]
        if row_map.combine == "concat":
            return torch.cat(parts)
        stacked = torch.stack(parts)
        return stacked.sum(dim=0) if row_map.combine == "sum" else stacked.prod(dim=0)


CASES = ["movielens", "movielens, combined", "namesakes", "namesakes, combined", "plain"]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("odd")
    made = {
        "movielens": tiny_dataset,
        "namesakes": lambda: odd_dataset(NAMESAKES, folder),
        "plain": lambda: odd_dataset(PLAIN, folder),
    }
    name, _, combined = request.param.partition(", ")
    return Case(made[name](), combined=bool(combined))


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
    assemble, fields = SIDES[side]
    parts = parts_of(case.features, side)
    length = len(case.batch.labels) if side != "key" else int(case.batch.history_offsets[-1])
    looked_up, raw = assemble(case.features, case.looked_up()), assemble(case.features, case.raw(side))
    assert looked_up.shape == raw.shape == (length, sum(fields(case.features, case.dims)))
    if parts:
        expected = case.expected(parts, length)
        torch.testing.assert_close(looked_up, expected)
        torch.testing.assert_close(raw, expected)


def test_ids_known_unknown_and_missing_all_occur(case: Case) -> None:
    """The test above means nothing without them."""
    name = f"item.{case.features.item_id.name}"
    row_map = case.maps[case.features.item_id.table]
    rows = row_map.lookup(case.keys[name])
    assert case.keys[name][0] == KEY_LIMIT - 1
    assert (rows[0] == 0).all() or case.features.name != "movielens_1m" or row_map.kind != "vocabulary"
    assert case.keys[name][1] == MISSING and (rows[1] == 0).all()
    assert (rows[2:] > 0).any()


def test_a_batch_in_which_nobody_has_a_value_gives_zeros_and_keeps_its_place_in_the_graph() -> None:
    # With several processes the lookup's backward pass is an exchange, in which each must take part.
    feature = Categorical(name="tags", max_values=3)
    rows = torch.zeros(0, 4, requires_grad=True)
    slots = torch.full((2, 3), -1)
    batch = SimpleNamespace(slots={"tags": slots}, numbers={})
    vectors = LookedUp(batch, {"tags": rows}, None).vectors("tags", feature)  # type: ignore[arg-type]
    assert vectors.tolist() == [[0.0] * 4] * 2
    vectors.sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None and rows.grad.shape == (0, 4)
