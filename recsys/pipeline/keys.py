"""Keys of steps: hashes of files' content, of settings, of this program's code."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import recsys
from recsys.errors import RecsysError
from recsys.files import parse_json, write_atomically

_PIECE_BYTES = 1 << 20
_CODE = ("*.py", "*.lua", "*.so")


def digest(values: Any) -> str:
    """16 hex digits of JSON values.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """16 hex digits of this package's source: another version, or a changed line, is other code."""
    folder = Path(recsys.__file__).parent
    found = hashlib.sha256()
    for file in sorted(path for pattern in _CODE for path in folder.rglob(pattern)):
        found.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


class FileDigests:
    """Hashes of files' content. A file whose inode, size and times are as before is not read again.

    Args:
        cache: where they are kept; a cache that cannot be read is made anew.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known = _read(cache)
        self._used: dict[str, list[Any]] = {}

    def of(self, files: Iterable[Path]) -> list[str]:
        """A hash of each, sorted: neither names nor order matter to what is read.

        Raises:
            OSError: as files do.
        """
        return sorted(self._digest(file) for file in files)

    def save(self) -> None:
        """Keep what was hashed; a disk that is full costs the next run its time, and nothing else."""
        if self._used != self._known:
            try:
                write_atomically(self._cache, json.dumps(self._used).encode())
            except (OSError, RecsysError):
                return

    def _digest(self, file: Path) -> str:
        stat = file.stat()
        # The time of a change of the inode cannot be set back, as that of a write can
        about = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        name = str(file.absolute())
        known = self._known.get(name)
        if not isinstance(known, list) or known[:-1] != about:
            known = [*about, _sha256(file)]
        self._used[name] = known
        return str(known[-1])


def _sha256(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()


def _read(cache: Path) -> Mapping[str, Any]:
    try:
        values = parse_json(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
