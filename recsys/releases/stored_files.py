"""Files of releases, each stored once: copied and hashed in one pass, linked, and deleted when no release has them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import BundleError
from recsys.files import sync
from recsys.releases.lock import hold, make_shared_folder
from recsys.releases.release import FILES, RELEASES, STATUS

Count = Callable[[int], None]
"""Called with the bytes that were read since the last call."""

CHUNK_BYTES = 4 << 20
NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""No hard link can be made: none in this file system, the file is another user's, or it has too many."""


def stored_file(store: Path, digest: str) -> Path:
    """The place of a file of this SHA-256."""
    return store / FILES / digest[:2] / digest


def copy_hashed(source: Path, target: Path, digest: str, count: Count) -> None:
    """Copy a file, synced and read-only, and compare what was read with its SHA-256.

    Raises:
        BundleError: it is another.
        OSError: as files do.
    """
    sha = hashlib.sha256()
    with source.open("rb") as reading, target.open("xb") as writing:
        while chunk := reading.read(CHUNK_BYTES):
            sha.update(chunk)
            writing.write(chunk)
            count(len(chunk))
        writing.flush()
        os.fsync(writing.fileno())
        os.fchmod(writing.fileno(), 0o444)
    if sha.hexdigest() != digest:
        raise altered_source(source)


def altered_source(source: Path) -> BundleError:
    """The error of a file to push whose bytes are not those that its manifest lists."""
    return BundleError(
        f"{source} was altered, or changes while it is pushed: its SHA-256 is not the manifest's; nothing was pushed"
    )


def try_link(source: Path, target: Path) -> str:
    """Hard link a file; empty if that was done, else the system's words for why it cannot be.

    Raises:
        FileNotFoundError, FileExistsError: there is no source; there is a target.
        OSError: as files do.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in NO_LINKS:
            return os.strerror(error.errno)
        raise
    return ""


def repair(store: Path, source: Path, digest: str, altered: Path, count: Count) -> list[Path]:
    """Put a whole copy of ``source`` in the place of an altered or missing file, and of all hard links of it.

    Call with the store's lock. Each place holds the altered file or the whole one at any moment; a server that has the
    altered one open keeps it.

    Returns:
        The places, ``altered`` first.

    Raises:
        BundleError: ``source`` is altered, too.
        OSError: as files do.
    """
    _make_read_only(altered.parent)
    places = [altered, *(path for path in _links_of(store, altered) if path != altered)]
    with writable(altered.parent):
        whole = _beside(altered)
        try:
            copy_hashed(source, whole, digest, count)
            for place in places[1:]:
                with writable(place.parent):
                    beside = _beside(place)
                    try:
                        if try_link(whole, beside):
                            shutil.copyfile(whole, beside)
                            beside.chmod(0o444)
                        os.replace(beside, place)
                    finally:
                        beside.unlink(missing_ok=True)
                sync(place.parent)
            os.replace(whole, altered)
        finally:
            whole.unlink(missing_ok=True)
    sync(altered.parent)
    return places


def _make_read_only(folder: Path) -> None:
    """Make a folder that is missing in a release, and those that it lies in."""
    if folder.is_dir():
        return
    _make_read_only(folder.parent)
    with writable(folder.parent):
        folder.mkdir()
        folder.chmod(0o555)
    sync(folder.parent)


def add_stored(store: Path, digest: str, file: Path) -> str:
    """Have a file of a release found by later pushes: as :func:`try_link`; one that is there already stays."""
    place = stored_file(store, digest)
    make_shared_folder(place.parent, like=store)
    try:
        reason = try_link(file, place)
    except FileExistsError:
        return ""
    if not reason:
        sync(place.parent)
    return reason


def remove_unlinked(store: Path) -> int:
    """Delete stored files that no release has; call with the store's lock. Returns the bytes that this freed."""
    freed = 0
    for file in (store / FILES).glob("[0-9a-f][0-9a-f]/*"):
        found = file.lstat()
        if found.st_nlink == 1:  # its own name
            file.unlink()
            freed += found.st_size
    return freed


def remove_leftovers(store: Path) -> None:
    """Delete what killed pushes, repairs and prunes left; call with the store's lock.

    What is being pushed is kept, and what another user left whose files are not ours to delete: nobody sees it.
    """
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((store / RELEASES).iterdir()):
            with contextlib.suppress(PermissionError):
                if path.name.startswith("."):
                    _remove_unless_held(path.with_name(path.name.removesuffix(".lock")))
                elif path.is_dir():
                    _remove_from_release(path)
    with contextlib.suppress(PermissionError):
        for file in (*(store / FILES).glob("??/.*.tmp-*"), *(store / STATUS).glob(".clock-*")):
            file.unlink(missing_ok=True)
        remove_unlinked(store)


def _remove_unless_held(folder: Path) -> None:
    """Delete a folder of work in progress, unless the process that works on it runs."""
    lock = folder.with_name(f"{folder.name}.lock")
    if ".tmp-" not in folder.name:
        return
    if not lock.exists():
        remove_folder(folder)
    elif (held := hold(lock)) is not None:
        try:
            remove_folder(folder)
            lock.unlink(missing_ok=True)
        finally:
            os.close(held)


def _remove_from_release(path: Path) -> None:
    """Delete what a killed repair left in a release, and make it read-only again."""
    for folder in folders_of(path):
        for file in [each for each in folder.iterdir() if each.name.startswith(".") and ".tmp-" in each.name]:
            with writable(folder):
                file.unlink(missing_ok=True)
        if folder.stat().st_mode & 0o222:
            folder.chmod(0o555)


def remove_folder(folder: Path) -> None:
    """Delete a folder whose folders are read-only."""
    if not folder.is_dir():
        return
    for each in folders_of(folder):
        each.chmod(0o755)
    shutil.rmtree(folder)


def _links_of(store: Path, file: Path) -> Iterator[Path]:
    """Files of the store that are the same as this one, if it is there."""
    if not file.exists():
        return
    wanted = file.stat()
    for top in (store / FILES, store / RELEASES):
        for folder in folders_of(top):
            for entry in os.scandir(folder):
                if entry.inode() == wanted.st_ino and entry.is_file(follow_symlinks=False):
                    if os.path.samestat(entry.stat(), wanted):
                        yield Path(entry.path)


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name[:100]}.tmp-{secrets.token_hex(4)}")


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Let a read-only folder of a release be written for the duration of the block."""
    mode = folder.stat().st_mode & 0o7777
    if mode & 0o200:
        yield
        return
    folder.chmod(mode | 0o200)
    try:
        yield
    finally:
        folder.chmod(mode)


def folders_of(folder: Path) -> Iterator[Path]:
    """A folder and all in it, the outer ones first."""
    for path, _, _ in os.walk(folder):
        yield Path(path)
