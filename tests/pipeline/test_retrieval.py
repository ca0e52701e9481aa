"""The retrieval model of a day: trained, exported, compared by its lists, and part of the release; or taken along."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.tiny_pipeline import before_the_gate, nth_day, run, second_day, with_setting

from recsys.bundle import read_manifest
from recsys.data.interactions.positives import positive_pairs
from recsys.export.retrieval.measure import measure_retrieval_bundle
from recsys.pipeline.samples import open_samples
from recsys.pipeline.settings import read_settings, retrieval_config
from recsys.pipeline.state import DayState, read_state, state_file, write_state
from recsys.releases.changes import promoted
from recsys.releases.release import open_release
from recsys.releases.served import read_served
from recsys.releases.store import change_served, push_release

RECIPE = (
    'recipe = "mf_gowalla"\noverrides = ["model.dim=4", "train.epochs=3", "train.patience=0", "train.list_length=10", '
    '"train.batch_size=500"]'
)


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a shop whose second day has a retrieval model, too, and was run."""
    settings = before_the_gate(tmp_path_factory.mktemp("finding") / "shop")
    with_setting(settings, "retrieval", RECIPE)
    assert run(settings, 1).state.status == "promoted"
    return settings


def day_state(settings: Path) -> DayState:
    state = read_state(state_file(settings.parent / "pipeline", nth_day(1).name))
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
