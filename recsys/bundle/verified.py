"""VerifiedFiles: files whose SHA-256 was checked on this machine: each is read through once, not once a server.

A file counts as the one that was checked while its device, inode, size and times are the same: a new hard link to it
changes these, too, and it is checked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

_PIECE_BYTES = 4 << 20


class VerifiedFiles:
    """Remembers verified files in a folder that only this user may write.

    Args:
        folder: made if absent; None: one of this user's in the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"recsys-verified-{os.getuid()}"

    def holds(self, file: Path, digest: str) -> bool:
        """Test if the file, as it is now, was found to have this SHA-256."""
        return self._is_ours() and (self._folder / _mark(file.stat(), digest)).exists()

    def add(self, status: os.stat_result, digest: str) -> None:
        """Remember a file by its status from before it was read; a folder that cannot be written remembers nothing."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if self._is_ours():
                (self._folder / _mark(status, digest)).touch()

    def _is_ours(self) -> bool:
        """Nobody else could have put marks there."""
        try:
            status = self._folder.lstat()
        except OSError:
            return False
        return status.st_uid == os.getuid() and not status.st_mode & 0o022 and self._folder.is_dir()


def digest_in_pieces(file: Path, *, read: Callable[[int], None], keep: bool = True) -> tuple[os.stat_result, str]:
    """Hash a file piece by piece.

    Args:
        file: to be hashed.
        read: gets the bytes of each piece.
        keep: in the system's memory; otherwise it lets each piece go that no process has mapped.

    Returns:
        The file's status from before it was read, and its SHA-256.
    """
    digest, offset = hashlib.sha256(), 0
    with file.open("rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            read(len(piece))
            if not keep and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), offset, len(piece), os.POSIX_FADV_DONTNEED)
            offset += len(piece)
    return status, digest.hexdigest()


def _mark(status: os.stat_result, digest: str) -> str:
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.sha256(f"{facts} {digest}".encode()).hexdigest()
