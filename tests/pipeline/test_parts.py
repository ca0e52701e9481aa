"""Parts of the loop by themselves: days, keys, the look at samples, states, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from support.paths import TESTS
from support.tiny_pipeline import (
    FEATURES,
    USERS,
    before_the_gate,
    nth_day,
    run,
    second_day,
    with_setting,
    write_shop,
)
from typer.testing import CliRunner

from recsys.cli import app
from recsys.errors import ConfigError, StoreError
from recsys.pipeline.days import day_of, iso
from recsys.pipeline.gate import noise_notes
from recsys.pipeline.publish import precompute
from recsys.pipeline.samples import look_at, open_samples
from recsys.pipeline.settings import StateSettings, read_settings
from recsys.pipeline.state import read_state, state_file
from recsys.pipeline.steps import FileDigests
from recsys.releases.served import read_served

NOW_MS = 1_800_000_000_000
"""2027-01-15T08:00:00Z."""


def test_a_day_ends_at_midnight_in_its_zone_also_where_a_day_has_25_hours() -> None:
    berlin = [day_of(day, None, zone="Europe/Berlin", now_ms=NOW_MS).until_ms for day in ("2026-10-24", "2026-10-25")]
    assert list(map(iso, berlin)) == ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"]
    assert day_of(None, None, zone="Pacific/Auckland", now_ms=NOW_MS).name == "2027-01-14"
    until = day_of(None, "2026-11-29T12:00", zone="Europe/Berlin", now_ms=NOW_MS)
    assert until.name == "2026-11-29T11-00-00Z" and iso(until.until_ms) == "2026-11-29T11:00:00Z"


@pytest.mark.parametrize(
    ("day", "until", "message"),
    [
        ("2027-01-15", None, "2027-01-15 ends at 2027-01-16T00:00:00Z, and it is 2027-01-15T08:00:00Z"),
        ("yesterday", None, "--day is 'yesterday'; allowed: a date"),
        (None, "noon", "--until is 'noon'; allowed: a moment"),
        ("2027-01-01", "2027-01-01T12:00", "allowed: one of them"),
    ],
)
def test_a_day_that_is_none_or_not_over_is_refused(day: str | None, until: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        day_of(day, until, zone="UTC", now_ms=NOW_MS)


def test_a_file_is_hashed_again_when_anything_about_it_changed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a")

    def found() -> list[str]:
        digests = FileDigests(tmp_path / "cache")
        made = digests.of([log])
        digests.save()
        return made

    first = found()
    assert found() == first
    log.write_text("b")
    assert found() != first
    (tmp_path / "cache").write_text("{")
    log.write_text("a")
    assert found() == first, "a cache that is damaged is made anew"


def test_drift_is_none_where_new_events_are_as_those_before_and_large_where_they_are_of_new_items() -> None:
    folder = second_day() / "pipeline"
    state = read_state(state_file(folder, nth_day(1).name))
    assert state is not None
    dataset = open_samples(folder / state.steps["samples"].output, recent=None)
    times = np.sort(dataset.table.timestamp_ms)
    moments = {"since_ms": None, "test_from_ms": int(times[-1]) + 1}
    dataset.samples.splits["test"] = dataset.samples.splits["test"][:0]
    same = look_at(dataset, new_from_ms=int(times[len(times) // 2]), **moments)
    assert 0 <= same["drift"] < 0.25 and same["new_items"] == 0
    few = look_at(dataset, new_from_ms=int(times[3]), **moments)
    assert few["new_items"] > 0.8 and few["drift"] > 1


def wrong_login(url: str) -> str:
    return f"{url}?username=nobody&password=wrong-secret"


def test_states_are_not_computed_with_wrong_credentials(redis_url: str) -> None:
    with pytest.raises(StoreError, match="WRONGPASS|invalid username-password") as raised:
        precompute(TESTS / "golden" / "compatibility" / "sdim", wrong_login(redis_url), StateSettings())
    assert "wrong-secret" not in str(raised.value)


@pytest.mark.prove
def test_a_day_whose_states_cannot_be_computed_promotes_nothing_until_they_can(tmp_path: Path, redis_url: str) -> None:
    settings = write_shop(tmp_path / "shop", days=2)
    text = (
        settings.read_text()
        .replace('recipe = "dcn"', 'recipe = "sdim"\nmode = "full"')
        .replace('"model.head=[8]", "model.cross_layers=1",', '"model.head=[8]", "model.short=2",')
    )
    settings.write_text(text)
    (tmp_path / "shop" / "features.json").write_text(json.dumps(FEATURES | {"history": {"recent": 400}}))
    assert run(settings, 0).state.status == "promoted"
    before = read_served(tmp_path / "shop" / "releases")
    refused = run(settings, 1).state
    assert refused.status == "refused" and "give the Redis with REDIS_URL" in refused.reasons[0]
    log = tmp_path / "shop" / "pipeline" / refused.steps["samples"].output / "log"
    filled = CliRunner().invoke(app, ["materialize", str(log), "--redis-url", redis_url])
    assert filled.exit_code == 0, filled.output
    with pytest.raises(StoreError):
        run(settings, 1, redis_url=wrong_login(redis_url))
    assert read_served(tmp_path / "shop" / "releases") == before
    assert not any(b"wrong-secret" in file.read_bytes() for file in (tmp_path / "shop").rglob("*") if file.is_file())
    done = run(settings, 1, redis_url=redis_url)
    assert done.state.status == "promoted" and done.taken == ("states", "push", "promote")
    assert done.state.steps["states"].facts["users"] == USERS


def test_a_refusal_that_may_be_chance_says_so() -> None:
    def row(metric: str, worse_by: float, verdict: str) -> dict[str, object]:
        return {
            "metric": metric, "segment": "", "verdict": verdict, "worse_by": worse_by, "standard_error": 0.01
        }  # fmt: skip

    assert noise_notes([row("auc", 0.03, "worse"), row("log_loss", 0.005, "within")]) == []
    (note,) = noise_notes([row("gauc", 0.015, "worse"), row("auc", 0.03, "worse")])
    assert note.startswith("gauc: worse by less than two standard errors of the difference, so it may be chance")


def typed(*arguments: str) -> Result:
    result = CliRunner(env={"COLUMNS": "200", "REDIS_URL": ""}).invoke(app, ["pipeline", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_runs_a_day_and_says_how_it_ended(tmp_path: Path) -> None:
    settings = before_the_gate(tmp_path / "shop")
    would = typed(str(settings), "--day", "2025-12-02", "--dry-run")
    assert would.exit_code == 0 and "would run: look; then what depends on it: train, bundle" in would.output
    done = typed(str(settings), "--day", "2025-12-02", "--json")
    facts = json.loads(done.stdout)
    assert done.exit_code == 0 and facts["status"] == "promoted" and facts["taken"][-1] == "promote"
    assert facts["metrics"]["candidate"]["samples"] == 150
    again = typed(str(settings), "--day", "2025-12-02")
    assert again.exit_code == 0 and f"2025-12-02: {facts['release']} is promoted" in again.output


def test_a_refused_day_ends_the_command_with_code_3_and_the_reason(tmp_path: Path) -> None:
    settings = before_the_gate(tmp_path / "shop")
    with_setting(settings, "gate", "most_rows_ratio = 0.0")
    settings.write_text(settings.read_text().replace("least_samples = 20", "least_samples = 151"))
    before = read_served(settings.parent / "releases")
    done = typed(str(settings), "--day", "2025-12-02")
    assert done.exit_code == 3 and "150 samples; allowed: at least 151 (gate.least_samples)" in done.output
    assert read_served(settings.parent / "releases") == before


def test_the_command_writes_an_example(tmp_path: Path) -> None:
    done = typed(str(tmp_path / "shop.toml"), "--init")
    assert done.exit_code == 0 and read_settings(tmp_path / "shop.toml").name == "shop"


def test_a_day_that_is_nothing_ends_the_command_with_code_0(tmp_path: Path) -> None:
    settings = write_shop(tmp_path / "shop", days=1)
    done = typed(str(settings), "--day", "2025-11-01")
    assert done.exit_code == 0 and "nothing to do: there is no event before 2025-11-02T00:00:00Z" in done.output
