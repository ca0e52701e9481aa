"""A server that others can reach is secured, or says by its own flag that it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_server import server_process, start_server_process

from recsys.errors import ConfigError
from recsys.serving.process.exposure import check_exposure, unsecured
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings
from recsys.serving.settings.tls import is_loopback

TLS: dict[str, Any] = {"tls_certificate": Path("c.pem"), "tls_key": Path("k.pem")}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "ranker.example"])
def test_other_than_loopback_needs_the_flag_and_the_message_names_it(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_exposure(Settings(host=host))
    message = str(caught.value)
    assert "no TLS and no access_file" in message and "--insecure" in message and "RECSYS_INSECURE=1" in message
    check_exposure(Settings(host=host, insecure=1))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)
    check_exposure(Settings(host=host))


def test_tls_and_access_or_client_certificates_are_enough_and_each_alone_is_not() -> None:
    check_exposure(Settings(host="0.0.0.0", access_file=Path("a.toml"), **TLS))
    check_exposure(Settings(host="0.0.0.0", tls_client_ca=Path("ca.pem"), **TLS))
    with pytest.raises(ConfigError, match="there is no access_file; allowed"):
        check_exposure(Settings(host="0.0.0.0", **TLS))
    with pytest.raises(ConfigError, match="there is no TLS; allowed"):
        check_exposure(Settings(host="0.0.0.0", access_file=Path("a.toml")))


def test_what_runs_unsecured_is_listed_a_line_each() -> None:
    lines = unsecured(Settings(metrics_port=1, redis_url="redis://u@cache?db=1", host="0.0.0.0", insecure=1))
    assert [line.partition(":")[0] for line in lines] == [
        "no TLS on 0.0.0.0",
        "no access_file",
        "the metrics page asks for no token",
        "no TLS to redis",
    ]
    assert "whoever reaches the port may rank, read and write everything" in lines[1]
    assert "every program on this machine may" in unsecured(Settings())[1]
    assert unsecured(Settings(redis_url="redis://localhost"))[2].startswith("no password to redis://localhost")
    assert len(unsecured(Settings(redis_url="unix:///r.sock"))) == 2


def test_a_secured_server_has_no_such_line() -> None:
    secured = Settings(access_file=Path("a.toml"), redis_url="rediss://:p@cache", **TLS)
    assert unsecured(secured) == []


def test_no_way_to_start_a_server_goes_around_the_check(tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="RECSYS_INSECURE=1"), running_server(Settings(host="0.0.0.0")):
        pass
    for more in ({}, {"RECSYS_WORKERS": "2"}):
        process = start_server_process(tmp_path, RECSYS_BUNDLE=str(tiny_bundle), RECSYS_HOST="0.0.0.0", **more)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0 and "RECSYS_INSECURE=1" in errors


def test_a_server_says_at_its_start_what_runs_unsecured(tmp_path: Path, tiny_bundle: Path, redis_url: str) -> None:
    variables = {"RECSYS_BUNDLE": str(tiny_bundle), "REDIS_URL": redis_url, "RECSYS_HOST": "0.0.0.0"}
    with server_process(tmp_path, **variables, RECSYS_INSECURE="1") as server:
        server.process.terminate()
        said = server.process.communicate(timeout=60)[1].splitlines()
    assert sum(line.startswith("recsys: unsecured: no TLS on 0.0.0.0") for line in said) == 1
    assert sum(line.startswith("recsys: unsecured: no access_file: whoever") for line in said) == 1
