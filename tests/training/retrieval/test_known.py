"""Users and items that a run knows: new ones, those of an older run, and users who took everything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.planted import ITEMS, LOST, USERS, planted

from recsys.data.interactions.ids import PairIds, pair_features
from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.errors import ConfigError, InvalidInputError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.loop import train_retrieval_run
from recsys.training.retrieval.ranking import rank_all
from recsys.training.settings import override

KINDS = {
    "mf": ["model.kind=mf", "model.init_std=0.1"],
    "lightgcn": ["model.layers=2"],
    "ngcf": ["model.kind=ngcf", "model.layers=2", "model.init_std=0.1"],
    "sampled lightgcn": ["model.layers=2", "train.fan_outs=[4,3]"],
}


def small(kind: str, *more: str) -> RetrievalRunConfig:
    common = ["model.dim=8", "train.batch_size=400", "train.epochs=2", "train.learning_rate=0.03"]
    lists = ["train.list_length=5", "train.validation_users=0"]
    return override(RetrievalRunConfig(recipe="small"), [*KINDS[kind], *common, *lists, *more])


def without_some(data: Interactions) -> Interactions:
    """The same, of which training knows neither user 3 nor item 8."""
    kept = (data.train.user_E != 3) & (data.train.item_E != 8)
    return dataclasses.replace(data, train=data.train.where(kept))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_user_has_the_popular_items_and_a_new_item_is_in_no_list(kind: str, tmp_path: Path) -> None:
    data = without_some(planted())
    only_new = dataclasses.replace(data, test=data.test.where(data.test.user_E == 3))
    result = train_retrieval_run(small(kind), only_new, tmp_path / "run")
    count_M = np.bincount(data.train.item_E, minlength=ITEMS)
    popular = rank_all(
        torch.ones(USERS, 1),
        torch.from_numpy(count_M[:, None]).float(),
        relevant=only_new.test,
        excluded=(data.train, data.validation),
        list_length=5,
    )
    assert result.test == popular
    only_item = dataclasses.replace(data, test=data.test.where(data.test.item_E == 8))
    long = small(kind, "train.list_length=90")  # nearly all that a user has left
    assert train_retrieval_run(long, only_item, tmp_path / "item").test.hit_rate == 0.0
    manifest = export_retrieval_bundle(tmp_path / "run", only_new, tmp_path / "bundle", name="found")
    assert manifest.tables["user_id.rows"].shape[0] == USERS and manifest.metrics["recall"] == result.test.recall
    assert manifest.tables["item_id.keys"].shape[0] - 1 == len(np.unique(data.train.item_E))


def renamed(data: Interactions, users: np.ndarray, items: np.ndarray) -> Interactions:
    """The same pairs with these keys."""
    ids = PairIds(features=pair_features("made", "int", "int"), user_keys_N=users, item_keys_M=items)
    return dataclasses.replace(data, ids=ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_takes_vectors_by_id_and_others_begin_anew(kind: str, tmp_path: Path) -> None:
    data = planted()
    older = renamed(data, np.arange(USERS) + 1000, np.arange(ITEMS) + 5000)
    first = train_retrieval_run(small(kind, "train.epochs=12"), older, tmp_path / "older")
    # The same log, its ids in another order; item 5000 has been renamed, and user 1000 is not there yet.
    order_N, order_M = np.arange(USERS)[::-1], np.roll(np.arange(ITEMS), 7)
    users, items = order_N + 1000, order_M + 5000
    users[order_N == 0], items[order_M == 0] = 9, 99
    place_N, place_M = np.argsort(order_N), np.argsort(order_M)

    def turned(pairs: object) -> object:
        return make_pairs(place_N[pairs.user_E], place_M[pairs.item_E])  # type: ignore[attr-defined]

    parts = {name: turned(getattr(data, name)) for name in ("train", "validation", "test")}
    newer = renamed(dataclasses.replace(data, **parts), users, items)  # type: ignore[arg-type]
    small_step = ["train.learning_rate=1e-9", "train.epochs=1", f"train.warm_start={tmp_path / 'older'}"]
    said: list[str] = []
    again = train_retrieval_run(small(kind, *small_step), newer, tmp_path / "newer", show_notes=said.extend)
    items_known = len(np.unique(data.train.item_E)) - 1
    assert said == [
        f"warm start from older: vectors of {USERS - 1} of {USERS} users and {items_known} of "
        f"{ITEMS} items; the others begin anew",
        LOST,
    ]
    assert list(again.notes) == said
    if kind == "mf":  # of the others new neighbours reach everyone
        taken = np.setdiff1d(data.train.item_E, [0])
        torch.testing.assert_close(again.users_ND[place_N[1:]], first.users_ND[1:], atol=1e-6, rtol=0)
        torch.testing.assert_close(again.items_MD[place_M[taken]], first.items_MD[taken], atol=1e-6, rtol=0)
        assert not torch.isclose(again.items_MD[place_M[0]], first.items_MD[0], atol=1e-3).all()
    cold = train_retrieval_run(small(kind, "train.learning_rate=1e-9"), newer, tmp_path / "cold")
    assert again.test.recall > 2 * cold.test.recall


def test_a_run_on_the_newest_pairs_keeps_what_an_older_one_knew(tmp_path: Path) -> None:
    data = planted()
    older = dataclasses.replace(data, train=data.train.where(data.train.user_E < 100))
    train_retrieval_run(small("mf", "train.epochs=12"), older, tmp_path / "older")
    newest = dataclasses.replace(data, fresh_E=data.train.user_E >= 100)
    warm = [f"train.warm_start={tmp_path / 'older'}"]
    steps: list[int] = []
    result = train_retrieval_run(
        small("mf", *warm), newest, tmp_path / "newer", report=lambda progress: steps.append(progress.steps)
    )
    assert steps[0] == 2 * -(-int(newest.fresh_E.sum()) // 400) == 2  # type: ignore[union-attr]
    forgetful = train_retrieval_run(small("mf"), newest, tmp_path / "alone")
    assert result.test.recall > forgetful.test.recall
    bundles = [
        export_retrieval_bundle(tmp_path / run, newest, tmp_path / f"{run}-bundle", name="found")
        for run in ("newer", "alone")
    ]
    assert [bundle.tables["user_id.rows"].shape[0] for bundle in bundles] == [USERS + 1, USERS - 100 + 1]


def test_users_who_took_every_item_are_left_out_and_said(tmp_path: Path) -> None:
    data = planted()
    everything = make_pairs(
        np.concatenate([data.train.user_E, np.zeros(ITEMS, dtype=np.int64)]),
        np.concatenate([data.train.item_E, np.arange(ITEMS)]),
    )
    others = {name: getattr(data, name).where(getattr(data, name).user_E > 0) for name in ("validation", "test")}
    full = dataclasses.replace(data, train=everything, **others)
    result = train_retrieval_run(small("lightgcn"), full, tmp_path / "run")
    assert result.notes == (f"1 users took all {ITEMS} items; their pairs are not drawn (the first is user 0)",)


def test_a_warm_start_of_no_use_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    data = planted()
    train_retrieval_run(small("mf"), renamed(data, np.arange(USERS), np.arange(ITEMS)), tmp_path / "older")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").touch()
    for changes, ids, message in (
        (["model.dim=4", "train.warm_start=older"], 0, "its model.dim is 8, that of this run 4; allowed: the same"),
        (["train.warm_start=nothing"], 0, "not the folder of a run of a model that ranks all items"),
        (["train.warm_start=bundle"], 0, "a bundle, which holds final vectors alone; give the folder of the run"),
        (["train.warm_start=older"], 10_000, "older: none of its 100 items is in the data of this run"),
    ):
        values = [change.replace("warm_start=", f"warm_start={tmp_path}/") for change in changes]
        with pytest.raises(ConfigError, match=message):
            own = renamed(data, np.arange(USERS) + ids, np.arange(ITEMS) + ids)
            train_retrieval_run(small("mf", *values), own, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_user_of_a_hundred_thousand_pairs_is_trained_on_like_any_other(tmp_path: Path) -> None:
    data, items = planted(), 120_000
    many = np.random.default_rng(0).choice(np.arange(ITEMS, items), 100_000, replace=False)
    train = make_pairs(
        np.concatenate([data.train.user_E, np.full(len(many), USERS)]), np.concatenate([data.train.item_E, many])
    )
    large = dataclasses.replace(data, num_users=USERS + 1, num_items=items, train=train)
    config = small("mf", "train.loss=softmax", "train.epochs=1", "train.batch_size=20000")
    result = train_retrieval_run(config, large, tmp_path / "run")
    assert torch.isfinite(result.users_ND).all() and result.notes == (LOST,) and result.test.users == USERS


def test_a_log_of_one_item_is_refused_with_the_reason(tmp_path: Path) -> None:
    one = make_pairs(np.arange(3), np.zeros(3, dtype=np.int64))
    nothing = one.where(np.zeros(3, dtype=np.bool_))
    later = make_pairs(np.array([3]), np.array([0]))
    data = Interactions(num_users=4, num_items=1, train=one, validation=nothing, test=later, source="one item")
    with pytest.raises(
        InvalidInputError, match="one item: every user of the training pairs took all 1 items: there is"
    ):
        train_retrieval_run(small("mf", "train.list_length=1", "train.patience=0"), data, tmp_path / "run")
