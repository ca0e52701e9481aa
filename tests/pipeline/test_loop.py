"""The daily loop on a real log, with a real model and a real store of releases."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from support.full_disk import files_up_to
from support.tiny_pipeline import (
    DAY_MS,
    FIRST_MS,
    before_the_gate,
    first_day,
    nth_day,
    run,
    second_day,
    with_setting,
    write_day,
    write_shop,
)

from recsys.errors import ConfigError, NoSpaceError, ReleaseError
from recsys.pipeline.loop import LOCK, Outcome
from recsys.pipeline.plan import base_of, plan_of
from recsys.pipeline.report import METRICS, PAGE, REPORT
from recsys.pipeline.settings import read_settings
from recsys.pipeline.state import DayState, all_states, read_state, state_file, write_state
from recsys.pipeline.steps import OUTPUTS
from recsys.releases.changes import rolled_back, with_shadow
from recsys.releases.lock import hold
from recsys.releases.release import open_release, release_names
from recsys.releases.served import Served, read_served
from recsys.releases.store import change_served
from recsys.training.run.folder import read_config

pytestmark = pytest.mark.usefixtures("graphs_once")


@pytest.fixture
def one_day(tmp_path: Path) -> Path:
    """Settings of a shop whose first day was run; the second day's log is there."""
    return copied(first_day(), tmp_path)


@pytest.fixture
def two_days(tmp_path: Path) -> Path:
    """Settings of a shop whose first two days were run."""
    return copied(second_day(), tmp_path)


@pytest.fixture
def gate_next(tmp_path: Path) -> Path:
    """Settings of a shop whose second day has its bundle, and nothing else."""
    return before_the_gate(tmp_path / "shop")


def copied(shop: Path, folder: Path) -> Path:
    shutil.copytree(shop, folder / "shop")
    return folder / "shop" / "shop.toml"


def served_of(settings: Path) -> Served:
    served = read_served(settings.parent / "releases")
    assert served is not None
    return served


def day_state(settings: Path, day: int) -> DayState:
    state = read_state(state_file(settings.parent / "pipeline", nth_day(day).name))
    assert state is not None
    return state


def said(settings: Path, day: int, **options: object) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    return run(settings, day, say=lines.append, **options), lines


def metric(settings: Path, line: str) -> float:
    text = (settings.parent / "pipeline" / METRICS).read_text()
    found = re.search(rf"^recsys_pipeline_{re.escape(line)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def test_the_first_day_is_trained_from_scratch_and_promoted() -> None:
    served, state = served_of(first_day() / "shop.toml"), day_state(first_day() / "shop.toml", 0)
    assert (served.revision, served.models["shop"].live, served.models["shop"].previous) == (1, state.release, "")
    assert state.status == "promoted" and state.steps["train"].facts["mode"] == "full"
    assert served.why == "pipeline shop, 2025-12-01"
    assert state.steps["look"].facts["test"]["samples"] == 150, "6 hours of 24"
    assert state.steps["measure"].facts["metrics"]["auc"] > 0.7, "what the log says was learnt"


def test_the_next_day_goes_on_from_the_served_model_with_what_tested_it_and_the_new_samples() -> None:
    first, second = (day_state(second_day() / "shop.toml", day) for day in (0, 1))
    facts = second.steps["train"].facts
    assert facts["mode"] == "incremental" and second.base["release"] == first.release
    assert second.steps["look"].facts["train"]["samples"] == 600, "a quarter of the first day, three of the second"
    config = read_config(second_day() / "pipeline" / second.steps["train"].output / "run")
    assert Path(config.train.warm_start).parts[-3:] == (*Path(first.steps["train"].output).parts[-2:], "run")
    assert config.data.since == "2025-12-01T18:00:00Z" and config.train.epochs == 1
    served = served_of(second_day() / "shop.toml").models["shop"]
    assert (served.live, served.previous) == (second.release, first.release)
    assert second.steps["served"].facts["version"] != second.steps["measure"].facts["version"]
    assert {row["segment"] for row in second.steps["gate"].facts["rows"]} > {""}, "by segment, too"


def test_a_day_that_ended_is_not_run_again(two_days: Path) -> None:
    before = served_of(two_days)
    done = run(two_days, 1)
    assert done.taken == () and done.state.status == "promoted" and served_of(two_days) == before


def test_events_of_later_days_change_no_day(two_days: Path) -> None:
    log = two_days.parent / "logs" / "1.csv"
    write_day(two_days.parent, 2)
    log.write_text(log.read_text() + f"1,item 1,{FIRST_MS + 2 * DAY_MS},0\n")
    before = served_of(two_days)
    done = run(two_days, 1)
    assert done.taken == ("samples",), "read again; the samples are the same, and so is all that depends on them"
    assert done.state.status == "promoted" and served_of(two_days) == before


def test_a_log_that_changed_reruns_what_depends_and_a_worse_model_is_refused(two_days: Path) -> None:
    before = served_of(two_days)
    turn_labels(two_days)
    would, lines = said(two_days, 1, dry=True)
    assert would.would == "samples" and "samples: would run, because of another log" in lines
    learn_much_and_allow_little(two_days)
    done = run(two_days, 1)
    assert set(done.taken) >= {"samples", "look", "train", "bundle", "measure", "gate"}
    assert not {"push", "promote"} & set(done.taken)
    assert done.state.status == "refused" and any("auc: " in reason for reason in done.state.reasons)
    assert served_of(two_days) == before and len(release_names(two_days.parent / "releases")) == 2
    assert metric(two_days, 'status{pipeline="shop",status="refused"}') == 1
    assert metric(two_days, 'status{pipeline="shop",status="promoted"}') == 0
    assert metric(two_days, 'refusals{pipeline="shop"}') == len(done.state.reasons)
    page = (two_days.parent / "pipeline" / PAGE).read_text()
    assert 'class="bad">refused' in page and "worse than the running release" in page


def test_a_day_without_events_has_nothing_to_do(two_days: Path) -> None:
    before = served_of(two_days)
    done = run(two_days, 2)
    assert done.state.status == "nothing" and done.taken == ("samples",)
    assert done.state.reasons[0].startswith("there is no new event: shop-") and served_of(two_days) == before
    write_day(two_days.parent, 3)
    state = read_state(state_file(two_days.parent / "pipeline", "2025-12-03"))
    assert state is not None and state.status == "nothing", "the day after goes on from the second"


def test_a_day_long_after_the_logs_end_is_refused_with_the_time_of_the_newest_event(one_day: Path) -> None:
    done = run(one_day, 9)
    assert done.state.status == "refused" and done.state.reasons == [
        "held-out samples, from 2025-12-10T18:00:00Z on: there are none; the newest event of the log is of "
        "2025-12-02T23:57:36Z"
    ]


def test_a_shop_without_any_event_has_nothing_to_do(tmp_path: Path) -> None:
    settings = write_shop(tmp_path / "shop", days=1)
    write_day(tmp_path / "shop", 0).write_text("user_id,item_id,timestamp_ms,label\n")
    done = run(settings, 0)
    assert (done.state.status, done.state.reasons) == ("nothing", ["there is no event before 2025-12-02T00:00:00Z"])
    assert not (tmp_path / "shop" / "releases").exists()


def test_labels_that_are_all_one_are_refused_before_anything_is_trained(one_day: Path) -> None:
    before = served_of(one_day)
    write_day(one_day.parent, 1, label=1)
    done = run(one_day, 1)
    assert done.state.status == "refused" and "train" not in done.taken
    assert done.state.reasons == [
        "held-out samples, from 2025-12-02T18:00:00Z on: all 150 labels are 1: AUC is not defined, and nothing could "
        "be compared"
    ]
    assert served_of(one_day) == before


def test_a_day_of_ten_times_as_many_events_is_said_and_refused_where_a_bound_is_set(two_days: Path) -> None:
    write_day(two_days.parent, 2, events=6000)
    with_setting(two_days, "gate", "most_rows_ratio = 8.0")
    done, lines = said(two_days, 2)
    assert done.state.status == "refused" and "train" not in done.taken
    assert done.state.reasons == [
        "new events: 10.0 times the mean of the days before; allowed: 8 (gate.most_rows_ratio)"
    ]
    assert "note: 6,000 new events are 10 times the mean of the days before" in lines


def test_events_of_the_future_are_set_aside_and_said(two_days: Path) -> None:
    ahead = two_days.parent / "logs" / "skewed.csv"
    ahead.write_text("user_id,item_id,timestamp_ms,label\n1,item 1,4102444800000,1\n")  # 2100
    before = served_of(two_days)
    done, lines = said(two_days, 1)
    assert done.taken == ("samples",) and served_of(two_days) == before, "the samples are those without it"
    assert any(line.startswith("note: 1 rows did not fit: ") for line in lines)
    rejected = (two_days.parent / "pipeline" / "2025-12-02.rejected.jsonl").read_text()
    assert json.loads(rejected)["field"] == "timestamp_ms"


def test_a_second_run_at_once_says_so_and_ends(two_days: Path) -> None:
    lock = two_days.parent / "pipeline" / LOCK
    lock.write_text("somebody@host, process 7, since 2025-12-02T01:00:00Z\n")
    held = hold(lock)
    assert held is not None
    with pytest.raises(ConfigError, match=r"this pipeline runs already \(somebody@host, process 7, since"):
        run(two_days, 1)


def test_a_store_that_is_empty_though_there_were_promotions_is_not_promoted_to(two_days: Path) -> None:
    store = two_days.parent / "releases"
    store.rename(store.with_name("elsewhere"))
    for make in (lambda: None, store.mkdir):
        make()
        with pytest.raises(ReleaseError, match="is its volume mounted"):
            run(two_days, 1)
    assert not list(store.iterdir())
    assert day_state(two_days, 1).status == "failed"
    assert run(two_days, 1, new_store=True).state.status == "promoted"
    assert served_of(two_days).models["shop"].live == day_state(two_days, 1).release


def test_a_store_that_is_read_only_or_full_promotes_nothing_and_the_next_run_goes_on(gate_next: Path) -> None:
    before, lock = served_of(gate_next), gate_next.parent / "releases" / ".lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # refused to root, too, as the lock of a read-only store is to others
    with pytest.raises(ConfigError, match="is the store read-only here"):
        run(gate_next, 1)
    assert served_of(gate_next) == before and day_state(gate_next, 1).status == "failed"
    assert metric(gate_next, 'status{pipeline="shop",status="failed"}') == 1
    lock.rmdir()
    lines: list[str] = []
    with files_up_to(7_000), pytest.raises(NoSpaceError, match="releases/shop-"):
        run(gate_next, 1, say=lines.append)
    assert any(line.startswith("the day's file cannot be written") for line in lines), "there is no room for it either"
    assert served_of(gate_next) == before
    done = run(gate_next, 1)
    assert done.state.status == "promoted" and done.taken == ("push", "promote")


def test_a_day_whose_file_is_damaged_finds_its_steps_by_their_outputs(gate_next: Path) -> None:
    file = state_file(gate_next.parent / "pipeline", "2025-12-02")
    file.write_text('{"format_version": 1, "day": "2025-')
    done, lines = said(gate_next, 1)
    assert done.state.status == "promoted" and "bundle: its output is there already" in lines
    assert file.with_suffix(".json.damaged").exists() and any("is set aside as" in line for line in lines)


def test_a_promoted_day_whose_file_is_damaged_promotes_nothing_again(two_days: Path) -> None:
    before = served_of(two_days)
    state_file(two_days.parent / "pipeline", "2025-12-02").write_text("{")
    with pytest.raises(ReleaseError, match="what the day's file knew of it is lost"):
        run(two_days, 1)
    assert served_of(two_days) == before


def test_a_release_that_was_taken_back_is_not_promoted_again_and_the_next_day_goes_on_from_what_is_served(
    two_days: Path,
) -> None:
    store, settings = two_days.parent / "releases", read_settings(two_days)
    first = day_state(two_days, 0).release
    before = change_served(store, lambda served: rolled_back(served, "shop"), why="it was worse")
    done, lines = said(two_days, 1)
    assert done.state.status == "promoted" and served_of(two_days) == before
    assert any("was promoted, and" in line and "it was worse" in line for line in lines)
    days, _ = all_states(two_days.parent / "pipeline")
    assert base_of(settings, before, days, nth_day(2), store=store).release == first


def test_a_promotion_that_may_have_been_made_and_taken_back_is_left_to_people(gate_next: Path) -> None:
    store, folder = gate_next.parent / "releases", gate_next.parent / "pipeline"
    with_setting(gate_next, "release", "promote = false")
    ready = run(gate_next, 1).state
    assert ready.status == "ready"
    gate_next.write_text(gate_next.read_text().replace("promote = false", "promote = true"))
    release = ready.steps["push"].facts["release"]
    ready.intent = {"release": release, "revision": served_of(gate_next).revision}
    write_state(folder, ready)
    after = change_served(store, lambda now: with_shadow(now, "shop", {release: 10.0}), why="somebody looks")
    done = run(gate_next, 1)
    assert done.state.status == "refused" and "it is not promoted again" in done.state.reasons[0]
    assert "somebody looks" in done.state.reasons[0] and served_of(gate_next) == after


def test_what_is_pushed_alone_is_ready_and_not_served(gate_next: Path) -> None:
    before = served_of(gate_next)
    with_setting(gate_next, "release", "promote = false")
    done = run(gate_next, 1)
    assert done.state.status == "ready" and served_of(gate_next) == before
    release = done.state.steps["push"].facts["release"]
    assert open_release(gate_next.parent / "releases", release).release.note == "pipeline shop, 2025-12-02"


def test_a_day_before_that_of_the_served_release_is_refused(two_days: Path) -> None:
    (two_days.parent / "pipeline" / "days" / "2025-12-01.json").unlink()
    with pytest.raises(ConfigError, match=r"2025-12-01: shop-\w+ is served, a release of 2025-12-02"):
        run(two_days, 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("training", 'mode = "full"'), 'training.mode is "full"'),
        (("training", 'full_every = "1d"'), "the last run from scratch was of the day that ended at 2025-12-02"),
        (("data", "holdout = '1h'"), ""),
    ],
)
def test_a_run_from_scratch_has_a_reason(two_days: Path, change: tuple[str, str], why: str) -> None:
    with_setting(two_days, *change)
    assert why in plan_for_the_third_day(two_days) and (why or "goes on from" in plan_for_the_third_day(two_days))


def test_another_model_or_a_run_that_is_gone_begins_from_scratch(two_days: Path) -> None:
    two_days.write_text(two_days.read_text().replace("model.head=[8]", "model.head=[4]"))
    assert "the model's settings, its features, or what its samples are, are others" in plan_for_the_third_day(two_days)
    two_days.write_text(two_days.read_text().replace("model.head=[4]", "model.head=[8]"))
    shutil.rmtree(two_days.parent / "pipeline" / OUTPUTS / "train")
    assert "is gone" in plan_for_the_third_day(two_days)


def test_the_day_after_an_incremental_model_was_found_worse_begins_from_scratch(one_day: Path) -> None:
    before = one_day.read_text()
    turn_labels(one_day)
    learn_much_and_allow_little(one_day)
    assert run(one_day, 1).state.status == "refused"
    one_day.write_text(before)
    assert "from scratch: the gate found the model of 2025-12-02 worse" in plan_for_the_third_day(one_day)
    assert run(one_day, 1).state.status == "promoted", "by the bounds that were before"
    assert "goes on from" in plan_for_the_third_day(one_day)


def turn_labels(settings: Path) -> None:
    """Turn the labels of the second day's log, but for the samples that are held out."""
    log = settings.parent / "logs" / "1.csv"
    header, *rows = log.read_text().splitlines()
    held_out = FIRST_MS + 2 * DAY_MS - DAY_MS // 4
    told = [row.split(",") for row in rows]
    turned = [[*row[:3], row[3] if int(row[2]) >= held_out else str(1 - int(row[3]))] for row in told]
    log.write_text("\n".join([header, *map(",".join, turned)]) + "\n")


def learn_much_and_allow_little(settings: Path) -> None:
    """Have an incremental run learn what is new, and the gate refuse what is a little worse."""
    with_setting(settings, "training", 'incremental = ["train.epochs=12", "train.warmup_steps=0"]')
    settings.write_text(settings.read_text().replace('"60%"', '"2%"'))


def plan_for_the_third_day(file: Path) -> str:
    from recsys.features.feature_set import FeatureSet

    settings, folder = read_settings(file), file.parent / "pipeline"
    days, _ = all_states(folder)
    base = base_of(settings, served_of(file), days, nth_day(2), store=file.parent / "releases")
    features = FeatureSet.from_json((file.parent / "features.json").read_text())
    plan = plan_of(settings, features, base, nth_day(2), folder=folder, full=False)
    assert (plan.mode == "full") == plan.why.startswith("from scratch")
    return plan.why


def test_a_dry_run_says_what_would_run_and_why_and_writes_nothing(one_day: Path) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in one_day.parent.rglob("*") if path.is_file()}

    before = files()
    done, lines = said(one_day, 1, dry=True)
    first = day_state(one_day, 0).release
    assert lines == [
        f"plan: incremental, it goes on from {first} of 2025-12-01, with samples from 2025-12-01T18:00:00Z on",
        "samples: would run, for the first time this day",
    ]
    assert (done.would, done.after) == (
        "samples", ("look", "train", "bundle", "measure", "served", "gate", "push", "promote")
    )  # fmt: skip
    assert files() == before


def test_outputs_of_old_days_are_deleted_and_those_that_served_releases_were_made_of_are_kept(two_days: Path) -> None:
    text = two_days.read_text()
    two_days.write_text(text.replace('name = "shop"\n', 'name = "shop"\nkeep_days = 1\n', 1))
    outputs = two_days.parent / "pipeline" / OUTPUTS
    (outputs / "train" / "0123456789abcdef.partial").mkdir()
    run(two_days, 1)
    first, second = day_state(two_days, 0).steps, day_state(two_days, 1).steps
    left = {path.relative_to(outputs.parent).as_posix() for path in outputs.glob("*/*")}
    assert left == {step.output for step in second.values() if step.output} | {first["train"].output}


def test_the_page_and_the_figures_stand_by_themselves(two_days: Path) -> None:
    run(two_days, 1)
    folder = two_days.parent / "pipeline"
    page, report = (folder / PAGE).read_text(), json.loads((folder / REPORT).read_text())
    assert page.count("<svg") == 5 and "AUC of the held-out samples" in page and "2025-12-01" in page
    assert not re.search(r"<script|<link|<img|https?://(?!www\.w3\.org/2000/svg)", page)
    assert [day["status"] for day in report["days"]] == ["promoted", "promoted"]
    auc = report["days"][1]["metrics"]["candidate"]["auc"]
    assert metric(two_days, 'metric{pipeline="shop",metric="auc",model="candidate"}') == auc
    assert metric(two_days, 'promoted_until_timestamp_seconds{pipeline="shop"}') == (FIRST_MS + 2 * DAY_MS) / 1000
    assert report["ran"]["rows"] == {
        "events": 1200, "rejected": 0, "new_events": 600, "trained": 600, "held_out": 150
    }  # fmt: skip
