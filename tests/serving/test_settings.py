"""Settings come from the environment and the command line, and complain precisely."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.feature_store.redis.link.schemes import SCHEMES
from recsys.serving.settings import Settings, read_settings, settings_table


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"RECSYS_PORT": ""}) == Settings()


def test_variables_are_read_and_overrides_win() -> None:
    environment = {
        "RECSYS_PORT": "0",
        "RECSYS_BUNDLE": "/models/a",
        "REDIS_URL": "redis://r:6379",
        "RECSYS_DRAIN_TIMEOUT_S": "2.5",
        "RECSYS_VERIFY": "sizes",
    }
    settings = read_settings(environment, port=7000, bundle=None)
    assert settings.port == 7000
    assert settings.bundle == Path("/models/a")
    assert settings.redis_url == "redis://r:6379"
    assert (settings.drain_timeout_s, settings.verify) == (2.5, "sizes")


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("RECSYS_PORT", "http", "RECSYS_PORT is 'http'; allowed: whole numbers from 0 to 65,535"),
        ("RECSYS_PORT", "65536", "RECSYS_PORT is 65536; allowed: whole numbers from 0 to 65,535"),
        ("RECSYS_MAX_IN_FLIGHT", "0", "RECSYS_MAX_IN_FLIGHT is 0; allowed: whole numbers from 1 to 100,000"),
        ("RECSYS_STORE_TIMEOUT_MS", "1.5", "RECSYS_STORE_TIMEOUT_MS is '1.5'; allowed: whole numbers from 1 to"),
        ("RECSYS_DRAIN_TIMEOUT_S", "nan", "RECSYS_DRAIN_TIMEOUT_S is nan; allowed: numbers from 0.0 to 3,600.0"),
        ("RECSYS_VERIFY", "none", "RECSYS_VERIFY is 'none'; allowed: full, sizes"),
        ("REDIS_URL", "localhost:6379", "REDIS_URL is '***'; allowed: a URL that starts with redis://"),
    ],
)
def test_a_bad_value_names_the_variable_the_value_and_what_is_allowed(
    variable: str, value: str, complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({variable: value})
    assert str(caught.value).startswith(complaint)


def test_every_variable_that_is_no_text_or_path_is_checked_and_says_what_is_allowed() -> None:
    checked = [row for row in settings_table() if row.allowed not in ("any text", "a path")]
    assert len(checked) > 40
    for row in checked:
        with pytest.raises(ConfigError) as caught:
            read_settings({row.variable: "?"})
        shown = "'***'" if row.variable == "REDIS_URL" else "'?'"
        assert f"{row.variable} is {shown}; allowed: {row.allowed}" in str(caught.value)


def test_a_bad_override_names_the_field() -> None:
    with pytest.raises(ConfigError, match="port is -1; allowed: whole numbers from 0"):
        read_settings({}, port=-1)
    with pytest.raises(ConfigError, match="max_candidates is True; allowed"):
        Settings(max_candidates=True)
    with pytest.raises(ConfigError, match="unknown setting 'prot': did you mean 'port'"):
        read_settings({}, prot=1)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"REDIS_URL": "http://user:s3cret@cache"})
    assert "s3cret" not in str(caught.value) and "cache" in str(caught.value)


def test_an_unknown_variable_is_warned_about_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert read_settings({"RECSYS_PROT": "1", "OTHER": "x"}) == Settings()
    assert "RECSYS_PROT is not known and ignored: did you mean 'RECSYS_PORT'" in caplog.text
    assert "OTHER" not in caplog.text
    caplog.clear()
    read_settings({"RECSYS_CLIENT_TLS_CA": "ca.pem"})
    assert not caplog.text, "of commands that call a server"


def test_the_table_explains_every_setting() -> None:
    table = settings_table()
    assert [row.name for row in table] == [f.name for f in dataclasses.fields(Settings)]
    assert all(row.meaning and row.default and row.allowed for row in table)
    assert {row.name: row.variable for row in table}["redis_url"] == "REDIS_URL"


def test_every_kind_of_redis_url_is_taken() -> None:
    for scheme in SCHEMES:
        assert read_settings({"REDIS_URL": f"{scheme}cache"}).redis_url == f"{scheme}cache"
    with pytest.raises(ConfigError) as caught:
        read_settings({"REDIS_URL": "redis+sentinels://cache"})
    assert all(scheme in str(caught.value) for scheme in SCHEMES)


def test_a_bundle_or_releases_given_as_an_option_win_over_variables_that_name_the_other() -> None:
    both = {"RECSYS_RELEASES": "store", "RECSYS_BUNDLE": "bundle", "RECSYS_RETRIEVAL": "finder"}
    releases = read_settings(both, releases=Path("mine"))
    assert (releases.releases, releases.bundle, releases.retrieval) == (Path("mine"), None, None)
    bundle = read_settings(both, bundle=Path("mine"))
    assert (bundle.releases, bundle.bundle, bundle.retrieval) == (None, Path("mine"), Path("finder"))
    with pytest.raises(ConfigError, match=r"RECSYS_RELEASES.*RECSYS_BUNDLE or RECSYS_RETRIEVAL.*allowed: one of them"):
        read_settings(both)
