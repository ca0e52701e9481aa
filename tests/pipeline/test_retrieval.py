"""The retrieval model of a day: trained, exported, compared by its lists, and part of the release; or taken along.

On most days users alone are trained, and the served index stays, unless it must not.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_pipeline import (
    DAY_MS,
    FIRST_MS,
    before_the_gate,
    nth_day,
    run,
    second_day,
    with_setting,
    write_day,
)

import recsys.training.retrieval.loop as loop
from recsys.bundle import read_manifest
from recsys.data.interactions.positives import positive_pairs
from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError
from recsys.export.retrieval.measure import measure_retrieval_bundle
from recsys.features.feature_set import FeatureSet
from recsys.pipeline.plan import Base, RetrievalPlan, base_of, retrieval_plan_of
from recsys.pipeline.report import METRICS, PAGE, REPORT
from recsys.pipeline.samples import open_samples
from recsys.pipeline.settings import read_settings, retrieval_config
from recsys.pipeline.state import DayState, read_state, state_file, write_state
from recsys.pipeline.train import train_retrieval
from recsys.releases.changes import promoted
from recsys.releases.release import ReleaseFolder, open_release
from recsys.releases.served import Served, read_served
from recsys.releases.store import change_served, push_release

pytestmark = pytest.mark.usefixtures("graphs_once")

SMALL = '"model.dim=4", "train.epochs=3", "train.patience=0", "train.list_length=10", "train.batch_size=500"'
RECIPE = f'recipe = "mf_gowalla"\noverrides = [{SMALL}]\nmost_new_items = 0.05'
NEW = 3
"""Items that came on the third day, each with one positive of its 300 or so."""


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory, graphs_once: None) -> Path:
    """Settings of a shop whose second day has a retrieval model, too, and was run."""
    settings = before_the_gate(tmp_path_factory.mktemp("finding") / "shop")
    with_setting(settings, "retrieval", RECIPE)
    assert run(settings, 1).state.status == "promoted"
    return settings


def day_state(settings: Path, day: int = 1) -> DayState:
    state = read_state(state_file(settings.parent / "pipeline", nth_day(day).name))
    assert state is not None
    return state


def test_a_release_has_the_days_retrieval_bundle_and_its_figures(finding: Path) -> None:
    state = day_state(finding)
    release = open_release(finding.parent / "releases", state.release)
    assert release.retrieval is not None and release.ranking is not None
    assert release.release.retrieval is not None and release.release.retrieval.model == "shop-retrieval"
    assert set(state.steps) >= {"retrieval", "retrieval bundle", "release", "retrieval measure"}
    assert state.steps["retrieval measure"].facts["metrics"]["users"] > 0
    assert run(finding, 1).taken == (), "as with the other steps: once"


def test_a_bundle_is_measured_by_its_graph_as_its_run_was_by_torch(finding: Path) -> None:
    state, folder = day_state(finding), finding.parent / "pipeline"
    bundle = folder / state.steps["retrieval bundle"].output / "retrieval"
    dataset = open_samples(folder / state.steps["samples"].output, recent=None)
    pairs = positive_pairs(dataset, retrieval_config(read_settings(finding)).data, source="the log")
    measured = measure_retrieval_bundle(bundle, pairs, list_length=10)
    own = read_manifest(bundle).metrics
    for name in ("recall", "ndcg", "hit_rate", "coverage", "users"):
        assert measured.metrics[name] == pytest.approx(own[name]), name


def test_a_release_without_a_retrieval_bundle_that_the_served_one_has_is_refused(finding: Path, tmp_path: Path) -> None:
    shutil.copytree(finding.parent, tmp_path / "shop")
    settings = tmp_path / "shop" / "shop.toml"
    settings.write_text(settings.read_text().partition("[retrieval]")[0])
    done = run(settings, 1).state
    assert done.status == "refused" and any("retrieval: the release has no retrieval bundle" in r for r in done.reasons)


def test_the_retrieval_bundle_of_the_served_release_is_taken_along(finding: Path, tmp_path: Path) -> None:
    settings = before_the_gate(tmp_path / "shop")
    store, made = tmp_path / "shop" / "releases", day_state(finding)
    first = read_served(store)
    assert first is not None
    bundle = finding.parent / "pipeline" / made.steps["retrieval bundle"].output / "retrieval"
    live = open_release(store, first.models["shop"].live)
    both = push_release(store, ranking=live.ranking, retrieval=bundle)
    change_served(store, lambda served: promoted(served, "shop", both.name), why="by hand")
    begun = day_state(second_day() / "shop.toml").base
    until_ms = nth_day(1).until_ms
    state = DayState(day=nth_day(1).name, until_ms=until_ms, base={**begun, "served": both.name})
    write_state(tmp_path / "shop" / "pipeline", state)
    done = run(settings, 1)
    assert done.state.status == "promoted" and "retrieval" not in done.taken
    now = open_release(store, done.state.release)
    assert now.release.retrieval == open_release(store, both.name).release.retrieval
    assert run(settings, 1).taken == ()


@pytest.fixture(scope="module")
def kept(finding: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of that shop, whose third day has new items and was run: users alone were trained."""
    settings = shutil.copytree(finding.parent, tmp_path_factory.mktemp("kept") / "shop") / "shop.toml"
    with write_day(settings.parent, 2).open("a") as log:
        log.writelines(f"{user},new {user},{FIRST_MS + 2 * DAY_MS + 60_000 * user},1\n" for user in range(NEW))
    assert run(settings, 2).state.status == "promoted"
    return settings


def release_of(settings: Path, day: int) -> ReleaseFolder:
    return open_release(settings.parent / "releases", day_state(settings, day).release)


def samples_of(settings: Path, day: int) -> Dataset:
    return open_samples(settings.parent / "pipeline" / day_state(settings, day).steps["samples"].output, recent=None)


def base_after(settings: Path, day: int) -> Base:
    """The state that a day after that one goes on from."""
    store, days = settings.parent / "releases", [day_state(settings, each) for each in range(day + 1)]
    return base_of(read_settings(settings), served_after(settings, day), days, nth_day(day + 1), store=store)


def served_after(settings: Path, day: int) -> Served:
    """The release that was served when that day ended."""
    served = read_served(settings.parent / "releases")
    assert served is not None
    return replace(served, models={"shop": replace(served.models["shop"], live=day_state(settings, day).release)})


def plan(settings: Path, base: Base, *, day: int = 3, full: bool = False, **retrieval: Any) -> RetrievalPlan:
    """The parts that a day's retrieval model keeps, with other settings of it."""
    read = read_settings(settings)
    changed = replace(read, retrieval=replace(read.retrieval, **retrieval))
    features = FeatureSet.from_json((settings.parent / "features.json").read_text())
    store = settings.parent / "releases"
    return retrieval_plan_of(changed, features, base, nth_day(day), store=store, full=full)


def train(settings: Path, folder: Path, found: RetrievalPlan, *, most: float = 0.05) -> dict[str, Any]:
    """Train the third day's retrieval model anew, in a folder."""
    folder.mkdir(exist_ok=True)
    config = retrieval_config(read_settings(settings))
    dataset = samples_of(settings, 2)
    return train_retrieval(config, dataset, folder, plan=found, most_new_items=most, say=lambda line: None)


def test_the_first_model_trains_its_items_and_the_next_day_keeps_them_and_trains_users_alone(kept: Path) -> None:
    facts = [day_state(kept, day).steps["retrieval"].facts for day in (1, 2)]
    assert [each["mode"] for each in facts] == ["full", "users"]
    manifests = [read_manifest(found) for day in (1, 2) if (found := release_of(kept, day).retrieval)]
    assert manifests[0].index_fingerprint == manifests[1].index_fingerprint == facts[1]["index"]
    assert manifests[0].version != manifests[1].version, "other users"
    assert day_state(kept, 2).steps["retrieval served"].facts["version"] == manifests[0].version, "gated like any other"


def test_items_that_the_index_has_not_are_counted_in_the_report_the_page_and_the_metrics(kept: Path) -> None:
    dataset, folder = samples_of(kept, 2), kept.parent / "pipeline"
    bundle, trained = release_of(kept, 1).retrieval, dataset.split("train")
    assert bundle is not None
    has_I = np.isin(dataset.table.item_keys, read_manifest(bundle).tables["item_id.keys"].read(bundle))
    positive = trained[dataset.samples.label[trained] == 1]
    newest = positive[dataset.sample_time_ms[positive] >= nth_day(1).until_ms - DAY_MS // 4]
    lacking, share = np.unique(dataset.sample_item[positive][~has_I[dataset.sample_item[positive]]]), 0.0
    share = 1 - has_I[dataset.sample_item[newest]].mean()
    assert NEW <= len(lacking) and 0 < share < 0.05
    report = json.loads((folder / REPORT).read_text())["ran"]
    assert report["retrieval"]["mode"] == "users" and report["retrieval"]["not_found"] == len(lacking)
    assert report["retrieval"]["new_items"] == pytest.approx(share)
    said = f"retrieval: {len(lacking)} items with a positive are in no list"
    assert any(note.startswith(said) for note in report["notes"])
    page = (folder / PAGE).read_text()
    assert said in page and "Retrieval: users alone, beside the items of shop-" in page and "<td>users</td>" in page
    assert f'recsys_pipeline_items_not_found{{pipeline="shop"}} {len(lacking)}\n' in (folder / METRICS).read_text()


def test_a_day_that_kept_items_is_not_run_again_and_the_next_goes_on_from_its_index(kept: Path) -> None:
    assert run(kept, 2).taken == ()
    base = base_after(kept, 2)
    assert base.retrieval_full_until_ms == nth_day(1).until_ms, "of the day that trained items"
    assert plan(kept, base).keep == release_of(kept, 2).retrieval


@pytest.mark.parametrize(
    ("base", "asked", "why"),
    [
        ({}, {"full": True}, "asked for with --full"),
        ({}, {"day": 8}, r"items were trained last by the day that ended at .*\(retrieval.full_every\)"),
        ({}, {"full_every": "1d"}, "retrieval.full_every"),
        ({}, {"overrides": ('model.dim=8',)}, "its settings, its features, or what is a positive, are others"),
        ({}, {"recipe": "lightgcn"}, "its settings, its features"),
        ({}, {"recipe": "linear", "overrides": ()}, "linear knows users by their history"),
        ({}, {"recipe": "two_tower", "overrides": ()}, "two_tower knows users by their history"),
        ({}, {"overrides": ("model.dim=4", "rows.map=hash", "rows.budget=0.5")}, "ids share rows"),
        ({"retrieval": ""}, {}, "has no retrieval model of this pipeline"),
        ({"release": "", "why": "nothing is served"}, {}, "nothing is served"),
        ({"retrieval_refused": "2025-12-03"}, {}, "the gate found the retrieval model of 2025-12-03 worse"),
        ({"release": "shop-0123456789abcdef"}, {}, "the bundle of shop-0123456789abcdef cannot be read"),
    ],
)  # fmt: skip
def test_items_are_trained_too_where_they_cannot_stay(
    kept: Path, base: dict[str, Any], asked: dict[str, Any], why: str
) -> None:
    found = plan(kept, replace(base_after(kept, 2), **base), **asked)
    assert found.keep is None and re.search(why, found.of), found.of


def test_more_positives_of_new_items_than_are_allowed_train_the_items_and_have_them_found(
    kept: Path, tmp_path: Path
) -> None:
    keeping = plan(kept, base_after(kept, 1), day=2)
    users, full = (train(kept, tmp_path / f"{most}", keeping, most=most) for most in (0.05, 0.001))
    assert users["mode"] == "users" and users["not_found"] >= NEW
    assert (full["mode"], full["not_found"], full["new_items"]) == ("full", 0, users["new_items"])
    assert "of the new positives are of items that the index of" in full["why"]
    assert "allowed: 0.1% (retrieval.most_new_items)" in full["why"]


def test_a_bundle_whose_items_are_not_those_that_its_users_know_is_not_kept(kept: Path, tmp_path: Path) -> None:
    keeping = plan(kept, base_after(kept, 1), day=2)
    assert keeping.keep is not None
    shutil.copytree(keeping.keep, tmp_path / "bundle")
    rows = tmp_path / "bundle" / read_manifest(keeping.keep).tables["item_id.rows"].file
    rows.chmod(0o644)
    rows.write_bytes(rows.read_bytes()[:-4] + b"abcd")
    facts = train(kept, tmp_path / "step", replace(keeping, keep=tmp_path / "bundle"))
    assert facts["mode"] == "full" and "cannot be kept" in facts["why"]


def test_a_killed_training_of_users_goes_on_to_the_same_figures(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = plan(kept, base_after(kept, 1), day=2)
    whole = train(kept, tmp_path / "whole", keeping)
    save = loop.save

    def killed(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(kept, tmp_path / "part", keeping)
    monkeypatch.undo()
    assert train(kept, tmp_path / "part", keeping) == whole


def test_what_a_killed_run_left_of_other_settings_is_trained_anew(kept: Path, tmp_path: Path) -> None:
    train(kept, tmp_path / "step", replace(plan(kept, base_after(kept, 1), day=2), keep=None))
    facts = train(kept, tmp_path / "step", plan(kept, base_after(kept, 1), day=2))
    assert facts["mode"] == "users"


def test_a_day_whose_kept_items_were_refused_is_told_by_the_next(kept: Path, tmp_path: Path) -> None:
    states = [day_state(kept, each) for each in range(3)]
    refused = replace(states[2], release="", status="refused")
    gate = refused.steps["gate"]
    worse = {"part": "retrieval", "verdict": "worse"}
    refused.steps["gate"] = replace(gate, facts={**gate.facts, "rows": [worse]})
    del refused.steps["push"]
    store = kept.parent / "releases"
    before = served_after(kept, 1)
    found = base_of(read_settings(kept), before, [*states[:2], refused], nth_day(3), store=store)
    assert (found.release, found.retrieval_refused, found.refused) == (states[1].release, nth_day(2).name, "")


@pytest.mark.parametrize("override", ["train.freeze_items=./bundle", "train.warm_start=./run"])
def test_what_the_loop_sets_is_no_override(kept: Path, tmp_path: Path, override: str) -> None:
    settings = shutil.copytree(kept.parent, tmp_path / "shop") / "shop.toml"
    text = settings.read_text().replace(SMALL, f'"{override}"')
    settings.write_text(text)
    with pytest.raises(ConfigError, match=f"retrieval: {override.partition('=')[0]} is set by the pipeline"):
        read_settings(settings)
