"""Checks that a bundle's files are those its manifest lists."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from recsys.bundle.manifest import Manifest
from recsys.errors import BundleError

Verify = Literal["full", "sizes"]


_TICK_S = 0.02
"""Longest time within which two writes may leave the same time on a file: a clock of files ticks 100 to 1,000 times a
second."""


class FileState(NamedTuple):
    """A file's state, which differs after whatever is written to it, and after another file took its name."""

    size_bytes: int
    modified_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, facts: os.stat_result) -> FileState:
        """The state in a ``stat`` result."""
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ino, facts.st_dev)


def check_files(
    path: Path, manifest: Manifest, *, verify: Verify, verified: Mapping[str, FileState] | None = None
) -> dict[str, FileState]:
    """Compare the files in a bundle's folder with its manifest.

    Args:
        path: the bundle's folder.
        manifest: of the bundle.
        verify: ``full`` hashes every file (about 1 GB/s); ``sizes`` only looks at presence and size.
        verified: states of files that were hashed before, as this function gave them: with ``sizes``, a file that is
            not as it was is hashed. None: nothing is known.

    Returns:
        The state of each file just before it was compared.

    Raises:
        BundleError: a file is missing, incomplete or altered.
    """
    states = {}
    for name, (size_bytes, digest) in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{path}: {name} is missing; export the bundle again")
        state = states[name] = _settled_state(file)
        if state.size_bytes != size_bytes:
            raise BundleError(
                f"{path}: {name} has {state.size_bytes} bytes, the manifest says {size_bytes}; "
                "the copy is incomplete or altered"
            )
        known = verify == "sizes" and (verified is None or verified.get(name) == state)
        if not known and sha256_of(file) != digest:
            raise BundleError(f"{path}: {name} was altered: its SHA-256 is not the manifest's")
    return states


def _settled_state(file: Path) -> FileState:
    """The state of a file, such that a write from now on changes it."""
    facts = file.stat()
    if 0 <= time.time() - facts.st_mtime < _TICK_S:
        time.sleep(_TICK_S)
        facts = file.stat()
    return FileState.of(facts)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
