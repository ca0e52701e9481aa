"""Secret files: a password or a URL in a file of its own, where neither ``ps`` nor an environment shows it."""

from __future__ import annotations

from pathlib import Path

from recsys.errors import ConfigError

_MOST_BYTES = 16_384


def read_secret(path: Path, *, what: str) -> str:
    """Read the one line of a file.

    Args:
        path: the file.
        what: names it in errors: the variable or option that gave the path.

    Raises:
        ConfigError: it cannot be read, is empty, or holds more than a line; the message shows nothing of it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{what}: {path}: {error.strerror}") from None
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path}: no UTF-8 text; expected one line") from None
    if not text or len(data) > _MOST_BYTES or len(text.splitlines()) != 1:
        raise ConfigError(f"{what}: {path}: {'empty' if not text else 'more than a line'}; expected one line")
    return text
