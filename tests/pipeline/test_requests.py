"""Request logs of servers in the loop: as samples, up to the day's end, and as evidence at the gate."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.tiny_pipeline import (
    DAY_MS,
    FIRST_MS,
    ITEMS,
    USERS,
    before_the_gate,
    first_day,
    nth_day,
    run,
    second_day,
    with_setting,
)

from recsys.data.log.event_table import user_events
from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError
from recsys.features.columns import Column
from recsys.features.encode import encode_request
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import string_key
from recsys.features.history.records import Events
from recsys.features.history.rules import visible
from recsys.pipeline.plan import model_digest
from recsys.pipeline.samples import make_samples, open_samples
from recsys.pipeline.settings import read_settings
from recsys.pipeline.state import read_state, state_file
from recsys.serving.handlers.request_log import RequestLog

pytestmark = pytest.mark.usefixtures("graphs_once")


def features_of(settings: Path) -> FeatureSet:
    return FeatureSet.from_json((settings.parent / "features.json").read_text())


def log_request(
    log: RequestLog, features: FeatureSet, *, user: int, items: list[str], time_ms: int, events: Events | None
) -> None:
    """As a server does, which answered with all of the items."""
    nothing: dict[str, Column] = {}
    encoded = encode_request(
        features,
        user_key=user,
        user_columns=nothing,
        request_values={},
        events=events,
        item_keys=np.array([string_key(item) for item in items]),
        item_columns=nothing,
    )
    log.offer(
        encoded, features=features, history_events=encoded.history_events, time_ms=time_ms, sent=[], degraded=False,
        model="shop", model_version="1", scores=np.zeros(len(items), np.float32), best=np.arange(len(items)),
    )  # fmt: skip


def log_seen(folder: Path, settings: Path, dataset: Dataset, times_ms: range, *, newest_lost: bool) -> None:
    """Requests of users whose events the store had all, or all but the newest."""
    features, log = features_of(settings), RequestLog(folder, share=1.0)
    for n, time_ms in enumerate(times_ms):
        events = visible(features, user_events(dataset.table, n % USERS), time_ms)
        user = int(dataset.table.user_keys[n % USERS])
        seen = events[:-1] if newest_lost else events
        log_request(log, features, user=user, items=["item 1", "item 2"], time_ms=time_ms, events=seen)
    log.close()


def test_a_day_is_refused_while_servers_see_other_than_the_log_says_and_promoted_when_they_do(tmp_path: Path) -> None:
    settings = before_the_gate(tmp_path / "shop")
    with_setting(settings, "gate", 'requests = ["requests/*.parquet"]')
    state = read_state(state_file(second_day() / "pipeline", nth_day(1).name))
    assert state is not None
    dataset = open_samples(second_day() / "pipeline" / state.steps["samples"].output, recent=None)
    folder, until_ms = tmp_path / "shop" / "requests", nth_day(1).until_ms
    step_ms = DAY_MS // 10
    # Those of the first day were of no release yet, and those after the day's end are left for the next one
    log_seen(folder, settings, dataset, range(FIRST_MS, FIRST_MS + DAY_MS, step_ms), newest_lost=True)
    log_seen(folder, settings, dataset, range(until_ms, until_ms + DAY_MS, step_ms), newest_lost=True)
    lines: list[str] = []
    refused = run(settings, 1).state
    assert refused.status == "refused" and refused.reasons == [
        "requests: none of the new ones could be compared: 0 were of users that the log lacks, or degraded; is the log "
        "of the servers that answer in gate.requests?"
    ]
    new = range(FIRST_MS + DAY_MS + step_ms, until_ms, step_ms)
    log_seen(folder, settings, dataset, new, newest_lost=True)
    refused = run(settings, 1).state
    assert refused.status == "refused" and "differs from the log in 9 of 9: user" in refused.reasons[0]
    shutil.rmtree(folder)
    log_seen(folder, settings, dataset, new, newest_lost=False)
    done = run(settings, 1, say=lines.append)
    assert done.state.status == "promoted"
    assert set(done.taken) == {"requests", "gate", "push", "promote"}
    assert "note: requests: servers saw in all 9 of them what the log says" in lines


def test_samples_are_what_was_shown_before_the_days_end_and_what_waits_is_of_the_next_day(tmp_path: Path) -> None:
    shutil.copytree(first_day(), tmp_path / "shop")
    settings = tmp_path / "shop" / "shop.toml"
    with_setting(settings, "data", 'requests = ["requests/*.parquet"]\nwindow = "2h"')
    features, log = features_of(settings), RequestLog(tmp_path / "shop" / "requests", share=1.0)
    times_ms = range(FIRST_MS, FIRST_MS + 2 * DAY_MS, DAY_MS // 400)
    for n, time_ms in enumerate(times_ms):
        items = [f"item {(n + k) % ITEMS}" for k in range(3)]
        log_request(log, features, user=n % USERS, items=items, time_ms=time_ms, events=None)
    log.close()
    read, found = read_settings(settings), []
    for day in (0, 1):
        folder = tmp_path / f"made-{day}"
        folder.mkdir()
        facts = make_samples(read, features, nth_day(day), folder, rejects=tmp_path / "rejects.jsonl")
        dataset = open_samples(folder, recent=None)
        shown_ms = sorted(set(dataset.sample_time_ms.tolist()))
        newest_ms = facts["newest_ms"]
        assert shown_ms == [time_ms for time_ms in times_ms if time_ms + 2 * 3_600_000 <= newest_ms]
        held_out = dataset.sample_time_ms[dataset.split("test")]
        assert held_out.min() >= nth_day(day).until_ms - DAY_MS // 4 and 0 < dataset.samples.label.mean() < 1
        waiting = sum(newest_ms - 2 * 3_600_000 < time_ms < nth_day(day).until_ms for time_ms in times_ms)
        assert f"{3 * waiting:,} of {1200 * (day + 1):,} shown items wait for the next day: what was taken is" in str(
            facts["notes"]
        )
        found.append((dataset.split("test"), shown_ms))
    assert len(found[1][1]) > len(found[0][1]), "what waited is there now"


def test_other_rules_for_samples_are_another_model_and_a_window_is_shorter_than_what_is_held_out(
    tmp_path: Path,
) -> None:
    shutil.copytree(first_day(), tmp_path / "shop")
    settings = tmp_path / "shop" / "shop.toml"
    features, read = features_of(settings), read_settings(settings)
    same = dataclasses.replace(read, data=dataclasses.replace(read.data, negatives_seed=1, window="1h"))
    assert model_digest(same, features) == model_digest(read, features)
    for change in ({"label": "label==1"}, {"requests": ("x",)}, {"labels": ("x",)}, {"negatives": 2}):
        other = dataclasses.replace(read, data=dataclasses.replace(read.data, **change))
        assert model_digest(other, features) != model_digest(read, features), json.dumps(change)
    with pytest.raises(ConfigError, match="data.window is '6h', and data.holdout '6h': .* allowed: a shorter window"):
        with_setting(settings, "data", 'requests = ["x"]\nwindow = "6h"')
