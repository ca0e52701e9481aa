"""Checks that a bundle's files are those its manifest lists."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from recsys.bundle.manifest import Manifest
from recsys.errors import BundleError

Verify = Literal["full", "sizes"]


def check_files(path: Path, manifest: Manifest, *, verify: Verify) -> None:
    """Compare the files in a bundle's folder with its manifest.

    Args:
        path: the bundle's folder.
        manifest: of the bundle.
        verify: ``full`` hashes every file (about 1 GB/s); ``sizes`` only looks at presence and size.

    Raises:
        BundleError: a file is missing, incomplete or altered.
    """
    for name, (size_bytes, digest) in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{path}: {name} is missing; export the bundle again")
        if file.stat().st_size != size_bytes:
            raise BundleError(
                f"{path}: {name} has {file.stat().st_size} bytes, the manifest says {size_bytes}; "
                "the copy is incomplete or altered"
            )
        if verify == "full" and sha256_of(file) != digest:
            raise BundleError(f"{path}: {name} was altered: its SHA-256 is not the manifest's")


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
