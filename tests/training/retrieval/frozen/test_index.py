"""A new model on the old index: users are trained against the items of a bundle, whose index stays."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from support.planted import ITEMS, LOST, USERS, planted, popularity_metrics
from support.tiny_run import folder_of_this_process

from recsys.bundle import open_bundle, read_manifest
from recsys.bundle.manifest import digest_of
from recsys.data.interactions.ids import PairIds, pair_features
from recsys.data.interactions.pairs import Interactions, ids_of, make_pairs
from recsys.errors import BundleError, ConfigError, DataFileError, InvalidInputError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.features.hashing import string_keys
from recsys.releases.push import push
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import details_of_run, evaluate_retrieval_run
from recsys.training.retrieval.frozen.index import FROZEN
from recsys.training.retrieval.loop import RetrievalProgress, RetrievalRunResult, train_retrieval_run
from recsys.training.retrieval.ranking import rank_all
from recsys.training.settings import override

LOG = ids_of(planted()).features.name

NEW = 20
"""The last users came after the older training."""

KINDS = {
    "mf": ["model.kind=mf", "model.init_std=0.1"],
    "mf, softmax": ["model.kind=mf", "model.init_std=0.1", "train.loss=softmax"],
    "lightgcn": ["model.kind=lightgcn", "model.layers=2"],
    "ngcf": ["model.kind=ngcf", "model.layers=2", "model.init_std=0.1"],
}
INDEX = ("item_id.rows", "item_id.keys", "item_id.ids")


def small(kind: str, *more: str) -> RetrievalRunConfig:
    return override(
        RetrievalRunConfig(recipe="small"),
        [
            *("train.batch_size=400", "train.epochs=16", "train.learning_rate=0.03", "train.list_length=5"),
            *("train.validate_every=4", "train.validation_users=0", "train.checkpoint_epochs=3"),
            *KINDS[kind],
            "model.dim=8",
            *more,
        ],
    )


@dataclass(frozen=True)
class Older:
    data: Interactions
    bundle: Path
    result: RetrievalRunResult


@functools.cache
def older(kind: str) -> Older:
    """A bundle of all users but the newest."""
    folder = folder_of_this_process()
    data = planted()
    data = dataclasses.replace(data, train=data.train.where(data.train.user_E < USERS - NEW))
    result = train_retrieval_run(small(kind), data, folder / "run")
    export_retrieval_bundle(folder / "run", data, folder / "run" / "bundle", name="found")
    return Older(data, folder / "run" / "bundle", result)


def frozen(kind: str, *more: str) -> RetrievalRunConfig:
    return small(kind, f"train.freeze_items={older(kind).bundle}", *more)


def bytes_of(bundle: Path) -> list[bytes]:
    return [(bundle / "tables" / f"{name}.bin").read_bytes() for name in INDEX]


@pytest.mark.parametrize("kind", KINDS)
def test_users_are_trained_and_the_index_stays_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    data, was = planted(), older(kind)
    said: list[str] = []
    result = train_retrieval_run(frozen(kind), data, tmp_path / "run", show_notes=said.extend)
    # Users of the communities are found again; with their own vectors beside other items they would find chance.
    popular = popularity_metrics(data)
    assert result.test.recall > 2.5 * popular.recall
    manifest = export_retrieval_bundle(tmp_path / "run", data, tmp_path / "bundle", name="found")
    assert bytes_of(tmp_path / "bundle") == bytes_of(was.bundle)
    before = read_manifest(was.bundle)
    assert manifest.index_fingerprint == before.index_fingerprint != ""
    assert (manifest.tables["user_id.rows"].shape[0], before.tables["user_id.rows"].shape[0]) == (
        USERS + 1,
        USERS - NEW + 1,
    )
    session = open_retrieval(open_bundle(tmp_path / "bundle"))
    assert session.retrieve(USERS - 1, np.empty(0, dtype=np.int64), 5).known
    assert manifest.metrics["recall"] == result.test.recall
    assert evaluate_retrieval_run(tmp_path / "run", data, "test") == result.test
    learnt = before.tables["item_id.keys"].shape[0] - 1
    assert said == [
        f"items stay those of bundle, index {before.index_fingerprint}, {learnt} items; {ITEMS - learnt} of {ITEMS} "
        "items of the log are not in it" + (SAID_OF_LACKING if learnt < ITEMS else ""),
        f"of {USERS} users it has {USERS - NEW}; 0 begin with their vectors there",
        LOST,
    ]
    assert list(result.notes) == said


SAID_OF_LACKING = ": they are in no list, and their 0 training pairs are left out"


def test_users_who_came_since_are_served_nearly_as_by_a_training_of_everything(tmp_path: Path) -> None:
    data, was = planted(), older("lightgcn")
    newest = dataclasses.replace(data, test=data.test.where(data.test.user_E >= USERS - NEW))
    against = train_retrieval_run(frozen("lightgcn"), newest, tmp_path / "frozen")
    anew = train_retrieval_run(small("lightgcn", "train.seed=7"), newest, tmp_path / "anew")
    mixed = rank_all(anew.users_ND, was.result.items_MD, relevant=newest.test, excluded=(newest.train,), list_length=5)
    assert against.test.recall > 0.8 * anew.test.recall > 2 * mixed.recall


def test_without_a_step_users_are_the_sums_of_their_items(tmp_path: Path) -> None:
    data, was = planted(), older("lightgcn")
    one = frozen("lightgcn", "train.learning_rate=1e-9", "train.epochs=1")
    result = train_retrieval_run(one, data, tmp_path / "run")
    users, items = data.train.user_E, data.train.item_E
    for user in (0, 50, USERS - 1):
        own = items[users == user]
        weights = 1 / np.sqrt(len(own) * np.bincount(items, minlength=ITEMS)[own])
        expected = (weights[:, None] * was.result.items_MD.numpy()[own]).sum(axis=0)
        np.testing.assert_allclose(result.users_ND[user].numpy(), expected, atol=1e-5)


def test_users_without_a_pair_or_with_pairs_older_than_since_keep_their_vectors(tmp_path: Path) -> None:
    data, was = planted(), older("mf")
    without = data.train.where(data.train.user_E != 1)
    newest = dataclasses.replace(data, train=without, fresh_E=without.user_E >= USERS - NEW)
    result = train_retrieval_run(frozen("mf"), newest, tmp_path / "run")
    assert f"of {USERS} users it has {USERS - NEW}; {USERS - NEW} begin with their vectors there" in result.notes
    torch.testing.assert_close(result.users_ND[:-NEW], was.result.users_ND[:-NEW], atol=1e-5, rtol=0)
    assert not torch.isclose(result.users_ND[-NEW:], was.result.users_ND[-NEW:], atol=1e-3).all(dim=1).any()


def named(
    data: Interactions, keys_M: np.ndarray, names: tuple[str, ...] | None = None, *, log: str = "shop"
) -> Interactions:
    ids = PairIds(
        features=pair_features(log, "int", "int" if names is None else "string"),
        user_keys_N=np.arange(data.num_users),
        item_keys_M=keys_M,
        item_names_M=names,
    )
    return dataclasses.replace(data, ids=ids)


def names_of(first: int) -> tuple[str, ...]:
    return tuple(f"item {place}" for place in range(first, first + ITEMS))


def test_new_items_are_counted_and_items_that_left_the_log_stay_in_the_index(tmp_path: Path) -> None:
    data, texts, later = planted(), names_of(0), names_of(10)  # the first ten items are renamed: others have come
    before = named(data, string_keys(texts), texts)
    train_retrieval_run(small("mf"), before, tmp_path / "older")
    export_retrieval_bundle(tmp_path / "older", before, tmp_path / "older" / "bundle", name="found")
    order = np.roll(np.arange(ITEMS), -10)  # the same item, the same pairs: what was item 10 is index 0 now
    place = np.argsort(order)

    def moved(name: str) -> object:
        part = getattr(data, name)
        return make_pairs(part.user_E, place[part.item_E])

    parts = {name: moved(name) for name in ("train", "validation", "test")}
    now = named(dataclasses.replace(data, **parts), string_keys(later), later)  # type: ignore[arg-type]
    config = small("mf", f"train.freeze_items={tmp_path / 'older'}")
    result = train_retrieval_run(config, now, tmp_path / "run")
    kept = np.unique(data.train.item_E)
    lost = int((data.train.item_E < 10).sum())
    assert (
        f"{len(kept):,} items; {ITEMS - (kept >= 10).sum()} of {ITEMS} items of the log are not in it: they are in no "
        f"list, and their {lost} training pairs are left out; {(kept < 10).sum()} of its items are not in the log: "
        "they stay"
    ) in result.notes[0]
    export_retrieval_bundle(tmp_path / "run", now, tmp_path / "bundle", name="found")
    assert bytes_of(tmp_path / "bundle") == bytes_of(tmp_path / "older" / "bundle")
    served = open_retrieval(open_bundle(tmp_path / "bundle"))
    assert served.names is not None
    everything = served.names.of(served.retrieve(0, np.empty(0, dtype=np.int64), ITEMS).items)
    assert sorted(everything) == sorted(texts[item] for item in kept)
    # In the run's own lists, too: its metrics are those of the bundle.
    assert evaluate_retrieval_run(tmp_path / "run", now, "test") == result.test
    assert details_of_run(tmp_path / "run", now, "test").segments


def test_a_killed_run_goes_on_to_the_same_last_digit_without_the_bundle(tmp_path: Path) -> None:
    data, bundle = planted(), tmp_path / "bundle"
    shutil.copytree(older("lightgcn").bundle, bundle)
    config = small("lightgcn", f"train.freeze_items={bundle}", "train.epochs=8", "train.patience=3")
    whole = train_retrieval_run(config, data, tmp_path / "whole")

    def kill(progress: RetrievalProgress) -> None:
        if progress.epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_retrieval_run(config, data, tmp_path / "part", report=kill)
    shutil.rmtree(bundle)
    resumed = train_retrieval_run(config, data, tmp_path / "part", resume=True)
    assert resumed.test == whole.test and torch.equal(resumed.users_ND, whole.users_ND)
    assert resumed.notes == whole.notes and len(whole.notes) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["train.freeze_items=nothing"],
            "train.freeze_items nothing: there is no such folder; give a bundle, or a run's folder with one in it",
        ),
        (
            ["model.start=svd"],
            "model.start is 'svd' beside train.freeze_items; leave it out: users begin with the sums",
        ),
        (["model.dim=4"], "its model.dim is 8, that of this run 4; allowed: the same"),
        (["train.loss=softmax"], "its train.loss is 'bpr', that of this run 'softmax'; allowed: the same"),
        (["model.kind=lightgcn"], "its model.kind is 'mf', that of this run 'lightgcn'; allowed: the same"),
        (
            ["train.warm_start=older"],
            "train.warm_start is 'older' beside train.freeze_items; leave it out: users begin",
        ),
        (["model.kind=lightgcn", "train.fan_outs=[3, 3, 3]"], "train.fan_outs is .3, 3, 3. beside train.freeze_items"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_there_is_a_folder(
    changes: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_retrieval_run(frozen("mf", *changes), planted(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def altered(bundle: Path, to: Path, **changes: object) -> Path:
    """The bundle with other values in its manifest, which is whole."""
    shutil.copytree(bundle, to)
    values = {**json.loads((to / "manifest.json").read_text()), **changes}
    values["manifest_sha256"] = digest_of(values)
    (to / "manifest.json").write_text(json.dumps(values))
    return to


def test_bundles_without_an_index_for_ids_are_refused(tmp_path: Path) -> None:
    by_history = altered(older("mf").bundle, tmp_path / "by_history", knows_users_by="history")
    with pytest.raises(ConfigError, match="it knows users by their history, new ones too: there is nothing to train"):
        train_retrieval_run(small("mf", f"train.freeze_items={by_history}"), planted(), tmp_path / "run")
    ranking = altered(older("mf").bundle, tmp_path / "ranking", kind="ranking")
    with pytest.raises(ConfigError, match="a ranking bundle, which has no index; expected a retrieval bundle"):
        train_retrieval_run(small("mf", f"train.freeze_items={ranking}"), planted(), tmp_path / "run")
    lacking = altered(older("mf").bundle, tmp_path / "lacking", tables={})
    with pytest.raises(DataFileError, match="holds no tables of users and items: 'item_id.keys'"):
        train_retrieval_run(small("mf", f"train.freeze_items={lacking}"), planted(), tmp_path / "run")
    with pytest.raises(ConfigError, match="train.freeze_items is 'bundle', but linear is a closed form"):
        override(RetrievalRunConfig(recipe="r"), ["model.kind=linear", "train.freeze_items=bundle"])


def test_ids_of_another_type_or_of_another_log_are_refused(tmp_path: Path) -> None:
    data, texts = planted(), names_of(0)
    with pytest.raises(ConfigError, match="its item_id are of type int, those of the data string; allowed: the same"):
        train_retrieval_run(frozen("mf"), named(data, string_keys(texts), texts), tmp_path / "run")
    with pytest.raises(
        InvalidInputError, match="no training pair is of one of the .* items of bundle, which train.fre"
    ):
        train_retrieval_run(frozen("mf"), named(data, np.arange(ITEMS) + 5000, log=LOG), tmp_path / "run")
    # Of the same integers, which are other things there.
    with pytest.raises(ConfigError, match=f"it is of the FeatureSet '{LOG}', the data of 'films', whose ids name oth"):
        train_retrieval_run(frozen("mf"), named(data, np.arange(ITEMS), log="films"), tmp_path / "run")
    ids = named(data, np.arange(ITEMS), log=LOG).ids
    assert ids is not None
    other = dataclasses.replace(ids.features, item_id=dataclasses.replace(ids.features.item_id, name="film_id"))
    with pytest.raises(ConfigError, match="its item_id is the feature 'item_id', that of the data 'film_id'; allowed"):
        changed = dataclasses.replace(data, ids=dataclasses.replace(ids, features=other))
        train_retrieval_run(frozen("mf"), changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_bundle_and_what_is_neither_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="other: neither a bundle of a model that ranks all items nor a run's folder"):
        train_retrieval_run(small("mf", f"train.freeze_items={tmp_path / 'other'}"), planted(), tmp_path / "run")
    train_retrieval_run(small("mf", "train.epochs=1"), planted(), tmp_path / "bare")
    bare = str(tmp_path / "bare")
    with pytest.raises(ConfigError, match=f"a run without a bundle; write one first: `recsys export {bare} --out "):
        train_retrieval_run(small("mf", f"train.freeze_items={bare}"), planted(), tmp_path / "run")


def test_a_run_that_lost_its_copy_of_the_index_says_so_and_takes_it_again_when_resumed(tmp_path: Path) -> None:
    data, run, bundle = planted(), tmp_path / "run", tmp_path / "bundle"
    shutil.copytree(older("mf").bundle, bundle)
    config = small("mf", f"train.freeze_items={bundle}", "train.epochs=2")
    whole = train_retrieval_run(config, data, run)
    kept = (run / FROZEN).read_bytes()
    (run / FROZEN).unlink()
    with pytest.raises(DataFileError, match=f"{FROZEN}: the run's copy of the index of {bundle} is missing; `recsys"):
        evaluate_retrieval_run(run, data, "test")
    # Another index of the same items is not taken in its place.
    train_retrieval_run(small("mf", "train.epochs=1"), older("mf").data, tmp_path / "second")
    shutil.rmtree(bundle)
    export_retrieval_bundle(tmp_path / "second", older("mf").data, bundle, name="found")
    with pytest.raises(DataFileError, match="users were trained against index"):
        train_retrieval_run(config, data, run, resume=True)
    assert not (run / FROZEN).exists()
    shutil.rmtree(bundle)
    shutil.copytree(older("mf").bundle, bundle)
    assert train_retrieval_run(config, data, run, resume=True).test == whole.test
    assert (run / FROZEN).read_bytes() == kept
    assert evaluate_retrieval_run(run, data, "test") == whole.test


def test_vectors_of_two_trainings_are_refused_as_a_bundle_and_as_a_run(tmp_path: Path) -> None:
    data, other = planted(), tmp_path / "other"
    train_retrieval_run(small("mf", "train.seed=7"), data, other)
    export_retrieval_bundle(other, data, other / "bundle", name="found")
    # Every file of the mix is as its manifest says: what is wrong is that they belong to two trainings.
    values, one = (json.loads((path / "manifest.json").read_text()) for path in (other / "bundle", older("mf").bundle))
    for name in INDEX:
        values["files"][f"tables/{name}.bin"] = one["files"][f"tables/{name}.bin"]
        values["tables"][name] = one["tables"][name]
    mixed = altered(other / "bundle", tmp_path / "mixed", files=values["files"], tables=values["tables"])
    for name in INDEX:
        shutil.copy(older("mf").bundle / "tables" / f"{name}.bin", mixed / "tables")
    indices = tuple(read_manifest(path).index_fingerprint for path in (other / "bundle", older("mf").bundle))
    assert indices[0] != indices[1]
    with pytest.raises(
        BundleError, match="vectors were trained against index {}, its items are index {}: vectors".format(*indices)
    ):
        open_bundle(mixed)
    with pytest.raises(BundleError, match="vectors of two trainings do not mix"):
        push(tmp_path / "store", ranking=None, retrieval=mixed)
    # A run whose copy of the index is another's.
    run, second = tmp_path / "run", tmp_path / "second"
    train_retrieval_run(frozen("mf", "train.epochs=1"), data, run)
    train_retrieval_run(small("mf", "train.epochs=1", f"train.freeze_items={other}"), data, second)
    shutil.copy(second / "frozen_items.npz", run / "frozen_items.npz")
    with pytest.raises(DataFileError, match=f"users were trained against index {indices[1]}, the run's folder holds"):
        evaluate_retrieval_run(run, data, "test")
    (run / "frozen_items.npz").write_bytes(b"half")
    with pytest.raises(DataFileError, match="not readable as the index of a run"):
        evaluate_retrieval_run(run, data, "test")
    with pytest.raises(ConfigError, match="a run with train.freeze_items, which holds final vectors alone"):
        train_retrieval_run(small("mf", f"train.warm_start={second}"), data, tmp_path / "warm")


def test_an_index_can_be_kept_from_run_to_run(tmp_path: Path) -> None:
    data = planted()
    train_retrieval_run(frozen("lightgcn"), data, tmp_path / "one")
    export_retrieval_bundle(tmp_path / "one", data, tmp_path / "one" / "bundle", name="found")
    config = small("lightgcn", f"train.freeze_items={tmp_path / 'one'}")
    train_retrieval_run(config, data, tmp_path / "two")
    export_retrieval_bundle(tmp_path / "two", data, tmp_path / "two" / "bundle", name="found")
    assert bytes_of(tmp_path / "two" / "bundle") == bytes_of(older("lightgcn").bundle)
    assert ids_of(data).item_names_M is None
