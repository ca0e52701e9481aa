"""Options of librdkafka, from a command line or a file, and errors that show none of their secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from recsys.errors import ConfigError
from recsys.masking import MASK

_SECRET = re.compile(r"password|secret|token|jaas|oauthbearer|key\.pem|username|credential", re.IGNORECASE)
_EXPECTED = "expected name=value, for example security.protocol=SSL"


def is_secret(name: str) -> bool:
    """True of an option whose value may be secret.

    >>> is_secret("sasl.password"), is_secret("security.protocol")
    (True, False)
    """
    return bool(_SECRET.search(name))


def parse_options(given: Iterable[str], *, where: str) -> dict[str, str]:
    """Parse ``name=value``.

    Args:
        given: options.
        where: names them in errors: the option, or the file.

    Raises:
        ConfigError: one is not of that form; the message shows its number alone, for it may be a secret.
    """
    found: dict[str, str] = {}
    for number, option in enumerate(given, start=1):
        name, equals, value = option.partition("=")
        if not equals or not re.fullmatch(r"[\w.]+", name.strip()):
            raise ConfigError(f"{where}, number {number}: {_EXPECTED}")
        found[name.strip()] = value.strip()
    return found


def read_options(path: Path) -> dict[str, str]:
    """Read a file of options: a line each; empty ones, and those that begin with ``#``, are left out.

    Raises:
        ConfigError: it cannot be read, or a line is no option.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', 'no UTF-8 text')}") from None
    return parse_options((line for line in lines if line and not line.startswith("#")), where=str(path))


def without_secrets(text: str, options: Mapping[str, object]) -> str:
    """A message of librdkafka's, which may quote the options' values, without the secret ones."""
    for name, value in options.items():
        if isinstance(value, str) and value and is_secret(name):
            text = text.replace(value, MASK)
    return text
