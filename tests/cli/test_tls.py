"""`recsys rank`, `recommend` and `retrieve` on a server with mTLS: by options, and by environment variables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Authority, Secret, mtls
from support.tiny_bundle import write_tiny_bundle
from support.tiny_retrieval import write_tiny_retrieval
from typer.testing import CliRunner

from recsys.cli import app
from recsys.client import RpcError
from recsys.errors import InvalidInputError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

AUTHORITY = Authority()
COMMANDS = (("rank", "--items", "1,2"), ("recommend",), ("retrieve",))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[tuple[str, Secret]]:
    """A server's address, and files of a caller."""
    folder = tmp_path_factory.mktemp("served")
    write_tiny_bundle(folder / "ranking")
    write_tiny_retrieval(folder / "finder")
    secret, callers = mtls(AUTHORITY, folder / "server"), mtls(AUTHORITY, folder / "callers")
    settings = Settings(
        bundle=folder / "ranking",
        retrieval=folder / "finder",
        port=0,
        redis_url=redis_server.url,
        tls_certificate=secret / "cert",
        tls_key=secret / "key",
        tls_client_ca=secret / "ca",
    )
    with running_server(settings) as server:
        yield server.address, callers


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("by", ["options", "variables"])
def test_a_command_shows_its_certificate(by: str, command: tuple[str, ...], served: tuple[str, Secret]) -> None:
    address, secret = served
    given = {"ca": secret / "ca", "certificate": secret / "cert", "key": secret / "key"}
    arguments = [*command, "--user", "1", "--address", address, "--timeout", "20", "--json"]
    variables: dict[str, str] = {}
    if by == "options":
        arguments += [text for name, path in given.items() for text in (f"--tls-{name}", str(path))]
    else:
        variables = {f"RECSYS_CLIENT_TLS_{name.upper()}": str(path) for name, path in given.items()}
    done = CliRunner().invoke(app, arguments, env=variables, catch_exceptions=False)
    assert done.exit_code == 0 and json.loads(done.stdout.splitlines()[-1])["model"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_without_tls_says_that_the_server_speaks_it(
    command: tuple[str, ...], served: tuple[str, Secret]
) -> None:
    arguments = [*command, "--user", "1", "--address", served[0]]
    with pytest.raises(RpcError, match="if it speaks TLS, give tls"):
        CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)


def test_a_key_without_a_certificate_is_refused(served: tuple[str, Secret], tmp_path: Path) -> None:
    arguments = ["rank", "--user", "1", "--items", "1", "--tls-key", str(tmp_path / "key")]
    with pytest.raises(InvalidInputError, match="tls has a key alone"):
        CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)
