"""A password that is planted wherever one may be is in no output: logs, errors, listings, metrics, ``ps``, repr."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support.secured_server import secured
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import server_process

from recsys.client import AsyncClient, Client, RpcError
from recsys.client.token import CallToken
from recsys.errors import ConfigError, RecsysError
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.link.url import parse_redis_url
from recsys.serving.process.releases.check import CheckTask
from recsys.serving.process.workers.messages import Task
from recsys.serving.rpc.access.policy import read_policy
from recsys.serving.settings import read_settings, settings_lines

CANARY = "c4n4ry-s3cr3t"
URLS = [
    f"redis://:{CANARY}@127.0.0.1:1/0",
    f"redis://app:{CANARY}@127.0.0.1:1",
    f"redis://127.0.0.1:1?password={CANARY}",
    f"rediss://127.0.0.1:1?username=a&password={CANARY}",
    f"redis+sentinel://:{CANARY}@127.0.0.1:1/cache",
    f"redis+sentinel://127.0.0.1:1/cache?sentinel_password={CANARY}",
    f"redis+cluster://:{CANARY}@127.0.0.1:1",
    f"unix:///none.sock?password={CANARY}",
]
BAD_URLS = [
    f"redsi://:{CANARY}@cache",
    f"redis:/:{CANARY}@cache",
    f":{CANARY}@cache",
    CANARY,
    f"redis://cache:{CANARY}",
    f"redis://cache?no_such_option={CANARY}",
    f"redis://:{CANARY}@cache:port",
    f"redis+sentinel://:{CANARY}@cache",
    f"redis+cluster://:{CANARY}@cache/1",
]


def command(*arguments: str, **variables: str) -> str:
    """All that a command prints."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "REDIS_"))}
    environment = {**inherited, **variables}
    done = subprocess.run(
        [sys.executable, "-m", "recsys.cli", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("url", URLS)
def test_settings_and_what_holds_them_show_no_password(url: str) -> None:
    settings = read_settings({"REDIS_URL": url})
    check = CheckTask(releases=(), verify="full", redis_url=url)
    task = Task(number=1, settings=settings, plan=None, core=None, counts=None)
    shown = [repr(settings), str(settings), "\n".join(settings_lines(settings)), repr(task), repr(check)]
    assert settings.redis_url == url and pickle.loads(pickle.dumps(task)).settings.redis_url == url
    assert CANARY not in "\n".join(shown)


@pytest.mark.parametrize("url", URLS)
async def test_links_to_a_redis_and_their_errors_show_no_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    link = open_link(url)
    with pytest.raises(RecsysError) as caught:
        await link.round_trip([(b"PING",)], timeout_s=0.5)
    await link.close()
    shown = [repr(link), link.name, repr(parse_redis_url(url)), str(caught.value), caplog.text]
    assert CANARY not in "\n".join(shown)


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_malformed_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_link(read_settings({"REDIS_URL": url}).redis_url or "")
    assert CANARY not in str(caught.value) and CANARY not in repr(caught.value)


def test_a_url_in_the_wrong_variable_is_not_shown_either() -> None:
    for name in ("RECSYS_PORT", "RECSYS_VERIFY", "RECSYS_STORE_TIMEOUT_MS"):
        with pytest.raises(ConfigError) as caught:
            read_settings({name: URLS[0]})
        assert CANARY not in str(caught.value)


def test_commands_show_no_password(tmp_path: Path) -> None:
    told = command("serve", "--settings", REDIS_URL=URLS[2])
    assert "REDIS_URL=redis://127.0.0.1:1?password=***" in told and CANARY not in told
    for bad in (BAD_URLS[0], BAD_URLS[3]):
        for arguments in (["serve", "x"], ["ingest", "x.csv", "--features", "x"], ["precompute-states", "x"]):
            assert CANARY not in command(*arguments, REDIS_URL=bad)
    table = command("materialize", "--redis-url", URLS[0], "x")
    assert CANARY not in table


def test_a_password_on_the_command_line_is_warned_of_and_a_file_holds_it_instead(tmp_path: Path) -> None:
    warned = command("serve", "--settings", "--redis-url", URLS[0])
    assert "`ps` shows to everybody" in warned and "REDIS_URL_FILE" in warned and CANARY not in warned
    assert "`ps` shows" in command("precompute-states", "x", "--redis-url", URLS[0])
    assert "`ps` shows" not in command("serve", "--settings", "--redis-url", "redis://cache", REDIS_URL=URLS[0])
    file = tmp_path / "url"
    file.write_text(URLS[0] + "\n")
    settings = read_settings({"REDIS_URL_FILE": str(file)})
    assert settings.redis_url == URLS[0] and CANARY not in "\n".join(settings_lines(settings))
    with pytest.raises(ConfigError, match="REDIS_URL is set, and REDIS_URL_FILE"):
        read_settings({"REDIS_URL_FILE": str(file), "REDIS_URL": URLS[0]})
    for content in ("", f"{URLS[0]}\n{URLS[0]}", BAD_URLS[0]):
        file.write_text(content)
        with pytest.raises(ConfigError) as caught:
            read_settings({"REDIS_URL_FILE": str(file)})
        assert CANARY not in str(caught.value)


def command_lines(pid: int) -> str:
    """``ps`` of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return "\n".join(Path(f"/proc/{each}/cmdline").read_bytes().decode() for each in (str(pid), *children))


def test_a_server_with_workers_shows_no_password_and_no_token(tmp_path: Path, redis_url: str) -> None:
    """Its Redis refuses the password, which is warned of; clients come with tokens, good and bad."""
    write_tiny_bundle(tmp_path / "tiny")
    access = secured(tmp_path)
    variables: dict[str, Any] = {
        "RECSYS_BUNDLE": str(tmp_path / "tiny"),
        "REDIS_URL": f"{redis_url}?password={CANARY}",
        "RECSYS_WORKERS": "2",
        "RECSYS_METRICS_PORT": "0",
        "RECSYS_ACCESS_FILE": str(access.file),
    }
    outputs = []
    with server_process(tmp_path, **variables) as server:
        for token in (access.tokens["rank"], f"recsys_{CANARY}", f"{CANARY}.{CANARY}.{CANARY}", None):
            with Client(server.address, timeout_s=20, token=token) as client:
                try:
                    outputs.append(repr(client.rank(user=1, candidates=[1]).degraded))
                except RpcError as error:
                    outputs.append(f"{error!r} {error}")
        with urllib.request.urlopen(server.facts["metrics"], timeout=10) as page:
            outputs.append(page.read().decode())
        outputs.append(command_lines(server.process.pid))
        outputs.append((tmp_path / "ready.json").read_text())
        server.process.terminate()
        said = server.process.communicate(timeout=60)[1]
    outputs.append(said)
    assert "feature store" in said and "refused a call of" in said, "there was something to be hidden"
    found = [text for text in outputs if CANARY in text or access.tokens["rank"] in text]
    assert found == []


async def test_clients_tokens_and_policies_show_no_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(CANARY)
    shown = [repr(CallToken(CANARY, address="localhost", secured=False)), repr(read_policy(secured(tmp_path).file))]
    with Client("localhost", token=file) as client:
        shown += [repr(client), repr(client._token)]
    async with AsyncClient("localhost", token=CANARY) as other:
        shown += [repr(other), repr(other._token)]
    for bad in (f"{CANARY} {CANARY}", f"{CANARY}é", CANARY * 1_000, f"{CANARY}\n", b"\xff" + CANARY.encode()):
        with pytest.raises(RecsysError) as caught:
            CallToken(bad, address="localhost", secured=False)  # type: ignore[arg-type]
        shown.append(f"{caught.value!r} {caught.value}")
    with pytest.raises(RecsysError) as caught:
        Client("ranker.example", token=CANARY)
    shown.append(f"{caught.value!r} {caught.value}")
    assert CANARY not in "\n".join(shown)
