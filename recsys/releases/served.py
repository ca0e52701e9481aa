"""``served.json``: the releases that are served, by the name of the model that requests ask for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import InvalidInputError, ReleaseError, nearest
from recsys.files import parse_json, write_atomically

FORMAT_VERSION = 1
SERVED = "served.json"
MAX_RELEASES = 8
"""Most releases that may be named at a time: a server loads all of them, and counts each by itself."""

_ROUNDING = 1e-9
"""Six sixths of 100 are a little more in floating point."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The releases that answer requests for one model's name.

    Attributes:
        live: answers every request that no split takes.
        previous: was live before; servers keep it loaded for a while, and a rollback returns to it. Empty: none.
        split: other releases -> percentage of the users that each answers, in (0, 100), at most 100 together.
        shadow: other releases -> percentage of the requests that each scores, too, in (0, 100]; their scores are
            compared and never returned.
    """

    live: str
    previous: str = ""
    split: Mapping[str, float] = field(default_factory=dict)
    shadow: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_release_name("live", self.live)
        if self.previous:
            check_release_name("previous", self.previous)
        for side, shares in (("split", self.split), ("shadow", self.shadow)):
            for name, percent in shares.items():
                check_release_name(side, name)
                if name == self.live:
                    raise InvalidInputError(f"{side}: {name} is live; allowed: other releases")
                _check_percent(f"{side}[{name!r}]", percent)
        if (total := sum(self.split.values())) > 100 + _ROUNDING:
            raise InvalidInputError(
                f"split: {total:g} % in all; allowed: at most 100 %, the rest is the live release's"
            )

    def answering(self) -> tuple[str, ...]:
        """Releases that answer requests: the live one, then those of the split."""
        return (self.live, *self.split)

    def used(self) -> tuple[str, ...]:
        """Releases that answer or are compared: those that a server needs."""
        return (*self.answering(), *self.shadow)

    def releases(self) -> tuple[str, ...]:
        """All releases that are named, each once."""
        previous = (self.previous,) if self.previous else ()
        return tuple(dict.fromkeys((*self.used(), *previous)))


@dataclass(frozen=True, kw_only=True)
class Served:
    """The content of ``served.json``.

    Attributes:
        models: name that requests ask for -> its releases, at least one.
        default: the name that a request without one means.
        revision: grows by one with each change made by this program; servers look at the content, not at this.
        by, at, why: who made the last change, when (RFC 3339, on the clock of that machine), and what for.
    """

    models: Mapping[str, ServedModel]
    default: str
    revision: int = 1
    by: str = ""
    at: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        if not self.models:
            raise InvalidInputError("models: there are none; allowed: at least one, and its live release")
        if self.default not in self.models:
            raise InvalidInputError(
                f"default: {self.default!r} is not among the models: {nearest(self.default, self.models)}"
            )
        if len(names := self.releases()) > MAX_RELEASES:
            raise InvalidInputError(
                f"models: {len(names)} releases are named; a server loads all of them: at most {MAX_RELEASES}"
            )

    def releases(self) -> tuple[str, ...]:
        """All releases that are named, each once, those of the default model first."""
        order = [self.default, *(name for name in self.models if name != self.default)]
        return tuple(dict.fromkeys(release for name in order for release in self.models[name].releases()))


def check_release_name(field_name: str, name: object) -> None:
    """Raise InvalidInputError if this is no name of a release, which is also a folder's."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{field_name}: {name!r} is no name of a release; allowed: 1 to 128 of letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )


def check_kinds(values: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise InvalidInputError for the first field that is there and is not of its kind: str, int, dict or list."""
    for name, kind in kinds.items():
        if name in values and (not isinstance(values[name], kind) or isinstance(values[name], bool)):
            raise InvalidInputError(f"{name}: {values[name]!r}; expected {_KINDS[kind]}")


_KINDS: Mapping[type, str] = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}


def read_served(store: Path) -> Served | None:
    """Read what a store of releases says is served; None if nothing was promoted yet.

    Raises:
        ReleaseError: the file cannot be read, or is malformed: the message names the field.
    """
    file = store / SERVED
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not store.is_dir():
            raise ReleaseError(f"{store}: no such folder; `recsys release push` makes a store of releases") from None
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{file}: not readable: {getattr(error, 'strerror', None) or error}") from error
    return parse_served(text, where=str(file))


def parse_served(text: str, *, where: str) -> Served:
    """Parse the content of ``served.json``; raises ReleaseError with ``where`` and the field."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ReleaseError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("format_version"), int):
        raise ReleaseError(f"{where}: no format_version: not a {SERVED}")
    if values["format_version"] > FORMAT_VERSION:
        raise ReleaseError(
            f"{where}: format {values['format_version']}, but this program reads up to {FORMAT_VERSION}: upgrade it"
        )
    try:
        return _from_dict(values)
    except InvalidInputError as error:
        raise ReleaseError(f"{where}: {error}") from error


def write_served(store: Path, served: Served) -> None:
    """Replace ``served.json``: a reader sees the old content or the new.

    Raises:
        ConfigError: the folder cannot be written.
        NoSpaceError: there is no room.
    """
    write_atomically(store / SERVED, served_text(served).encode())


def served_text(served: Served) -> str:
    """The text of ``served.json``: the same for the same content, for people and version control."""
    return json.dumps(_to_dict(served), indent=2, ensure_ascii=False) + "\n"


def _to_dict(served: Served) -> dict[str, Any]:
    models = {}
    for name, model in sorted(served.models.items()):
        values: dict[str, Any] = {"live": model.live}
        if model.previous:
            values["previous"] = model.previous
        for side, shares in (("split", model.split), ("shadow", model.shadow)):
            if shares:
                values[side] = dict(sorted(shares.items()))
        models[name] = values
    changed = {"by": served.by, "at": served.at, "why": served.why}
    return {
        "format_version": FORMAT_VERSION,
        "revision": served.revision,
        "default": served.default,
        "models": models,
        "changed": {name: value for name, value in changed.items() if value},
    }


def _from_dict(values: dict[str, Any]) -> Served:
    _check_keys("", values, {"format_version", "revision", "default", "models", "changed"})
    found = values.get("models")
    if not isinstance(found, dict) or not all(isinstance(model, dict) for model in found.values()):
        raise InvalidInputError("models: expected an object: model's name -> object with its live release")
    models = {}
    for name, model in found.items():
        where = f"models.{name}"
        if not name:
            raise InvalidInputError("models: one has an empty name; allowed: any other text")
        _check_keys(where, model, {"live", "previous", "split", "shadow"})
        for side in ("split", "shadow"):
            if not isinstance(model.get(side, {}), dict):
                raise InvalidInputError(f"{where}.{side}: expected an object: release -> percentage")
        try:
            models[name] = ServedModel(
                live=model.get("live", ""),
                previous=model.get("previous", ""),
                split=model.get("split", {}),
                shadow=model.get("shadow", {}),
            )
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}.{error}") from None
    revision, changed = values.get("revision", 0), values.get("changed", {})
    if not isinstance(revision, int) or isinstance(revision, bool) or revision < 0:
        raise InvalidInputError(f"revision: {revision!r}; allowed: a whole number from 0")
    if not isinstance(changed, dict) or not all(isinstance(text, str) for text in changed.values()):
        raise InvalidInputError("changed: expected an object of texts: by, at, why")
    _check_keys("changed", changed, {"by", "at", "why"})
    default = values.get("default", next(iter(models), "") if len(models) == 1 else "")
    check_kinds({"default": default}, {"default": str})
    return Served(models=models, default=default, revision=revision, **changed)


def _check_keys(where: str, values: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(values) - known):
        raise InvalidInputError(f"{where and where + '.'}{unknown[0]}: unknown field: {nearest(unknown[0], known)}")


def _check_percent(where: str, percent: object) -> None:
    fits = isinstance(percent, int | float) and not isinstance(percent, bool) and math.isfinite(percent)
    if not fits or not 0 < percent <= 100:  # type: ignore[operator]
        raise InvalidInputError(f"{where}: {percent!r} %; allowed: numbers above 0, up to 100")
