"""Rows that users and items share: what they are, how a run keeps and begins with them, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.planted import ITEMS, LOST, USERS, planted, popularity_metrics

from recsys.data.interactions.ids import PairIds, pair_features
from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.features.feature_set import Categorical
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import evaluate_retrieval_run
from recsys.training.retrieval.folder import load
from recsys.training.retrieval.loop import RetrievalProgress, train_retrieval_run
from recsys.training.retrieval.pairs.rows import first_rows, shared_maps
from recsys.training.retrieval.trained import load_trained, make_trainer
from recsys.training.retrieval.trainers import RetrievalTrainer
from recsys.training.settings import override

SMALL = override(
    RetrievalRunConfig(recipe="small"),
    [
        *("model.kind=lightgcn", "model.layers=1", "model.dim=8", "rows.budget=0.25", "train.batch_size=400"),
        *("train.epochs=4", "train.learning_rate=0.03", "train.validation_users=0", "train.list_length=5"),
        *("train.validate_every=4", "train.checkpoint_epochs=2"),
    ],
)
MAPS = ("hash", "double_hash", "frequency", "double_frequency", "quotient_remainder", "lsh", "unified", "graph")
SAMPLED = "train.fan_outs=[4]"


def small(name: str, *more: str) -> RetrievalRunConfig:
    return override(SMALL, [f"rows.map={name}", *more])


def untrained(config: RetrievalRunConfig, data: Interactions) -> RetrievalTrainer:
    torch.manual_seed(3)
    return make_trainer(config, data, maps=shared_maps(config, data))


@pytest.mark.parametrize("name", MAPS)
def test_ids_of_the_same_rows_have_the_same_first_vectors_and_no_others(name: str) -> None:
    data, config = planted(), small(name)
    keys = np.arange(USERS), np.arange(ITEMS)
    first = first_rows(shared_maps(config, data), *keys)
    for ids, vectors in zip((first.users, first.items), untrained(config, data).first(), strict=True):
        rows = ids.rows_NK if ids.combine != "sum" else np.sort(ids.rows_NK, axis=1)
        assert len(np.unique(rows, axis=0)) == len(torch.unique(vectors, dim=0))
        assert ids.num_rows < len(vectors)


@pytest.mark.parametrize("name", [*MAPS, "vocabulary"])
def test_tables_of_a_sampled_graph_begin_as_those_of_a_whole_one(name: str) -> None:
    data = planted()
    whole, sampled = (untrained(small(name, *more), data).first() for more in ((), (SAMPLED,)))
    assert torch.equal(whole[0], sampled[0]) and torch.equal(whole[1], sampled[1])


def test_users_and_items_look_up_in_one_unified_table(tmp_path: Path) -> None:
    train_retrieval_run(small("unified", "train.epochs=1", "rows.chunks=2"), planted(), tmp_path / "run")
    held = load(tmp_path / "run")["model"]["rows"]
    assert {name: list(rows.shape) for name, rows in held.items()} == {
        # A quarter of (120 + 100) x 8 numbers in rows of 4, and the row of missing ids.
        "users.weight_RD": [round(0.25 * (USERS + ITEMS) * 8 / 4) + 1, 4]
    }


def test_clusters_of_the_graph_find_planted_communities_with_a_twentieth_of_the_rows(tmp_path: Path) -> None:
    data = planted()
    few = ["rows.budget=0.05", "train.epochs=16", "model.kind=mf", "model.init_std=0.1", "model.dim=8"]
    graph, hashed = (
        train_retrieval_run(small(name, *few), data, tmp_path / name).test.recall for name in ("graph", "hash")
    )
    assert graph > 2 * popularity_metrics(data).recall and graph > 2 * hashed


class Killed(Exception):
    pass


@pytest.mark.parametrize("more", [(), (SAMPLED,)])
def test_a_killed_run_with_shared_rows_goes_on_to_the_same_last_digit(more: tuple[str, ...], tmp_path: Path) -> None:
    data, config = planted(), small("double_hash", *more)
    whole = train_retrieval_run(config, data, tmp_path / "whole")

    def kill(progress: RetrievalProgress) -> None:
        if progress.epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        train_retrieval_run(config, data, tmp_path / "part", report=kill)
    resumed = train_retrieval_run(config, data, tmp_path / "part", resume=True)
    assert torch.equal(resumed.users_ND, whole.users_ND) and resumed.test == whole.test
    assert resumed.notes == whole.notes
    assert evaluate_retrieval_run(tmp_path / "part", data, "test") == whole.test
    held = load(tmp_path / "part")["model"]["rows"]
    assert [len(rows) for rows in held.values()] == [1 + USERS // 4, 1 + ITEMS // 4], "a checkpoint has rows, not ids"
    assert json.loads((tmp_path / "part" / "record.json").read_text())["notes"] == [
        "ids share rows: 120 users in 31 rows by double_hash, 100 items in 26 rows by double_hash",
        LOST,
    ]


def test_a_run_reads_the_row_maps_that_it_keeps(tmp_path: Path) -> None:
    data, config = planted(), small("graph", "train.epochs=1")
    train_retrieval_run(config, data, tmp_path / "run")
    (tmp_path / "run" / "row_maps.npz").rename(tmp_path / "kept")
    for again in (
        lambda: evaluate_retrieval_run(tmp_path / "run", data, "test"),
        lambda: train_retrieval_run(config, data, tmp_path / "run", resume=True),
    ):
        with pytest.raises(DataFileError, match="row_maps.npz: not readable as row maps"):
            again()
    train_retrieval_run(small("hash", "train.epochs=1"), data, tmp_path / "other")
    (tmp_path / "other" / "row_maps.npz").rename(tmp_path / "run" / "row_maps.npz")
    with pytest.raises(DataFileError, match="it is of another model"):
        evaluate_retrieval_run(tmp_path / "run", data, "test")
    with pytest.raises(ConfigError, match='of another configuration: rows.map was "graph", is "hash"$'):
        train_retrieval_run(small("hash", "train.epochs=1"), data, tmp_path / "run", resume=True)


def test_a_table_below_the_limit_keeps_a_row_for_each_id(tmp_path: Path) -> None:
    data, config = planted(), small("hash", f"rows.exact_below={ITEMS + 1}", "train.epochs=1")
    result = train_retrieval_run(config, data, tmp_path / "run")
    assert result.notes == ("ids share rows: 120 users in 31 rows by hash", LOST)
    users, items = load_trained(tmp_path / "run", data)[1].first()
    assert len(torch.unique(users, dim=0)) <= 30 and len(torch.unique(items, dim=0)) == ITEMS


@pytest.mark.parametrize("more", [(), (SAMPLED,)])
def test_a_warm_start_with_the_same_row_maps_has_the_same_vectors(more: tuple[str, ...], tmp_path: Path) -> None:
    data, config = planted(), small("double_hash", *more)
    train_retrieval_run(config, data, tmp_path / "old")
    older = load_trained(tmp_path / "old", data)[1].first()
    warm = override(config, [f"train.warm_start={tmp_path / 'old'}", "train.learning_rate=1e-12", "train.seed=1"])
    result = train_retrieval_run(warm, data, tmp_path / "new")
    for new, old in zip(load_trained(tmp_path / "new", data)[1].first(), older, strict=True):
        torch.testing.assert_close(new, old, atol=2e-3, rtol=0.0)
    assert "rows that ids share begin nearest to their vectors" in result.notes[1]


def test_a_warm_start_into_one_row_per_id_begins_with_the_mean_of_those_that_share_it(tmp_path: Path) -> None:
    data = planted()
    train_retrieval_run(small("vocabulary"), data, tmp_path / "old")
    _, trained, known = load_trained(tmp_path / "old", data)
    older, known_M = trained.first()[1].numpy(), known.items_M
    config = small("hash", f"train.warm_start={tmp_path / 'old'}", "train.learning_rate=1e-12")
    train_retrieval_run(config, data, tmp_path / "new")
    new = load_trained(tmp_path / "new", data)[1].first()[1].numpy()
    rows_M = first_rows(shared_maps(config, data), np.arange(USERS), np.arange(ITEMS)).items.rows_NK[:, 0]
    for row in np.unique(rows_M):
        mean = older[(rows_M == row) & known_M].mean(axis=0)
        np.testing.assert_allclose(new[rows_M == row], np.broadcast_to(mean, new[rows_M == row].shape), atol=1e-5)


def test_a_warm_start_out_of_shared_rows_gives_each_id_its_vector(tmp_path: Path) -> None:
    data = planted()
    train_retrieval_run(small("unified"), data, tmp_path / "old")
    _, trained, known = load_trained(tmp_path / "old", data)
    config = small("vocabulary", f"train.warm_start={tmp_path / 'old'}", "train.learning_rate=1e-12")
    train_retrieval_run(config, data, tmp_path / "new")
    found = zip(load_trained(tmp_path / "new", data)[1].first(), trained.first(), strict=True)
    for (new, old), known_N in zip(found, (known.users_N, known.items_M), strict=True):
        torch.testing.assert_close(new[known_N], old[known_N], atol=1e-5, rtol=0.0)


def test_an_id_without_a_training_pair_takes_no_part_where_ids_share_rows(tmp_path: Path) -> None:
    data = planted()
    gone = data.train.where(data.train.user_E != 7)
    later = dataclasses.replace(data, train=gone)
    train_retrieval_run(small("vocabulary", "train.epochs=1"), data, tmp_path / "old")
    for name, said in {"vocabulary": "vectors of 120 of 120 users", "hash": "vectors of 119 of 120 users"}.items():
        config = small(name, "train.epochs=1", f"train.warm_start={tmp_path / 'old'}")
        result = train_retrieval_run(config, later, tmp_path / name)
        assert said in " ".join(result.notes)
        assert load_trained(tmp_path / name, later)[2].users_N[7] == (name == "vocabulary")


def test_rows_that_are_multiplied_are_fitted_to_nothing(tmp_path: Path) -> None:
    data = planted()
    train_retrieval_run(small("vocabulary", "train.epochs=1"), data, tmp_path / "old")
    # A table of fewer ids than rows.exact_below has a row for each: only the data tells.
    config = small("quotient_remainder", "rows.exact_below=2", f"train.warm_start={tmp_path / 'old'}")
    with pytest.raises(InvalidInputError, match="multiplies the rows of an id .quotient_remainder.*begin anew"):
        train_retrieval_run(config, data, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["train.warm_start='runs/old'", "model.start='svd'"])
def test_vectors_to_begin_with_are_refused_for_rows_that_are_multiplied(given: str) -> None:
    name, value = given.split("=")
    said = f"{name} is {value} beside rows.map 'quotient_remainder', which multiplies .* or no {name}"
    given = given.replace("'", "")
    with pytest.raises(ConfigError, match=said):
        small("quotient_remainder", given)
    with pytest.raises(ConfigError, match=said):
        small("hash", "rows.maps.item_id=quotient_remainder", given)
    small("quotient_remainder", "rows.maps.user_id=hash", "rows.maps.item_id=hash", given)
    small("hash", given)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["rows.min_count=3"], "rows.min_count is 3, but lightgcn has vectors of users .*allowed: rows.map, rows.maps"),
        (["rows.graph_with.user_id=item_id"], "rows.graph_with is .* but lightgcn has vectors of users"),
        (["rows.widths=[4]"], r"rows.widths is \(4,\), but lightgcn"),
        (
            ["rows.map=unified", "rows.chunks=3"],
            "model.dim is 8 in rows.chunks 3; allowed: chunks of a width that is",
        ),
        (["rows.budget=-1"], "rows.budget is -1.0; allowed: 0 or more"),
        (["rows.map=hesh"], "rows.map is 'hesh': did you mean 'hash'"),
        (["rows.map=hash", "train.freeze_items=b"], "rows.map is 'hash' beside train.freeze_items; allowed: 'vocabul"),
    ],
)
def test_settings_of_rows_that_a_model_does_not_read_are_refused(changes: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        override(SMALL, changes)


def test_a_closed_form_has_no_rows() -> None:
    with pytest.raises(ConfigError, match="rows.map is 'hash', but linear is a closed form, .*allowed: no rows"):
        override(RetrievalRunConfig(recipe="r"), ["model.kind=linear", "rows.map=hash"])


def test_a_table_that_no_user_and_no_item_looks_up_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="rows names no table of lightgcn 'genre'.*vectors of users and of items alo"):
        shared_maps(small("hash", "rows.maps.genre=hash"), planted())
    with pytest.raises(ConfigError, match="rows.budget 0.001 leaves table 'user_id', of 120 ids, without a row"):
        shared_maps(small("hash", "rows.budget=0.001"), planted())


def test_users_and_items_of_one_table_share_no_rows() -> None:
    features = dataclasses.replace(
        pair_features("people", "int", "int"), item_id=Categorical(name="person", table="user_id")
    )
    ids = PairIds(features=features, user_keys_N=np.arange(3), item_keys_M=np.arange(3))
    pairs = make_pairs(np.arange(3), np.arange(3))
    data = dataclasses.replace(planted(), num_users=3, num_items=3, train=pairs, ids=ids)
    with pytest.raises(ConfigError, match="users and items of the FeatureSet are one table, 'user_id'"):
        shared_maps(small("hash"), data)
