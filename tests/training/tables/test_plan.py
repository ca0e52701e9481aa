"""A recipe's rows and tables become the row maps and physical tables that they describe."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_run import CONFIG, NAMESAKES, odd_dataset, tiny_dataset

from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import id_counts
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.quotient_remainder import quotient_remainder
from recsys.embeddings.row_maps.registry import ROW_MAPS
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.row_maps.unified import unified_rows
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.embeddings.sharding.shard import table_weights
from recsys.embeddings.tables import TableSpec
from recsys.errors import ConfigError, InvalidInputError
from recsys.training.config import RowConfig, RunConfig, TableConfig
from recsys.training.tables.plan import build_row_maps, graph_partner, shared_widths, table_dims, table_specs
from recsys.training.trained import build


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return tiny_dataset()


@pytest.fixture(scope="module")
def sizes(dataset: Dataset) -> dict[str, int]:
    """Distinct ids of each table in training."""
    return {table: len(ids) for table, (ids, _) in id_counts(dataset, dataset.split("train")).items()}


def with_rows(**rows: object) -> RunConfig:
    return replace(CONFIG, tables=TableConfig(dim=8), rows=RowConfig(**{"spare_rows": 0.0, **rows}))  # type: ignore[arg-type]


def row_counts(row_maps: dict[str, RowMap]) -> dict[str, int]:
    """Rows of every physical table."""
    return {name: rows for row_map in row_maps.values() for name, rows in row_map.table_rows().items()}


@pytest.mark.parametrize("kind", list(ROW_MAPS))
def test_every_kind_of_map_is_made_within_its_budget(dataset: Dataset, sizes: dict[str, int], kind: str) -> None:
    row_maps = build_row_maps(with_rows(maps={"user_id": kind, "movie_id": kind}, budget=0.5, min_count=1), dataset)
    assert list(row_maps) == list(dataset.table.features.tables())
    for table in ("user_id", "movie_id"):
        assert row_maps[table].kind == kind
        trained, _ = id_counts(dataset, dataset.split("train"))[table]
        assert (row_maps[table].lookup(trained) > 0).all()
    rows = row_counts({table: row_maps[table] for table in ("user_id", "movie_id")})
    total = sizes["user_id"] + sizes["movie_id"]
    if kind == "vocabulary":
        assert sum(rows.values()) == total + 2  # the budget is for the others; each table has a row 0
    elif kind == "unified":
        assert rows == {"unified_0": round(0.5 * total) + 1}
    elif kind in ("graph", "double_graph"):  # clustered together, they meet the budget in total
        assert sum(rows.values()) - 2 == pytest.approx(0.5 * total, rel=0.05)
    else:
        for table in ("user_id", "movie_id"):
            used = sum(n for name, n in rows.items() if name.split("__")[0] == table)
            assert used == round(0.5 * sizes[table]) + 1
    others = set(row_maps) - {"user_id", "movie_id"}
    assert {row_maps[table].kind for table in others} == {"vocabulary"}


def test_given_rows_replace_the_budget_and_count_row_0(dataset: Dataset, sizes: dict[str, int]) -> None:
    row_maps = build_row_maps(with_rows(map="hash", budget=0.5, rows={"movie_id": 11}), dataset)
    rows = row_counts(row_maps)
    assert rows["movie_id"] == 11
    assert rows["user_id"] == round(0.5 * sizes["user_id"]) + 1


def test_small_tables_keep_their_ids(dataset: Dataset, sizes: dict[str, int]) -> None:
    limit = sizes["movie_id"]
    row_maps = build_row_maps(with_rows(map="hash", maps={"genre": "double_hash"}, exact_below=limit), dataset)
    for table, row_map in row_maps.items():
        expected = "vocabulary" if sizes[table] < limit else "hash"
        assert row_map.kind == expected, table
    assert {row_map.kind for row_map in row_maps.values()} == {"vocabulary", "hash"}


def test_settings_of_a_vocabulary_reach_it(dataset: Dataset) -> None:
    ids, counts = id_counts(dataset, dataset.split("train"))["user_id"]
    least = int(np.median(counts))
    built = build_row_maps(with_rows(min_count=least, unknown_rows=4, spare_rows=0.1, seed=5), dataset)["user_id"]
    spare = int(np.ceil(0.1 * len(ids)))
    same = vocabulary("user_id", ids, counts, min_count=least, unknown_rows=4, spare_rows=spare, seed=5)
    np.testing.assert_array_equal(built.lookup(np.arange(1000)), same.lookup(np.arange(1000)))
    assert len(built.spare_rows) == spare > 0


def test_another_seed_gives_other_hashes(dataset: Dataset) -> None:
    first, second = (build_row_maps(with_rows(map="hash", seed=seed), dataset)["user_id"] for seed in (0, 1))
    keys = np.arange(500)
    assert np.mean(first.lookup(keys) == second.lookup(keys)) < 0.1


def test_shared_rows_take_the_budget_of_all_their_tables(dataset: Dataset, sizes: dict[str, int]) -> None:
    config = with_rows(map="unified", budget=0.25, exact_below=50, chunks_of={"movie_id": 3}, widths=(8, 4))
    config = replace(config, tables=TableConfig(dim=8, dims={"user_id": 16}))
    row_maps = build_row_maps(config, dataset)
    shared = [table for table, row_map in row_maps.items() if row_map.kind == "unified"]
    full = sum(sizes[table] * (16 if table == "user_id" else 8) for table in shared)
    number = round(0.25 * full / (8 + 4)) + 1
    assert {n: r for n, r in row_counts(row_maps).items() if n.startswith("unified_")} == {
        "unified_0": number,
        "unified_1": number,
    }
    assert len(row_maps["movie_id"].lookups) == 3
    specs = table_specs(config.tables, config.rows, row_maps)
    assert {spec.name: spec.dim for spec in specs if spec.name.startswith("unified_")} == {
        "unified_0": 8,
        "unified_1": 4,
    }
    dims = table_dims(specs, row_maps)
    widths = {"unified_0": 8, "unified_1": 4}
    for table in shared:
        assert dims[table] == sum(widths[lookup.table] for lookup in row_maps[table].lookups)
    assert {dims[table] for table in row_maps if table not in shared} == {8}


def test_widths_of_sums_and_products_are_those_of_their_tables() -> None:
    ids = np.arange(9)
    row_maps = {
        "a": hash_rows("a", rows=5, functions=2),
        "b": quotient_remainder("b", ids, ids, rows=9),
        **unified_rows(["c"], rows=7, chunks={"c": 3}),
    }
    tables, rows = TableConfig(dim=12, dims={"b": 4}), RowConfig(chunks=3)
    specs = table_specs(tables, rows, row_maps)
    sizes = row_counts(row_maps)
    widths = {"a": 12, "b__quotient": 4, "b__remainder": 4, "unified_0": 12 // 3}
    assert specs == [TableSpec(name=name, num_rows=sizes[name], dim=dim) for name, dim in widths.items()]
    assert table_dims(specs, row_maps) == {"a": 12, "b": 4, "c": 12}


@pytest.mark.parametrize(("dim", "chunks", "widths"), [(16, 4, (4,)), (24, 3, (8,)), (8, 1, (8,))])
def test_shared_tables_are_as_wide_as_the_vector_in_chunks(dim: int, chunks: int, widths: tuple[int, ...]) -> None:
    assert shared_widths(TableConfig(dim=dim), RowConfig(chunks=chunks)) == widths
    assert shared_widths(TableConfig(dim=dim), RowConfig(chunks=chunks, widths=(4, 12))) == (4, 12)


def test_graphs_are_of_users_and_items_unless_another_side_is_named(dataset: Dataset) -> None:
    features = dataset.table.features
    assert graph_partner(RowConfig(), features, "user_id") == "movie_id"
    assert graph_partner(RowConfig(), features, "movie_id") == "user_id"
    assert graph_partner(RowConfig(graph_with={"movie_id": "age"}), features, "movie_id") == "age"


def test_clusters_of_one_table_alone_meet_its_own_budget(dataset: Dataset, sizes: dict[str, int]) -> None:
    row_map = build_row_maps(with_rows(maps={"user_id": "graph"}, budget=0.4), dataset)["user_id"]
    assert row_map.table_rows()["user_id"] - 1 == pytest.approx(0.4 * sizes["user_id"], rel=0.05)


def test_rows_for_unseen_ids_come_out_of_the_budget_of_clusters(dataset: Dataset, sizes: dict[str, int]) -> None:
    config = with_rows(maps={"user_id": "graph"}, budget=0.4, unknown_rows=20)
    row_map = build_row_maps(config, dataset)["user_id"]
    assert row_map.table_rows()["user_id"] - 1 == pytest.approx(0.4 * sizes["user_id"], rel=0.05)
    hashed = row_map.lookups[0].hashed
    assert hashed is not None and hashed.count == 20


def test_a_resolution_replaces_the_search_for_a_budget(dataset: Dataset) -> None:
    coarse, fine = (
        build_row_maps(with_rows(maps={"user_id": "graph"}, resolution=r), dataset)["user_id"] for r in (0.1, 20.0)
    )
    assert coarse.table_rows()["user_id"] < fine.table_rows()["user_id"]


def test_what_takes_long_is_reported(dataset: Dataset) -> None:
    said: list[str] = []
    build_row_maps(with_rows(maps={"user_id": "graph"}, budget=0.4), dataset, report=said.append)
    assert said[0] == "graph of user_id and movie_id"
    assert all(message.startswith("clustering, try ") for message in said[1:]) and len(said) > 1


def test_tables_clustered_together_stand_in_their_order_whichever_method_is_first(dataset: Dataset) -> None:
    """A growth makes the clusters of training again, with the same table on the left."""
    tables = list(dataset.table.features.tables())
    assert tables.index("user_id") < tables.index("age") < tables.index("movie_id")
    said: list[str] = []
    maps = {"user_id": "graph", "age": "double_graph", "movie_id": "graph"}
    sides = {"age": "movie_id", "movie_id": "age"}
    build_row_maps(with_rows(maps=maps, graph_with=sides, resolution=1.0), dataset, report=said.append)
    assert said == ["graph of user_id and movie_id", "graph of age and movie_id"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"maps": {"usr_id": "hash"}}, r"rows.maps names no table 'usr_id': did you mean 'user_id'\?"),
        ({"rows": {"movie": 5}}, "rows.rows names no table 'movie': "),
        ({"chunks_of": {"genres": 2}}, r"rows.chunks_of names no table 'genres': did you mean 'genre'\?"),
        ({"graph_with": {"usr_id": "movie_id"}}, r"rows.graph_with names no table 'usr_id': did you mean"),
        ({"graph_with": {"user_id": "movi_id"}}, r"rows.graph_with names no table 'movi_id': did you mean 'movie_id'"),
        ({"maps": {"user_id": "hash"}, "budget": 0.001}, "rows.budget 0.001 leaves table 'user_id', of 150 ids, with"),
        ({"maps": {"user_id": "lsh"}, "budget": 0.0}, "rows.budget 0.0 leaves table 'user_id'"),
        ({"map": "unified", "budget": 0.0}, r"rows.budget 0.0 is 0 shared rows for \d+ tables; allowed: one each or"),
        (
            {"maps": {"user_id": "unified"}, "rows": {"user_id": 5}},
            "rows.rows gives 'user_id' rows, but its rows are shared; give rows.budget",
        ),
        (
            {"maps": {"user_id": "unified"}, "chunks": 3},
            "tables.dim 8 in 3 chunks; allowed: chunks of a width that is a multiple of 4, or give rows.widths",
        ),
        ({"maps": {"user_id": "unified"}, "chunks": 4}, "tables.dim 8 in 4 chunks; allowed: chunks of a width"),
        (
            {"maps": {"user_id": "graph"}, "graph_with": {"user_id": "user_id"}},
            "rows.graph_with: the other side of 'user_id' is 'user_id' itself; name another table",
        ),
    ],
)
def test_rows_that_cannot_be_are_refused(dataset: Dataset, rows: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_row_maps(with_rows(**rows), dataset)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"maps": {"user_id": "hash"}, "rows": {"user_id": 1}}, "table 'user_id': 1 rows; allowed: 2 to "),
        ({"maps": {"user_id": "frequency"}, "frequent": 1.0}, "'user_id': the share of rows for frequent ids is 1.0"),
        ({"maps": {"user_id": "quotient_remainder"}, "budget": 0.05}, "'user_id': 9 rows for quotients and remainder"),
    ],
)
def test_ids_that_a_method_cannot_map_are_refused(dataset: Dataset, rows: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build_row_maps(with_rows(**rows), dataset)


def test_a_graph_of_many_valued_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="graph of ids: table 'keys' has no single-valued feature"):
        build_row_maps(with_rows(maps={"keys": "graph"}), odd_dataset(NAMESAKES, tmp_path))


def test_a_width_of_a_table_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tables.dims names no table 'usr': did you mean 'user'\?"):
        table_specs(TableConfig(dims={"usr": 8}), RowConfig(), {"user": hash_rows("user", rows=5)})


@pytest.mark.parametrize("name", ["unified_0", "user__quotient"])
def test_two_physical_tables_of_one_name_are_refused(name: str) -> None:
    ids = np.arange(9)
    row_maps = {
        name: hash_rows(name, rows=5),
        "user": quotient_remainder("user", ids, ids, rows=9),
        **unified_rows(["item"], rows=7, chunks={"item": 1}),
    }
    with pytest.raises(ConfigError, match=f"two tables are named '{name}'; rename the feature of that name"):
        table_specs(TableConfig(), RowConfig(), row_maps)


def test_features_of_awkward_names_have_maps_too(tmp_path: Path) -> None:
    dataset = odd_dataset(NAMESAKES, tmp_path)
    row_maps = build_row_maps(with_rows(map="unified", chunks=2, exact_below=3), dataset)
    assert list(row_maps) == list(NAMESAKES.tables())
    specs = table_specs(TableConfig(dim=8), RowConfig(chunks=2), row_maps)
    assert len({spec.name for spec in specs}) == len(specs)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"rows": {"movie_id": 9}}, "rows.rows gives 'movie_id' rows, but a vocabulary has one per id; choose another"),
        (
            {"maps": {"movie_id": "graph"}, "rows": {"movie_id": 9}, "resolution": 2.0},
            "rows.rows gives 'movie_id' rows, and rows.resolution too; give one of the two",
        ),
        (
            {"maps": {"movie_id": "graph"}, "budget": 0.5, "unknown_rows": 40},
            "clusters of movie_id: rows.budget less rows.unknown_rows: rows is -10; allowed: ",
        ),
        (
            {"maps": {"movie_id": "unified"}, "budget": 1.0, "widths": (4, 8)},
            "rows.widths has 2 shared tables for 1 lookups; allowed: a lookup in each",
        ),
    ],
)
def test_numbers_of_rows_that_cannot_be_met_name_the_setting(
    dataset: Dataset, rows: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_row_maps(with_rows(**rows), dataset)


def test_spare_rows_change_no_row_that_an_id_has(dataset: Dataset) -> None:
    def rows_of_ids(spare: float) -> dict[str, torch.Tensor]:
        config = replace(CONFIG, tables=TableConfig(dim=16), rows=RowConfig(spare_rows=spare))
        row_maps = build_row_maps(config, dataset)
        torch.manual_seed(3)
        trained = build(config, dataset.table.features, row_maps, device=torch.device("cpu"))
        weights = table_weights(trained.model)
        assert all((len(m.spare_rows) > 0) == (spare > 0) for m in row_maps.values())
        return {table: weights[table][: len(weights[table]) - len(m.spare_rows)] for table, m in row_maps.items()}

    exact, roomy = rows_of_ids(0.0), rows_of_ids(RowConfig().spare_rows)
    for table, weights in exact.items():
        assert torch.equal(weights, roomy[table]), table
