"""Bundles to push, and ways to look at a store of releases, and to harm it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recsys.bundle import open_bundle
from recsys.releases.changes import promoted
from recsys.releases.store import change_served, list_releases, push_release
from support.tiny_bundle import ITEMS, write_tiny_bundle
from support.tiny_retrieval import TEXT_FEATURES, tiny_text_tables, write_tiny_retrieval

NOBODY = 65534


def write_bundles(folder: Path) -> Path:
    """``first``, ``second`` and ``third``, whose tables differ; ``finder``, of retrieval; ``texts``, of text ids."""
    for number, name in enumerate(("first", "second", "third"), start=1):
        write_tiny_bundle(folder / name, items=(ITEMS * number).astype(np.float32))
    write_tiny_retrieval(folder / "finder")
    write_tiny_retrieval(folder / "texts", tiny_text_tables(), features=TEXT_FEATURES)
    return folder


def push_three(store: Path, bundles: Path) -> list[str]:
    """Push three releases, and promote the first two, one after the other; returns the names."""
    names = [push_release(store, ranking=bundles / each, retrieval=None).name for each in ("first", "second", "third")]
    for name in names[:2]:
        change_served(store, lambda served, name=name: promoted(served, "tiny", name), why="a test")  # type: ignore[misc]
    return names


def stored(store: Path) -> dict[str, bytes]:
    """All files of a store but the lock, by name."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def check_whole(store: Path) -> list[str]:
    """Check that each release that is listed opens with every hash right; returns their names, the oldest first."""
    found = list_releases(store)
    for each in found:
        for path in (each.ranking, each.retrieval):
            if path is not None:
                open_bundle(path, verify="full")
    return [each.release.name for each in found]


def check_clean(store: Path) -> None:
    """Check that no work in progress is left, that all is read-only, and that each stored file has a release."""
    assert [str(path) for path in store.rglob(".*") if path != store / ".lock"] == []
    for path in (store / "releases").rglob("*"):
        assert path.stat().st_mode & 0o222 == 0, path
    for path in (store / "files").rglob("*"):
        assert path.is_dir() or path.stat().st_nlink > 1, path


def alter(file: Path) -> None:
    """Change one byte in place: all hard links of the file have it."""
    file.chmod(0o644)
    with file.open("r+b") as stream:
        byte = stream.read(11)[10]
        stream.seek(10)
        stream.write(bytes([byte ^ 1]))
    file.chmod(0o444)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Have the rights of a user without any; a test that is not run by root has few enough."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
