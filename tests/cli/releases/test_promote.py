"""`recsys release promote`: guards on real bundles, what is overridden, and what is done before a release is live."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from support.command_line import recsys
from support.graded_bundles import CERTIFIED, measured
from support.own_log import prepared
from support.tiny_bundle import BY_HAND, ITEMS, write_tiny_bundle
from support.tiny_run import CONFIG, folder_of_this_process
from support.tiny_sdim import fill, other_network, other_table, sdim_bundle
from typer.testing import CliRunner

from recsys.bundle import Measured, open_bundle
from recsys.cli import app
from recsys.cli.releases import promote as promote_module
from recsys.data.datasets import load_dataset
from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError, ReleaseError
from recsys.export.certificate import sample_request
from recsys.export.onnx import export_bundle
from recsys.models.ranking.din import DinConfig
from recsys.releases.served import Served, ServedModel, read_served
from recsys.releases.status import ServerStatus, write_status
from recsys.releases.store import push_release
from recsys.serving.handlers.request_log import RequestLog
from recsys.serving.long_history.precompute import precompute_states
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import build


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@cache
def quality(signal: float, of_new_users: float | None = None) -> Measured:
    return measured(signal=signal, of_new_users=of_new_users)


def pushed(store: Path, of: Measured | None = None, *, items: float = 1.0, **bundle: Any) -> str:
    """Push a tiny bundle of these metrics; ``items`` scales its table, so that each is another release."""
    folder = store.parent / f"bundle-{len(list(store.parent.glob('bundle-*')))}"
    write_tiny_bundle(folder, measured=of, items=ITEMS * np.float32(items), **{"certificate": CERTIFIED, **bundle})
    return push_release(store, ranking=folder, retrieval=None).name


def run(store: Path, *arguments: str, **environment: str) -> Result:
    """Run the command in this process; its errors are raised."""
    given = ["release", "promote", *arguments, "--store", str(store)]
    result = CliRunner(env={"COLUMNS": "200", "REDIS_URL": "", **environment}).invoke(app, given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def live(store: Path, model: str = "tiny") -> str:
    served = read_served(store)
    assert served is not None
    return served.models[model].live


def test_the_first_release_goes_live_and_the_next_follows_it(store: Path) -> None:
    first, second = pushed(store, quality(1.5)), pushed(store, quality(1.6), items=2)
    done = run(store, first)
    assert done.exit_code == 0 and "nothing is live as tiny yet" in done.output
    done = run(store, second, "--why", "more signal")
    served = read_served(store)
    assert done.exit_code == 0 and served is not None
    assert (served.models["tiny"].live, served.models["tiny"].previous) == (second, first)
    assert served.why == "more signal"
    assert f"{second} is live as tiny; {first} is the previous" in done.output
    assert "all samples" in done.output and "user new" in done.output and "better" in done.output


def test_a_release_worse_in_one_segment_is_refused_with_code_3_and_every_reason(store: Path) -> None:
    first, second = pushed(store, quality(1.5)), pushed(store, quality(1.5, 1.2), items=2)
    run(store, first)
    done = run(store, second, "--margin", "3%")
    assert done.exit_code == 3 and live(store) == first
    assert "refused: ranking: auc of segment 'user new'" in done.output
    assert "--anyway WHY promotes in spite of it" in done.output
    told = run(store, second, "--margin", "3%", "--json")
    facts = json.loads(told.stdout)
    assert told.exit_code == 3 and not facts["promoted"] and facts["running"] == first
    assert facts["refusals"] and all("'user new'" in reason for reason in facts["refusals"])
    row = next(r for r in facts["metrics"] if (r["segment"], r["metric"]) == ("user new", "auc"))
    assert row["verdict"] == "worse" and row["worse_by"] > row["allowed"]
    assert run(store, second, "--margin", "90%", "--margin", "calibration_error=1").exit_code == 0
    assert live(store) == second


def test_anyway_promotes_and_served_json_keeps_the_reason_and_what_was_overridden(store: Path) -> None:
    first, second = pushed(store, quality(1.5)), pushed(store, quality(1.0), items=2, certificate=BY_HAND)
    run(store, first)
    done = run(store, second, "--anyway", "the old model breaks a law")
    served = read_served(store)
    assert done.exit_code == 0 and served is not None and live(store) == second
    assert served.why.startswith("the old model breaks a law (in spite of: ranking: no parity certificate")
    assert "ranking: auc:" in served.why
    assert "in spite of: ranking: auc:" in done.output


def test_a_damaged_release_is_refused_whatever_the_reason(store: Path) -> None:
    name = pushed(store, quality(1.5))
    table = store / "releases" / name / "ranking" / "tables" / "items.bin"
    table.chmod(0o644)
    table.write_bytes(b"\1" + table.read_bytes()[1:])
    done = run(store, name, "--anyway", "hurry")
    assert done.exit_code == 3 and read_served(store) is None
    assert "items.bin: was altered" in done.output and "cannot be promoted with --anyway either" in done.output


@pytest.mark.parametrize("lost", ["tables/items.bin", "manifest.json"])
def test_a_damaged_release_comes_into_no_split_whatever_the_reason(store: Path, lost: str) -> None:
    first, second = pushed(store, quality(1.5)), pushed(store, quality(1.5), items=2)
    run(store, first)
    file = store / "releases" / second / "ranking" / lost
    file.parent.chmod(0o755)
    file.unlink()
    before = read_served(store)
    share = ["release", "split", "tiny", f"{second}=10", "--store", str(store)]
    for arguments in (share, [*share, "--anyway", "hurry"]):
        error = CliRunner().invoke(app, arguments).exception
        assert (
            isinstance(error, ReleaseError) and f"{second} is damaged" in str(error) and str(file.parent) in str(error)
        )
    assert read_served(store) == before


def test_a_dry_run_changes_nothing(store: Path) -> None:
    name = pushed(store, quality(1.5))
    assert run(store, name, "--dry-run").exit_code == 0
    assert read_served(store) is None


def test_the_live_release_again_changes_nothing(store: Path) -> None:
    name = pushed(store, quality(1.5))
    run(store, name)
    before = read_served(store)
    assert "already" in run(store, name).output and read_served(store) == before


def test_the_live_release_again_waits_for_servers_and_fails_if_one_refuses_it(store: Path) -> None:
    name = pushed(store, quality(1.5))
    run(store, name)
    write_status(store, ServerStatus(server="s:1", at="", revision=1, refused="too slow"))
    with pytest.raises(ReleaseError, match="s:1 does not serve .*: too slow"):
        run(store, name, "--wait", "5")
    write_status(store, ServerStatus(server="s:1", at="", revision=1, models={"tiny": ServedModel(live=name)}))
    values = json.loads(run(store, name, "--wait", "5", "--json").output)
    assert not values["promoted"] and values["served"]["models"]["tiny"]["live"] == name
    assert [each["server"] for each in values["servers"]] == ["s:1"] and values["metrics"] == []


def test_a_change_that_was_made_is_printed_as_json_though_the_wait_for_servers_fails(store: Path) -> None:
    name = pushed(store, quality(1.5))
    given = ["release", "promote", name, "--store", str(store), "--wait", "0.1", "--json"]
    found = CliRunner(env={"COLUMNS": "200", "REDIS_URL": ""}).invoke(app, given)
    values = json.loads(found.stdout)
    assert values["promoted"] and values["served"]["models"]["tiny"]["live"] == name
    assert values["servers"] == [] and values["problem"] == str(found.exception)
    assert isinstance(found.exception, ReleaseError) and "no server has written its status" in str(found.exception)


def test_a_running_release_whose_record_is_lost_is_a_reason_that_anyway_passes(store: Path) -> None:
    first, second, third = (pushed(store, quality(1.5), items=n) for n in (1.0, 2.0, 3.0))
    run(store, first)
    record = store / "releases" / first / "release.json"
    record.unlink()
    done = run(store, second)
    assert (
        done.exit_code == 3
        and "the running release cannot be read" in done.output
        and str(record.parent) in done.output
    )
    assert "nothing is live" not in done.output
    share = ["release", "split", "tiny", f"{third}=10", "--store", str(store)]
    assert isinstance(CliRunner().invoke(app, share).exception, ReleaseError)
    assert CliRunner().invoke(app, [*share, "--anyway", "the record is lost"]).exit_code == 0
    in_spite = run(store, second, "--anyway", "the record is lost")
    assert in_spite.exit_code == 0 and live(store) == second and f"{first} is the previous" in in_spite.output


def test_a_release_is_live_under_the_name_that_is_given_and_compared_with_that_ones(store: Path) -> None:
    first, second = pushed(store, quality(1.5)), pushed(store, quality(1.0), items=2)
    run(store, first)
    assert run(store, second, "--model", "other").exit_code == 0  # nothing is live as other
    assert (live(store), live(store, "other")) == (first, second)
    assert run(store, second).exit_code == 3


def test_of_two_people_who_promote_at_once_one_is_told_of_the_other(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (pushed(store, quality(1.5), items=i) for i in (1, 2, 3))
    run(store, first)
    look = promote_module._look

    def slow_look(*given: Any) -> Any:
        """The other's promotion falls between the guards and the write."""
        monkeypatch.setattr(promote_module, "_look", look)
        assert run(store, third, "--why", "mine is better").exit_code == 0
        return look(*given)

    monkeypatch.setattr(promote_module, "_look", slow_look)
    with pytest.raises(ReleaseError, match="was changed meanwhile by .* \\(mine is better\\)"):
        run(store, second)
    assert live(store) == third


def test_options_that_do_not_fit_are_refused(store: Path) -> None:
    name = pushed(store, quality(1.5))
    for given, message in (
        (["--measure"], "--measure needs --data"),
        (["--requests", "log"], "--requests needs --data"),
        (["--data", "./x"], "give one of them"),
        (["--anyway", " "], "needs a reason"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(store, name, *given)


def test_refusals_end_the_process_with_code_3(store: Path) -> None:
    first, second = pushed(store, quality(1.5)), pushed(store, measured(seed=1), items=2)
    run(store, first)
    done = recsys("release", "promote", second, "--store", str(store), cwd=store.parent)
    assert done.returncode == 3 and "other test data" in done.stderr and "--measure --data SOURCE" in done.stderr


def shop() -> Dataset:
    return load_dataset(str(prepared()), work_dir=Path()).dataset


@cache
def shop_bundle(seed: int) -> Path:
    """An untrained model of the shop's log, of random weights, and without metrics."""
    dataset = shop()
    config = replace(CONFIG, model=DinConfig(attention=(6, 5), head=(7,)))
    config = replace(config, tables=replace(config.tables, dims={}))
    torch.manual_seed(seed)
    made = build(config, dataset.table.features, build_row_maps(config, dataset), device=torch.device("cpu"))
    folder = folder_of_this_process() / "bundle"
    export_bundle(made, dataset, folder, name="shop")
    return folder


def shop_releases(store: Path) -> tuple[str, str]:
    first, second = (push_release(store, ranking=shop_bundle(seed), retrieval=None).name for seed in (1, 2))
    run(store, first)
    return first, second


def test_releases_without_comparable_metrics_are_measured_on_one_test_split(store: Path) -> None:
    first, second = shop_releases(store)
    refused = run(store, second)
    assert refused.exit_code == 3 and "the release has no metrics" in refused.output
    given = ["--measure", "--data", str(prepared()), "--samples", "100"]
    done = run(store, second, *given, "--margin", "1000%", "--margin", "calibration_error=1", "--json")
    facts = json.loads(done.stdout)
    assert done.exit_code == 0 and live(store, "shop") == second
    assert {"auc", "log_loss"} <= {row["metric"] for row in facts["metrics"]}
    assert any(row["running"] != row["candidate"] for row in facts["metrics"])
    assert any("trained on other data" in note for note in facts["notes"])  # it says of none
    # And back: as good as ever, so the difference is now the other's.
    strict = run(store, first, *given, "--margin", "0", "--standard-errors", "0", "--dry-run", "--json")
    back = {(r["segment"], r["metric"]): r["worse_by"] for r in json.loads(strict.stdout)["metrics"]}
    there = {(r["segment"], r["metric"]): r["worse_by"] for r in facts["metrics"]}
    assert back == pytest.approx({key: -value for key, value in there.items()})
    assert strict.exit_code == 3


def write_requests(folder: Path, *, lost_events: int = 0, missing_user: bool = False) -> None:
    """A server's log of some test samples; its store lacks the newest events of each user, or knows no user."""
    dataset = shop()
    features = dataset.table.features
    log = RequestLog(folder, share=1.0)
    for index in dataset.split("test")[:20].tolist():
        encoded = sample_request(dataset, index, dataset.sample_item[[index]].astype(np.int64), features)
        time_ms = int(dataset.sample_time_ms[index])
        events = encoded.history_events
        if lost_events:
            kept = max(events - lost_events, 1)
            user = {n: c[:kept] if n.startswith("history.") else c for n, c in encoded.user.items()}
            encoded, events = replace(encoded, user=user, history_events=kept), kept
        if missing_user:
            encoded = replace(encoded, user={**encoded.user, features.user_id.name: np.array([10**9])})
        log.offer(
            encoded,
            features=features,
            history_events=events,
            time_ms=time_ms,
            sent=[f.name for f in features.context],
            degraded=False,
            model="shop",
            model_version="0" * 16,
            scores=np.zeros(1, np.float32),
        )
    log.close()


def test_live_requests_that_differ_from_the_data_block_a_promotion(store: Path, tmp_path: Path) -> None:
    name = push_release(store, ranking=shop_bundle(1), retrieval=None).name
    for folder, log in (("equal", {}), ("stale", {"lost_events": 1}), ("strangers", {"missing_user": True})):
        write_requests(tmp_path / folder, **log)
    data = ["--data", str(prepared())]
    stale = run(store, name, "--requests", str(tmp_path / "stale"), *data)
    assert stale.exit_code == 3 and read_served(store) is None
    assert "in 20 of 20 requests" in stale.output and "recsys parity" in stale.output
    strangers = run(store, name, "--requests", str(tmp_path / "strangers"), *data)
    assert strangers.exit_code == 3 and "could be compared" in strangers.output
    equal = run(store, name, "--requests", str(tmp_path / "equal"), *data, "--json")
    assert equal.exit_code == 0 and json.loads(equal.stdout)["requests"]["samples"] == 20
    assert live(store, "shop") == name


def sdim_releases(store: Path) -> tuple[str, str, str]:
    """One that is live, one with another network, one with another table, whose states are others."""
    bundles = (sdim_bundle(), other_network(), other_table())
    first, network, table = (push_release(store, ranking=b.path, retrieval=None).name for b in bundles)
    run(store, first)
    return first, network, table


ANYWAY = ("--anyway", "no metrics here")


def test_a_release_whose_states_are_others_is_refused_without_a_redis_and_says_both_ways_on(store: Path) -> None:
    first, network, table = sdim_releases(store)
    refused = run(store, table)
    assert refused.exit_code == 3 and live(store) == first
    assert "states of long histories" in refused.output
    assert "--redis-url" in refused.output and "--cold" in refused.output
    cold = run(store, table, "--cold", *ANYWAY)
    served: Served | None = read_served(store)
    assert cold.exit_code == 0 and served is not None and "states" not in served.why
    run(store, first, "--cold", *ANYWAY)
    shared = run(store, network, *ANYWAY)
    served = read_served(store)
    assert shared.exit_code == 0 and served is not None and "states" not in served.why


def test_states_are_precomputed_before_a_release_goes_live(store: Path, redis_url: str) -> None:
    _, _, table = sdim_releases(store)
    asyncio.run(fill(redis_url, {user: 300 for user in range(1, 6)}))
    given = ["--redis-url", redis_url, "--active-days", "0", "--users-per-s", "0", *ANYWAY, "--json"]
    done = run(store, table, *given)
    facts = json.loads(done.stdout)
    assert done.exit_code == 0 and live(store) == table
    assert facts["states"]["written"] == 5
    again = precompute_states(open_bundle(other_table().path), redis_url, ttl_s=60)
    assert (again.written, again.kept) == (0, 5)


def test_a_redis_that_is_away_leaves_what_is_live(store: Path) -> None:
    first, _, table = sdim_releases(store)
    done = recsys(
        *("release", "promote", table, "--store", str(store), "--redis-url", "redis://127.0.0.1:1", *ANYWAY),
        cwd=store.parent,
    )
    assert done.returncode == 4 and live(store) == first
