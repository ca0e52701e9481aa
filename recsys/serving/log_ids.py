"""Ids in logs: lines that name a user's or an item's key name a keyed hash of it instead.

Logs go to more places, and stay longer, than what is stored. A hash tells lines about the same user, and whoever has
the key can find a given user's; it gives nobody a list of users. Callers get their own ids back in errors as they are.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from pathlib import Path

from recsys.errors import ConfigError
from recsys.serving.settings import Settings
from recsys.serving.settings.secret_file import read_secret

KEY_VARIABLE = "RECSYS_LOG_IDS_KEY"
"""Hands a start's own key to its workers."""

_MIN_KEY = 16
_USER = re.compile(r"(recsys:v\d+:\{[^{}:\s]+:u:)(-?\d+)(\}?)")  # a text that was cut may end in the id
_ENTITY = re.compile(r"(recsys:v\d+:\{[^{}:\s]+:[^{}:\s]+:)\d+(\}:)(-?\d+)")

_OURS = ("logging", "recsys.")

_key: bytes | None = None


def use_log_ids(settings: Settings) -> None:
    """Have this process's log lines hide ids, if the settings say so. Call it once logs are set up.

    Raises:
        ConfigError: the key's file cannot be read, or holds too short a key.
    """
    global _key
    _key = _key_of(settings)
    if _key is None:
        return
    # A test's handlers, or those of a program that embeds a server, stay as they are.
    handlers = [each for each in logging.getLogger().handlers if type(each).__module__.startswith(_OURS)]
    for handler in [*handlers, logging.lastResort]:
        if handler is not None and not isinstance(handler.formatter, HidingFormatter):
            handler.setFormatter(HidingFormatter(handler.formatter or logging.Formatter()))


class HidingFormatter(logging.Formatter):
    """Format as another one does, and hide ids.

    Args:
        inner: the other one.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Make the text of a record, its traceback included."""
        return hide_ids(self._inner.format(record), _key)


def hide_ids(text: str, key: bytes | None) -> str:
    """Put hashes in place of the ids in the names of Redis keys; None: leave them.

    >>> hide_ids("recsys:v1:{shop:u:1193}:h is foreign", b"0123456789abcdef")
    'recsys:v1:{shop:u:#06a1282199}:h is foreign'
    >>> hide_ids("recsys:v1:{shop:item:42}:2858 is foreign", None)
    'recsys:v1:{shop:item:42}:2858 is foreign'
    """
    if key is None or "recsys:v" not in text:
        return text
    text = _USER.sub(lambda found: f"{found[1]}#{hash_id(found[2], key)}{found[3]}", text)
    # The bucket is a part of the id.
    return _ENTITY.sub(lambda found: f"{found[1]}*{found[2]}#{hash_id(found[3], key)}", text)


def hash_id(id_key: str, key: bytes) -> str:
    """Hash an id's key as log lines do: ten hexadecimal digits."""
    return hashlib.blake2b(id_key.encode(), key=key[:64], digest_size=5).hexdigest()


def _key_of(settings: Settings) -> bytes | None:
    if settings.log_ids == "plain":
        return None
    if settings.log_ids_key_file is not None:
        text = read_secret(Path(settings.log_ids_key_file), what="log_ids_key_file")
        if len(text) < _MIN_KEY:
            raise ConfigError(
                f"log_ids_key_file: {len(text)} characters; allowed: {_MIN_KEY} or more, chosen at random"
            )
        return text.encode()
    return os.environ.setdefault(KEY_VARIABLE, secrets.token_hex(16)).encode()
