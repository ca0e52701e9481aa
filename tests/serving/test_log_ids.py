"""Log lines name hashes of users and items, not their ids."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from support.tiny_bundle import FEATURES
from support.tiny_server import server_process

from recsys.client import Client
from recsys.errors import ConfigError
from recsys.feature_store.redis.keys import entity_key, history_keys, state_key
from recsys.serving import log_ids
from recsys.serving.log_ids import HidingFormatter, hash_id, hide_ids, use_log_ids
from recsys.serving.settings import Settings

KEY = b"0123456789abcdef"
USER, ITEM = 918_273_645, 546_372_819


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set-up of a test is undone."""
    monkeypatch.setattr(log_ids, "_key", None)
    monkeypatch.delenv(log_ids.KEY_VARIABLE, raising=False)
    assert logging.lastResort is not None
    before = logging.lastResort.formatter
    yield
    logging.lastResort.formatter = before


def test_every_kind_of_key_is_hashed() -> None:
    keys = [*history_keys("tiny", USER), state_key("tiny", USER, "ab12"), entity_key("tiny", "user", USER)]
    for key in keys:
        shown = hide_ids(f"a {key.decode()} b", KEY)
        assert str(USER) not in shown and f"{{tiny:u:#{hash_id(str(USER), KEY)}}}" in shown
    shown = hide_ids(entity_key("tiny", "item", ITEM).decode(), KEY)
    assert shown == f"recsys:v1:{{tiny:item:*}}:#{hash_id(str(ITEM), KEY)}", "the bucket would tell a part of it"


def test_a_key_that_was_cut_in_the_middle_is_hashed() -> None:
    key = history_keys("tiny", USER).open.decode()
    for size in range(key.index(str(USER)) + 1, len(key)):
        assert not re.search(r":u:\d", hide_ids(key[:size], KEY))


def test_a_hash_is_the_same_for_an_id_and_another_with_another_key() -> None:
    assert hash_id("1", KEY) == hash_id("1", KEY) != hash_id("2", KEY)
    assert hash_id("1", KEY) != hash_id("1", b"another key of ours")
    assert re.fullmatch("[0-9a-f]{10}", hash_id("1", KEY))


def test_a_line_its_arguments_and_its_traceback_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_ids, "_key", KEY)
    key = history_keys("tiny", USER).open.decode()
    try:
        raise ValueError(key)
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("a", logging.ERROR, __file__, 1, "of %s", (key,), info)
    text = HidingFormatter(logging.Formatter()).format(record)
    assert str(USER) not in text and text.count(hash_id(str(USER), KEY)) == 2


def test_the_key_of_a_file_is_used_and_a_short_one_refused(tmp_path: Path, restored: None) -> None:
    file = tmp_path / "key"
    file.write_text("a long key of ours\n")
    use_log_ids(Settings(log_ids_key_file=file))
    assert log_ids._key == b"a long key of ours"
    file.write_text("short")
    with pytest.raises(ConfigError, match="5 characters; allowed: 16 or more"):
        use_log_ids(Settings(log_ids_key_file=file))


def test_plain_leaves_them(restored: None) -> None:
    use_log_ids(Settings(log_ids="plain"))
    assert log_ids._key is None


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("mode", ["hashed", "plain"])
def test_a_server_logs_no_id_of_a_user_whose_row_is_foreign(
    workers: str, mode: str, tmp_path: Path, tiny_bundle: Path, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as admin:
        for key in (history_keys(FEATURES.name, USER).open, entity_key(FEATURES.name, "item", ITEM)):
            admin.set(key, b"foreign")
    variables = {"RECSYS_BUNDLE": str(tiny_bundle), "REDIS_URL": redis_url, "RECSYS_WORKERS": workers}
    with server_process(tmp_path, **variables, RECSYS_LOG_IDS=mode) as server:
        with Client(server.address, timeout_s=20) as client:
            assert client.rank(user=USER, candidates=[ITEM]).degraded
        server.process.terminate()
        said = server.process.communicate(timeout=60)[1]
    assert "more not logged" in said, said
    shown = [str(name) in said for name in (USER, ITEM)]
    assert any(shown) if mode == "plain" else not any(shown)
    assert ("#" in said) == (mode == "hashed")
