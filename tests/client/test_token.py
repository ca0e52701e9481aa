"""The token that a client sends: from a text or a file that changes, and never in clear to another machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from recsys.client import token as module
from recsys.client.token import CallToken, token_options
from recsys.errors import InvalidInputError


def sent(token: CallToken) -> str:
    ((key, value),) = token.metadata()
    assert key == "authorization"
    return value


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is looked at for each call."""
    monkeypatch.setattr(module, "CHECK_S", 0.0)


def test_a_text_is_sent_as_a_bearer_token_and_none_is_not() -> None:
    assert sent(CallToken("abc", address="localhost", secured=False)) == "Bearer abc"
    assert CallToken(None, address="ranker.example", secured=False).metadata() == ()


def test_a_file_is_read_again_when_it_changes(tmp_path: Path, always: None) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    token = CallToken(file, address="localhost", secured=False)
    assert sent(token) == "Bearer first"
    new = tmp_path / "new"
    new.write_text("other\n")
    new.rename(file)
    assert sent(token) == "Bearer other"


def test_a_bad_or_missing_new_file_leaves_the_token_of_before(
    tmp_path: Path, always: None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    token = CallToken(file, address="localhost", secured=False)
    for content in ("", "two words", None):
        time.sleep(0.01)
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        assert sent(token) == sent(token) == "Bearer first"
    assert caplog.text.count("the token of before is sent on") == 3
    file.write_text("last")
    assert sent(token) == "Bearer last"


def test_a_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    token = CallToken(file, address="localhost", secured=False)
    file.write_text("other")
    assert sent(token) == "Bearer first"


@pytest.mark.parametrize("address", ["ranker.example", "10.1.2.3:5", "dns:///ranker.example:1"])
def test_in_clear_it_is_sent_to_this_machine_alone_unless_told(address: str) -> None:
    with pytest.raises(InvalidInputError, match="in clear, where everybody on the way can read it"):
        CallToken("abc", address=address, secured=False)
    assert sent(CallToken("abc", address=address, secured=True)) == "Bearer abc"
    assert sent(CallToken("abc", address=address, secured=False, in_clear=True)) == "Bearer abc"


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:5", "[::1]:5", "unix:/run/s"])
def test_this_machine_needs_no_tls(address: str) -> None:
    assert sent(CallToken("abc", address=address, secured=False)) == "Bearer abc"


def test_a_token_of_another_type_is_named_and_a_missing_file_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="token is a int; allowed: the token, or the Path of its file"):
        CallToken(7, address="localhost", secured=False)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="No such file"):
        CallToken(tmp_path / "none", address="localhost", secured=False)


def test_commands_take_it_from_the_environment() -> None:
    assert token_options({}) == {"token": None, "token_in_clear": False}
    assert token_options({"RECSYS_TOKEN": "a", "RECSYS_TOKEN_IN_CLEAR": "1"}) == {"token": "a", "token_in_clear": True}
    assert token_options({"RECSYS_TOKEN_FILE": "f"})["token"] == Path("f")
    with pytest.raises(InvalidInputError, match="RECSYS_TOKEN and RECSYS_TOKEN_FILE are set"):
        token_options({"RECSYS_TOKEN_FILE": "f", "RECSYS_TOKEN": "a"})
