"""``status/SERVER.json``: the releases that each server of a store serves, written by the servers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import InvalidInputError
from recsys.files import parse_json, write_atomically
from recsys.releases.lock import make_shared_folder
from recsys.releases.processes import has_ended
from recsys.releases.release import STATUS
from recsys.releases.served import ServedModel, check_kinds

FORMAT_VERSION = 1
EVERY_S = 10.0
"""A server writes its status at least as often, and at once when something changes."""
LATE_S = 3 * EVERY_S
"""An older status was due to be written again; a shared file system may show it late."""
FRESH_S = 60.0
"""An older status is of a server that is gone, or that cannot reach the store."""


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """The state of one server.

    Attributes:
        server: its name, host and port: ``ranker-1:50051``.
        at: time of writing, RFC 3339, on the server's clock: for people; age is taken from the file system.
        revision: of the ``served.json`` that it last acted upon: switched to, or refused.
        phase: its work at the moment, in a word: ``serving``, ``checking``, ``loading``, ``watching``.
        progress: of that phase, in words for people; empty if there is none.
        models: name that requests ask for -> what answers them now (``previous`` is not looked at).
        loaded: releases in memory, those kept for a rollback, too.
        refused: reason why it does not serve what ``served.json`` says, or went back from it; empty: it does.
        warnings: what else people should know.
        releases: release -> figures of its calls, by name.
        process: that writes it (``processes.own_process``); empty: not known.
    """

    server: str
    at: str
    revision: int
    phase: str = ""
    progress: str = ""
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    loaded: tuple[str, ...] = ()
    refused: str = ""
    warnings: tuple[str, ...] = ()
    releases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    process: str = ""


@dataclass(frozen=True, kw_only=True)
class SeenStatus:
    """A status that was read.

    Attributes:
        status: its content.
        age_s: since it was written, by the file system's clock: machines' clocks differ.
        ended: its server's process is known to have ended, as a reader on the same machine can see.
    """

    status: ServerStatus
    age_s: float
    ended: bool = False

    @property
    def recent(self) -> bool:
        """True if it was written lately, also by a server that has ended since."""
        return self.age_s <= FRESH_S

    @property
    def late(self) -> bool:
        """True if the server should have written again since."""
        return self.age_s > LATE_S

    @property
    def fresh(self) -> bool:
        """True unless the server is gone, or cannot reach the store."""
        return self.recent and not self.ended


def write_status(store: Path, status: ServerStatus) -> None:
    """Replace a server's status.

    Raises:
        ConfigError: the store cannot be written.
        NoSpaceError: there is no room.
    """
    with contextlib.suppress(OSError):  # the writer says what is wrong
        make_shared_folder(store / STATUS, like=store)
    write_atomically(status_file(store, status.server), status_text(status).encode())


def remove_status(store: Path, server: str) -> None:
    """Delete the status of a server that ends; a store that is away or read-only keeps it, and it grows old."""
    with contextlib.suppress(OSError):
        status_file(store, server).unlink(missing_ok=True)


def read_statuses(store: Path) -> tuple[list[SeenStatus], list[str]]:
    """All statuses by server, and a line for each file that is none."""
    found, damaged = [], []
    files = sorted(path for path in (store / STATUS).glob("*.json") if not path.name.startswith("."))
    now_s = _clock_s(store) if files else 0.0
    for file in files:
        try:
            written_s = file.stat().st_mtime
            status = _from_dict(parse_json(file.read_bytes()))
        except FileNotFoundError:
            continue  # the server ended meanwhile
        except (OSError, ValueError, TypeError) as error:
            damaged.append(f"{file}: no status of a server that this program can read: {error}")
            continue
        found.append(SeenStatus(status=status, age_s=max(0.0, now_s - written_s), ended=has_ended(status.process)))
    return found, damaged


def status_file(store: Path, server: str) -> Path:
    """The file of a server's status."""
    return store / STATUS / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', server).lstrip('.') or 'server'}.json"


def status_text(status: ServerStatus) -> str:
    """The text of a status."""
    values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(status)}
    if not status.process:
        del values["process"]
    values["models"] = {name: _model_to_dict(model) for name, model in sorted(status.models.items())}
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _model_to_dict(model: ServedModel) -> dict[str, Any]:
    return {"live": model.live, "split": dict(model.split), "shadow": dict(model.shadow)}


def _from_dict(values: Any) -> ServerStatus:
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InvalidInputError(f"format_version {version!r}; this program reads up to {FORMAT_VERSION}")
    known = {each.name for each in dataclasses.fields(ServerStatus)}
    given = {name: value for name, value in values.items() if name in known}  # newer servers may say more
    check_kinds(given, _FIELD_KINDS)
    models = {name: _model_from_dict(name, model) for name, model in given.get("models", {}).items()}
    lists = {name: tuple(given.get(name, ())) for name in ("loaded", "warnings")}
    for name, texts in lists.items():
        if not all(isinstance(text, str) for text in texts):
            raise InvalidInputError(f"{name}: {list(texts)!r}; expected texts")
    return ServerStatus(**{**given, **lists, "models": models})


_FIELD_KINDS = {
    **dict.fromkeys(("server", "at", "phase", "progress", "refused", "process"), str),
    **dict.fromkeys(("models", "releases"), dict),
    **dict.fromkeys(("loaded", "warnings"), list),
    "revision": int,
}


def _model_from_dict(name: str, values: Any) -> ServedModel:
    check_kinds({f"models.{name}": values}, {f"models.{name}": dict})
    known = {each.name for each in dataclasses.fields(ServedModel)}
    return ServedModel(**{field_name: value for field_name, value in values.items() if field_name in known})


def _clock_s(store: Path) -> float:
    """The time by the clock that stamps the store's files; this machine's where the store is read-only."""
    probe = store / STATUS / f".clock-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    except OSError:
        return time.time()
