"""`recsys access`: a token that it makes gets in with the lines that it prints."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.errors import ConfigError
from recsys.serving.rpc.access.callers import identify
from recsys.serving.rpc.access.policy import read_policy

RUN = CliRunner()


def run(*arguments: str) -> tuple[str, str]:
    """Standard output and standard error."""
    done = RUN.invoke(app, ["access", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_a_made_token_is_known_with_its_name_roles_and_days(tmp_path: Path) -> None:
    out, file = tmp_path / "web.token", tmp_path / "access.toml"
    lines, told = run("token", "web", "--role", "rank", "--role", "read", "--days", "2", "--out", str(out))
    token = out.read_text().strip()
    assert token not in lines + told and stat.S_IMODE(out.stat().st_mode) == 0o600
    file.write_text("format = 1\n" + lines)
    policy = read_policy(file)
    found = identify(policy, [("authorization", f"Bearer {token}")], dict)
    assert (found.name, found.roles) == ("token:web", {"rank", "read"})
    (entry,) = policy.tokens.values()
    assert entry.expires_s == pytest.approx(time.time() + 2 * 86_400, abs=60)


def test_without_a_file_the_token_is_on_standard_error_once_and_every_one_is_another() -> None:
    tokens = set()
    for _ in range(3):
        lines, told = run("token", "web", "--role", "rank")
        token = told.strip().rpartition(" ")[2]
        assert token.startswith("recsys_") and len(token) == 50 and token not in lines
        tokens.add(token)
    assert len(tokens) == 3


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "token"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="File exists"):
        run("token", "web", "--role", "rank", "--out", str(out))
    assert out.read_text() == "mine"


def test_an_unknown_role_and_a_bad_name_are_named() -> None:
    with pytest.raises(ConfigError, match="--role 'rnak': did you mean 'rank'"):
        run("token", "web", "--role", "rnak")
    with pytest.raises(ConfigError, match="name is 'a b'; allowed"):
        run("token", "a b", "--role", "rank")


def test_a_file_is_listed_as_a_server_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "access.toml"
    lines, _ = run("token", "web", "--role", "rank")
    old = lines.replace('"web"', '"old"').replace(lines.split('sha256 = "')[1][:64], "ab" * 32)
    old = old.partition("expires")[0] + "expires = 2020-01-01T00:00:00Z\n"
    spiffe = '[[spiffe]]\nid = "spiffe://example.org/web"\nroles = ["write"]\ncalls_per_s = 5\n'
    file.write_text("format = 1\n" + lines + old + spiffe)
    table, told = run("check", str(file))
    assert "token:web" in table and "spiffe://example.org/web" in table and "token:old has expired" in told
    listed = json.loads(run("check", str(file), "--json")[0])
    assert listed["expired"] == ["token:old"]
    assert {each["caller"]: each["roles"] for each in listed["callers"]}["spiffe://example.org/web"] == ["write"]
    file.write_text("format = 1")
    with pytest.raises(ConfigError, match="lets nobody in"):
        run("check", str(file))
