"""Recipes for a log of one's own: each trains on any prepared log, and its bundle is named after the log and served."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.own_log import prepared
from typer.testing import CliRunner

from recsys.bundle import read_manifest
from recsys.cli import app
from recsys.cli.retrieval_runs import load
from recsys.client import Client
from recsys.data.interactions.pairs import ids_of, make_pairs
from recsys.errors import ConfigError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.features.hashing import string_keys
from recsys.recipes import GROUPS, OWN_LOG, OWN_LOG_RETRIEVAL, RECIPES, RETRIEVAL_RECIPES
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings
from recsys.training.retrieval.loop import train_retrieval_run
from recsys.training.settings import override


def recsys(*arguments: str) -> str:
    """Printed by the command."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs."""
    return tmp_path_factory.mktemp("runs")


def train(recipe: str, log: str, folder: Path) -> Path:
    """A run of one pass."""
    run = folder / f"{recipe}-{log}"
    figures = recsys(
        "train", recipe, f"data.dataset={prepared(log)}", "train.epochs=1", "--run-dir", str(run), "--json"
    )
    assert 0.0 <= json.loads(figures)["test"]["auc"] <= 1.0
    return run


@pytest.mark.parametrize("recipe", OWN_LOG)
def test_a_log_of_nothing_but_ids_is_trained_on(recipe: str, folder: Path) -> None:
    train(recipe, "bare", folder)


LONGER = {"autoint_plus", "dcn", "ngcf"}
"""Recipes whose way the others go, too."""


def recipes(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.prove] if name in LONGER else []) for name in names]


@pytest.mark.parametrize("recipe", recipes(OWN_LOG))
def test_a_log_with_features_is_trained_on_exported_and_served(recipe: str, folder: Path, redis_url: str) -> None:
    run, bundle = train(recipe, "shop", folder), folder / f"bundle-{recipe}"
    shown = recsys("export", str(run), "--out", str(bundle))
    assert "model shop, version " in shown
    assert f"Next: recsys materialize {prepared('shop')}\n      recsys serve {bundle}\n" in shown
    manifest = read_manifest(bundle)
    assert manifest.model == "shop" and manifest.feature_set.history is not None
    assert manifest.feature_set.history.recent == 10  # as declared, not as another recipe reads
    candidates = ["item 1", "item 2", "new"]
    recsys("materialize", str(prepared()), "--redis-url", redis_url)
    with running_server(Settings(bundle=bundle, port=0, redis_url=redis_url, store_timeout_ms=5_000)) as server:
        with Client(server.address, timeout_s=10.0) as client:
            best, again = (
                client.rank(user=7, candidates=candidates, features={"daytime": "noon"}, top_k=2, model="shop")
                for _ in range(2)
            )
    assert len(best.items) == 2 and best.degraded == () and best.model == "shop"
    assert best.history_events == again.history_events == 10
    np.testing.assert_allclose(best.scores, again.scores, rtol=1e-5)  # sdim's of a state, the second time


@pytest.mark.parametrize(
    "recipe", recipes(recipe for recipe in OWN_LOG_RETRIEVAL if recipe not in ("linear", "two_tower"))
)
def test_the_same_log_trains_a_model_that_finds_candidates_and_both_answer_from_a_users_id(
    recipe: str, folder: Path, redis_url: str
) -> None:
    ranking, run, found = folder / "bundle-din", folder / f"{recipe}-shop", folder / f"bundle-{recipe}"
    if not (alone := folder / "alone" / "din-bare").exists():
        train("din", "bare", alone.parent)
    if not ranking.exists():
        recsys("export", str(alone), "--out", str(ranking))
    log = f"data.dataset={prepared('bare')}"
    told = json.loads(recsys("train", recipe, log, "train.epochs=2", "--run-dir", str(run), "--json"))
    assert told["best_epoch"] == 2 and {"popularity", "recent popularity", "chance"} <= set(told["baselines"]["test"])
    assert "model bare, version " in recsys("export", str(run), "--out", str(found))
    assert json.loads(recsys("evaluate", str(run), "--json"))["test"] == told["test"]
    newer = ["--warm-start", str(run), "--since", "3h", "--run-dir", str(folder / f"{recipe}-newer")]
    again = json.loads(recsys("train", recipe, log, "train.epochs=1", *newer, "--json"))
    assert again["notes"][0].startswith(f"warm start from {recipe}-shop: vectors of 120 of 120 users")
    assert "A - B" in recsys("compare", str(run), str(folder / f"{recipe}-newer"))
    both = ("evaluate", str(run), "--then", str(alone), "--users", "0")
    with pytest.raises(ConfigError, match="--candidates and --users are of --then"):
        recsys("evaluate", str(run), "--candidates", "20")
    few, many = (json.loads(recsys(*both, "--candidates", n, "--json")) for n in ("20", "40"))
    assert few["retrieval"] == many["retrieval"] == told["test"]
    assert few["both"]["recall"] == few["candidate_recall"] == few["retrieval"]["recall"], "another order of the same"
    assert few["both"]["ndcg"] != few["retrieval"]["ndcg"]
    assert many["candidate_recall"] == 1.0 > many["both"]["recall"] > 0.0
    recsys("materialize", str(prepared("bare")), "--redis-url", redis_url)
    settings = Settings(bundle=ranking, retrieval=found, port=0, redis_url=redis_url, store_timeout_ms=5_000)
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        best = client.recommend(user=7, top_k=5)
        stranger = client.recommend(user=10_000, top_k=5)
        history = client.get_history(user=7)
    assert len(best.items) == 5 and best.degraded == () and best.user_known and not set(best.items) & set(history.items)
    assert len(stranger.items) == 5 and not stranger.user_known


def test_items_of_a_kept_index_that_left_the_log_are_no_candidates(folder: Path) -> None:
    if not (alone := folder / "alone" / "din-bare").exists():
        train("din", "bare", alone.parent)
    older, run, gone = folder / "older", folder / "mf-kept", tuple(f"gone {place}" for place in range(4))
    changes = [f"data.dataset={prepared('bare')}", "train.epochs=2", "model.dim=8"]
    config = override(RETRIEVAL_RECIPES["mf"](), changes)
    now = load(config.data, None, folder)
    ids, everyone = ids_of(now), np.arange(now.num_users)
    assert ids.item_names_M is not None
    before = replace(
        now,
        num_items=now.num_items + len(gone),
        train=make_pairs(
            np.concatenate([now.train.user_E, everyone]),
            np.concatenate([now.train.item_E, now.num_items + everyone % len(gone)]),
        ),
        ids=replace(
            ids,
            item_keys_M=np.concatenate([ids.item_keys_M, string_keys(gone)]),
            item_names_M=(*ids.item_names_M, *gone),
        ),
    )
    train_retrieval_run(config, before, older)
    export_retrieval_bundle(older, before, older / "bundle", name="found")
    recsys("train", "mf", *changes, "--freeze-items", str(older), "--run-dir", str(run), "--json")
    both = ("evaluate", str(run), "--then", str(alone), "--users", "0", "--candidates", "40")
    found = json.loads(recsys(*both, "--json"))
    assert found["left_out"] == 4 and found["candidates"] == 40 and found["candidate_recall"] == 1.0
    assert f"4 items of {run} are not in the log: no candidates here" in " ".join(recsys(*both).split())


@pytest.mark.parametrize("recipe", ["linear", pytest.param("two_tower", marks=pytest.mark.prove)])
def test_the_same_log_trains_a_model_that_knows_who_came_after_training_and_items_by_what_they_are(
    recipe: str, folder: Path, redis_url: str
) -> None:
    run, found = folder / f"{recipe}-shop", folder / f"bundle-{recipe}"
    changes = [] if recipe == "linear" else ["train.epochs=2"]
    told = json.loads(recsys("train", recipe, f"data.dataset={prepared()}", *changes, "--run-dir", str(run), "--json"))
    if recipe == "linear":
        assert any(note.startswith("chosen on validation of ") for note in told["notes"])
        assert "there are 40 items" in told["notes"][0]
    said = recsys("export", str(run), "--out", str(found))
    found_by = "found by category" if recipe == "two_tower" else "not found, for the model reads no feature of items"
    assert "version " in said and f"items that come after training: {found_by}" in said
    assert json.loads(recsys("evaluate", str(run), "--json"))["test"] == told["test"]
    manifest = read_manifest(found)
    assert manifest.knows_users_by == "history"
    assert f", index {manifest.index_fingerprint}\n" in said and len(manifest.index_fingerprint) == 16
    settings = Settings(bundle=found, port=0, redis_url=redis_url, store_timeout_ms=5_000, added_items_interval_s=0.1)
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        stranger = client.retrieve(user=10_000, top_k=5)
        client.append_events(user=10_000, items=["item 3"], timestamps_ms=[1_700_000_000_000])
        met = client.retrieve(user=10_000, top_k=5)
        client.put_entities(entity="item", ids=["brand new"], features={"category": ["kind 2"]})
        if recipe == "two_tower":
            until_s = time.monotonic() + 10.0
            while "brand new" not in client.retrieve(user=10_000, top_k=60).items:
                assert time.monotonic() < until_s, "an item that was put is found by its category"
                time.sleep(0.1)
        client.append_events(user=10_001, items=["brand new"], timestamps_ms=[1_700_000_000_000])
        by_new = client.retrieve(user=10_001, top_k=60)
    assert not stranger.user_known and met.user_known and met.history_events == 1
    assert list(met.items) != list(stranger.items) and "item 3" not in met.items
    assert by_new.user_known == (recipe == "two_tower") and "brand new" not in by_new.items


def test_recipes_are_listed_in_groups_those_for_a_log_of_ones_own_first() -> None:
    listed = recsys("recipes")
    headings = [line for line in listed.splitlines() if line and not line.startswith(" ")]
    assert [heading.casefold() for heading in headings] == [heading.casefold() for heading in GROUPS]
    names = list(json.loads(recsys("recipes", "--json")))
    assert names[:5] == ["din", "sdim", "autoint", "autoint_plus", "dcn"]
    assert set(names) == {*RECIPES, *RETRIEVAL_RECIPES} and len(names) == len(set(names))
