"""``release.json``: the record of one release, and where its parts lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.bundle import Manifest, read_manifest
from recsys.errors import InvalidInputError, ReleaseError, nearest
from recsys.features.feature_set import FeatureSet
from recsys.files import parse_json
from recsys.releases.served import check_kinds, check_release_name

FORMAT_VERSION = 1
RELEASE = "release.json"
RELEASES = "releases"
FILES = "files"
STATUS = "status"

RANKING, RETRIEVAL = "ranking", "retrieval"
"""Folders of a release: its bundles."""


@dataclass(frozen=True, kw_only=True)
class BundleRecord:
    """One bundle of a release.

    Attributes:
        model, version: of its manifest.
        size_bytes: of all its files.
    """

    model: str
    version: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Release:
    """The content of ``release.json``.

    Attributes:
        name: of the release, made from its bundles' versions: the same bundles are the same release.
        ranking, retrieval: its bundles, at least one.
        feature_set, feature_set_fingerprint: of the ranking bundle, or else of the retrieval bundle.
        number: 1 for the first that was pushed to this store, growing: the order of releases needs no clock.
        metrics: of the ranking bundle's manifest, or else of the retrieval bundle's.
        certificate: of the same manifest.
        by, at, note: who pushed it, when (RFC 3339, on the clock of that machine), and what for.
    """

    name: str
    ranking: BundleRecord | None
    retrieval: BundleRecord | None
    feature_set: str
    feature_set_fingerprint: str
    number: int
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    certificate: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    at: str = ""
    note: str = ""

    @property
    def model(self) -> str:
        """Name of the ranking model, or else of the retrieval model."""
        first = self.ranking or self.retrieval
        assert first is not None
        return first.model


@dataclass(frozen=True, kw_only=True)
class ReleaseFolder:
    """A release in a store, its record read.

    Attributes:
        path: the folder.
        release: its record.
    """

    path: Path
    release: Release

    @property
    def ranking(self) -> Path | None:
        """Folder of the ranking bundle."""
        return None if self.release.ranking is None else self.path / RANKING

    @property
    def retrieval(self) -> Path | None:
        """Folder of the retrieval bundle."""
        return None if self.release.retrieval is None else self.path / RETRIEVAL

    def features(self) -> FeatureSet:
        """The FeatureSet of the ranking bundle, or else of the retrieval bundle; raises BundleError."""
        return self.manifest().feature_set

    def manifest(self) -> Manifest:
        """The manifest of the ranking bundle, or else of the retrieval bundle; raises BundleError."""
        first = self.ranking or self.retrieval
        assert first is not None
        return read_manifest(first)


def release_name(model: str, ranking_version: str, retrieval_version: str) -> str:
    """The name of a release of these bundles; an empty version for one that it lacks.

    >>> release_name("din", "0123456789abcdef", "")
    'din-81357762411c'
    """
    digest = hashlib.sha256(f"{ranking_version}\n{retrieval_version}\n".encode()).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-._")[:100] or "release"
    return f"{stem}-{digest[:12]}"


def open_release(store: Path, name: str) -> ReleaseFolder:
    """Read a release's record; its bundles are not looked at.

    Raises:
        ReleaseError: there is no such release, or its record is damaged.
    """
    try:
        check_release_name("release", name)
    except InvalidInputError as error:
        raise ReleaseError(f"{store}: {error}") from None
    path = store / RELEASES / name
    file = path / RELEASE
    try:
        values = parse_json(file.read_bytes())
    except FileNotFoundError:
        if path.is_dir():
            raise ReleaseError(f"{path}: has no {RELEASE}: push its bundles again") from None
        raise ReleaseError(
            f"{store}: no release {name!r}: {nearest(name, release_names(store))}; `recsys release list` shows them"
        ) from None
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{file}: not readable: {getattr(error, 'strerror', None) or error}") from error
    release = _from_dict(values, where=str(file))
    if release.name != name:
        raise ReleaseError(f"{file}: is the record of {release.name!r}, not of {name!r}: the folder was renamed")
    return ReleaseFolder(path=path, release=release)


def find_releases(store: Path) -> tuple[list[ReleaseFolder], list[str]]:
    """All releases of a store by number, and a line for each whose record is damaged.

    Raises:
        ReleaseError: there is no store, or it cannot be read.
    """
    found, damaged = [], []
    for name in release_names(store):
        try:
            found.append(open_release(store, name))
        except ReleaseError as error:
            damaged.append(str(error))
    return sorted(found, key=lambda each: (each.release.number, each.release.name)), damaged


def release_names(store: Path) -> list[str]:
    """Names of all releases of a store; raises ReleaseError if it cannot be read."""
    try:
        return sorted(entry.name for entry in (store / RELEASES).iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        if not store.is_dir():
            raise ReleaseError(f"{store}: no such folder; `recsys release push` makes a store of releases") from None
        return []
    except OSError as error:
        raise ReleaseError(f"{store}: not readable: {error.strerror}") from error


def release_text(release: Release) -> str:
    """The text of ``release.json``."""
    values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(release)}
    kept = {name: value for name, value in values.items() if value is not None and value != ""}
    return json.dumps(kept, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _from_dict(values: Any, *, where: str) -> Release:
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise ReleaseError(f"{where}: no format_version: not a {RELEASE}")
    if version > FORMAT_VERSION:
        raise ReleaseError(f"{where}: format {version}, but this program reads up to {FORMAT_VERSION}: upgrade it")
    try:
        given = {name: value for name, value in values.items() if name != "format_version"}
        check_kinds(given, _FIELD_KINDS)
        parts = {part: _bundle(part, given[part]) if part in given else None for part in (RANKING, RETRIEVAL)}
        for metric, value in given.get("metrics", {}).items():
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise InvalidInputError(f"metrics[{metric!r}]: {value!r}; expected a number or null")
        release = Release(**{**given, **parts})
        check_release_name("name", release.name)
        if release.ranking is None and release.retrieval is None:
            raise InvalidInputError("has neither a ranking nor a retrieval bundle")
    except (TypeError, KeyError, InvalidInputError) as error:
        raise ReleaseError(f"{where}: malformed: {error}") from error
    return release


_FIELD_KINDS = {
    **dict.fromkeys(("name", "feature_set", "feature_set_fingerprint", "by", "at", "note"), str),
    **dict.fromkeys((RANKING, RETRIEVAL, "metrics", "certificate"), dict),
    "number": int,
}


def _bundle(part: str, values: Mapping[str, Any]) -> BundleRecord:
    try:
        check_kinds(values, {"model": str, "version": str, "size_bytes": int})
    except InvalidInputError as error:
        raise InvalidInputError(f"{part}.{error}") from None
    return BundleRecord(**values)
