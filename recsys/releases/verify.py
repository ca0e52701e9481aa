"""Looking through one release: files that are not as they were pushed, and how much of it other releases share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from recsys.bundle import MANIFEST, read_manifest
from recsys.bundle.verified import digest_in_pieces
from recsys.bundle.verify import Verify
from recsys.errors import BundleError
from recsys.releases.release import FILES, ReleaseFolder


def altered_files(folder: ReleaseFolder, *, verify: Verify, count: Callable[[int], None] = lambda _: None) -> list[str]:
    """Say which files of a release are missing or altered; none: it is as it was pushed.

    Args:
        folder: of the release.
        verify: ``full`` hashes every file; ``sizes`` only looks at presence and size.
        count: called with the bytes that were hashed since the last call.
    """
    found: list[str] = []
    for path, record in ((folder.ranking, folder.release.ranking), (folder.retrieval, folder.release.retrieval)):
        if path is None or record is None:
            continue
        try:
            manifest = read_manifest(path)
        except BundleError as error:
            found.append(str(error))
            continue
        if manifest.version != record.version:
            found.append(f"{path / MANIFEST}: is of version {manifest.version}, the record says {record.version}")
        for name, (size_bytes, digest) in manifest.files.items():
            if reason := _altered(path / name, size_bytes, digest if verify == "full" else "", count):
                found.append(f"{path / name}: {reason}")
    return found


def shared_bytes(folder: ReleaseFolder) -> int:
    """Bytes of a release's files that another release has, too, and that are stored once."""
    own: Counter[tuple[int, int]] = Counter()
    found: dict[tuple[int, int], os.stat_result] = {}
    for path in folder.path.rglob("*"):
        stat = path.lstat()
        if not path.is_dir():
            own[stat.st_dev, stat.st_ino] += 1
            found[stat.st_dev, stat.st_ino] = stat
    stored = {
        (stat.st_dev, stat.st_ino) for path in (folder.path.parents[1] / FILES).glob("??/*") for stat in [path.lstat()]
    }
    others = {key: stat.st_nlink - own[key] - (key in stored) for key, stat in found.items()}
    return sum(own[key] * stat.st_size for key, stat in found.items() if others[key] > 0)


def _altered(file: Path, size_bytes: int, digest: str, count: Callable[[int], None]) -> str:
    try:
        if (found := file.stat().st_size) != size_bytes:
            return f"has {found} bytes, the manifest says {size_bytes}"
        if digest and digest_in_pieces(file, read=count)[1] != digest:
            return "was altered: its SHA-256 is not the manifest's"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""
