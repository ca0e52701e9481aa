"""``release.shared_bytes``: bytes of tables that a release of which only the network is another does not store again.

Counted by inodes: a table's file that the store held before the push takes no room again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, rounded, say

from releasing.bundles import variant

if TYPE_CHECKING:
    from releasing.stage import Stage

TARGET = 0.95


def shared_bytes(stage: Stage, on: dict[str, Any]) -> Iterator[Line]:
    """Measure the figure."""
    from recsys.bundle import read_manifest
    from recsys.releases.store import push_release

    bundle = variant(stage.bundles, "network", items=stage.size.items, hashed=stage.size.hashed)
    say("pushing a release of which only the network is another")
    before = _files(stage.store)
    pushed = push_release(stage.store, ranking=bundle, retrieval=None)
    assert pushed.name not in stage.releases
    if stage.size.hashed:
        shutil.rmtree(bundle)
    new = {inode: blocks for inode, blocks in _files(stage.store).items() if inode not in before}
    release = stage.store / "releases" / pushed.name / "ranking"
    tables = [path.stat() for path in _tables(release)]
    assert sum(status.st_size for status in tables) >= stage.table_bytes
    again = sum(status.st_size for status in tables if status.st_ino in new)
    in_all = sum(status.st_size for status in tables)
    yield line(
        "release.shared_bytes", 1 - again / in_all, "share", higher_is_better=True, target=TARGET,
        compared_with="bytes of the release's tables; those not stored again over them, by inode",
        tables_mb=rounded(in_all / 1e6), stored_mb=rounded(sum(new.values()) / 1e6),
        release_mb=rounded(sum(size for size, _ in read_manifest(release).files.values()) / 1e6), on=on,
    )  # fmt: skip


def _tables(release: Path) -> list[Path]:
    """The files of a bundle's tables."""
    return sorted(path for path in (release / "tables").rglob("*") if path.is_file())


def _files(store: Path) -> dict[int, int]:
    """Inode -> bytes on disk of every file."""
    found = {}
    for path in store.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            found[status.st_ino] = 512 * status.st_blocks
    return found
