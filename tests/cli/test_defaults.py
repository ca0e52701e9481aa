"""Defaults of the command line are those of what it sets: the server's settings, configurations, functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from cli.test_cli import recsys

from recsys.cli import app
from recsys.client import Client
from recsys.compress.sweep import CompressConfig
from recsys.evaluation.comparison import compare_predictions
from recsys.feature_store.redis.link.schemes import SCHEMES
from recsys.ingest.files import file_source
from recsys.ingest.run import ingest
from recsys.ingest.source import Pace
from recsys.profile.measure import DEFAULT_HISTORY, profile_bundle
from recsys.profile.retrieval.measure import profile_retrieval
from recsys.profile.retrieval.requests import DEFAULT_HISTORY as OF_RETRIEVAL
from recsys.serving.settings import Settings, settings_table
from recsys.training.tables.growth.grow import GrowthOptions

ROOT: Any = typer.main.get_command(app)


def option(command: str, name: str) -> Any:
    """A parameter of a command, ``group command`` for one of a group."""
    found: Any = ROOT
    for part in command.split():
        found = found.commands[part]
    return next(p for p in found.params if p.name == name)


SET_BY_OPTIONS = [row for row in settings_table() if any(p.name == row.name for p in ROOT.commands["serve"].params)]


@pytest.mark.parametrize("row", SET_BY_OPTIONS, ids=lambda row: row.name)
def test_an_option_of_serve_shows_its_settings_default(row: Any) -> None:
    default = getattr(Settings(), row.name)
    found = option("serve", row.name)
    assert found.default is None  # not given: the environment's value, then the setting's default
    shown = row.variable if row.name == "bundle" else "unset" if default is None else str(default)
    assert found.help.endswith(f"Default: {shown}."), found.help


def test_every_option_of_serve_but_three_sets_a_setting_and_says_what_the_setting_says(tmp_path: Path) -> None:
    names = {p.name for p in ROOT.commands["serve"].params}
    assert names - {row.name for row in SET_BY_OPTIONS} <= {"settings", "help", "materialize"}
    assert len(SET_BY_OPTIONS) > 10
    shown = " ".join(recsys("serve", "--help", cwd=tmp_path, COLUMNS="400").stdout.split())
    for row in SET_BY_OPTIONS:
        if row.name != "bundle":
            assert row.meaning[1:].replace("`", "") in shown


@pytest.mark.parametrize("command", ["serve", "ingest", "materialize", "precompute-states", "profile"])
def test_the_help_of_redis_url_names_every_kind_of_redis(command: str) -> None:
    kinds = [scheme for scheme in SCHEMES if not scheme.startswith("rediss+")]  # those are the same with TLS
    assert all(f" {kind}" in option(command, "redis_url").help for kind in kinds)


def default_of(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


@pytest.mark.parametrize(
    ("command", "name", "default"),
    [
        ("precompute-states", "ttl_s", Settings().state_ttl_s),
        ("precompute-states", "redis_dir", Settings().redis_dir),
        ("materialize", "redis_dir", Settings().redis_dir),
        ("ingest", "redis_dir", Settings().redis_dir),
        ("ingest", "future_tolerance_s", Settings().future_tolerance_s),
        ("ingest", "future_tolerance_s", default_of(ingest, "future_tolerance_s")),
        ("ingest", "retry_for", default_of(ingest, "retry_for_s")),
        ("ingest", "flush_events", Pace().flush_events),
        ("ingest", "flush_ms", 1000 * Pace().flush_s),
        ("ingest", "batch_events", default_of(file_source, "batch_events")),
        *(
            (command, "address", f"{Settings().host}:{Settings().port}")
            for command in ("rank", "recommend", "retrieve")
        ),
        ("rank", "address", default_of(Client.__init__, "address")),
        ("recommend", "top", default_of(Client.recommend, "top_k")),
        ("recommend", "candidates", default_of(Client.recommend, "candidates")),
        ("retrieve", "top", default_of(Client.retrieve, "top_k")),
        ("compress", "seeds", CompressConfig(maps=("hash",), budgets=(0.5,)).seeds),
        ("compress", "quantize", CompressConfig(maps=("hash",), budgets=(0.5,)).quantize),
        ("compress", "tolerance", CompressConfig(maps=("hash",), budgets=(0.5,)).tolerance),
        ("compare", "bootstrap", default_of(compare_predictions, "resamples")),
        ("compare", "seed", default_of(compare_predictions, "seed")),
        ("profile", "requests", default_of(profile_bundle, "requests")),
        ("rows grow", "admit", GrowthOptions().admit_count),
        ("rows grow", "evict", GrowthOptions().evict),
        ("rows grow", "evict_count", GrowthOptions().evict_count),
        ("rows grow", "recluster", GrowthOptions().recluster),
    ],
)
def test_an_options_default_is_that_of_what_it_sets(command: str, name: str, default: object) -> None:
    assert option(command, name).default == default


def test_profile_says_what_it_takes_where_nothing_is_given() -> None:
    assert f"Default: {DEFAULT_HISTORY:,}; with --retrieval {OF_RETRIEVAL}." in option("profile", "history").help
    assert f"Default: {default_of(profile_bundle, 'candidates')}." in option("profile", "candidates").help
    assert f"Default: {default_of(profile_retrieval, 'top_k')}." in option("profile", "top_k").help
