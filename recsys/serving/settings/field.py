"""Field: one setting, with its environment variable, type, range and meaning."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError
from recsys.feature_store.redis.link.schemes import SCHEMES
from recsys.masking import mask_url

PREFIX = "RECSYS_"
"""Of every variable that is the server's own."""

CLIENT_PREFIX = PREFIX + "CLIENT_"
"""Of variables that commands read which call a server."""


def setting(
    default: Any,
    meaning: str,
    *,
    kind: type,
    env: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    url: bool = False,
) -> Any:
    """Declare a setting.

    Args:
        default: its value if it is not given.
        meaning: a line for the documentation.
        kind: the type that its text is made; ``int`` and ``float`` from ``low`` to ``high``.
        env: its environment variable; empty: RECSYS_ and the field's name.
        choices: the values there are; empty: any.
        url: it is the URL of a Redis, which may hold a password: shown masked, and not in a repr.
    """
    metadata = {"meaning": meaning, "kind": kind, "env": env, "low": low, "high": high, "choices": choices, "url": url}
    return field(default=default, metadata=metadata, repr=not url)


def variable(of: dataclasses.Field[Any]) -> str:
    """The environment variable of a setting."""
    return of.metadata["env"] or PREFIX + of.name.upper()


def parse(name: str, of: dataclasses.Field[Any], text: str) -> Any:
    """Make a setting's value of its text; ConfigError under the name that its sender knows."""
    try:
        value = of.metadata["kind"](text)
    except ValueError:
        raise ConfigError(f"{name} is {shown(of, text)!r}; allowed: {allowed(of)}") from None
    check(name, of, value)
    return value


def check(name: str, of: dataclasses.Field[Any], value: Any) -> None:
    """Complain about ``value`` under the name its sender knows: the variable, or the field."""
    meta = of.metadata
    if value is None and of.default is None:
        return
    kinds = (int, float) if meta["kind"] is float else (meta["kind"],)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if fits and meta["kind"] in (int, float):
        fits = meta["low"] <= value <= meta["high"]
    if fits and meta["choices"]:
        fits = value in meta["choices"]
    if fits and meta["url"]:
        fits = value.startswith(SCHEMES)
    if not fits:
        raise ConfigError(f"{name} is {shown(of, value)!r}; allowed: {allowed(of)}")


def shown(of: dataclasses.Field[Any], value: Any) -> Any:
    """A setting's value as errors, logs and listings show it: a URL without its secrets, in whatever setting it is."""
    hides = isinstance(value, str) and (of.metadata["url"] or "://" in value or "@" in value)
    return mask_url(value) if hides else value


def allowed(of: dataclasses.Field[Any]) -> str:
    """The values of a setting, in words."""
    meta = of.metadata
    if meta["url"]:
        return "a URL that starts with " + ", ".join(SCHEMES)
    if meta["choices"]:
        return ", ".join(meta["choices"])
    if meta["kind"] in (int, float):
        word = "whole numbers" if meta["kind"] is int else "numbers"
        return f"{word} from {meta['low']:,} to {meta['high']:,}"
    return "a path" if meta["kind"] is Path else "any text"
