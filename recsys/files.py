"""Files and folders that appear under their name only when they are whole.

A writer works on ``.NAME.tmp-PID-RANDOM`` next to the target, syncs it, and renames it. What a killed
writer left is removed by the next writer of the same name. A disk that is full in the middle of it is an error
that names the target: :func:`writing`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataFileError, NoSpaceError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file: a kill at any moment leaves the old content or the new.

    Raises:
        ConfigError: the folder cannot be written.
        NoSpaceError: there is no room.
    """
    with atomic_file(path) as stream:
        stream.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content replaces ``path`` when the block ends well; otherwise nothing changes.

    Raises:
        ConfigError: the folder cannot be written.
        NoSpaceError: there is no room.
    """
    temporary = temporary_path(path)
    try:
        stream = temporary.open("xb")
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    try:
        with writing(path), stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, if they are absent.

    Raises:
        ConfigError: it cannot be made, or is there and cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error
    if not os.access(path, os.W_OK | os.X_OK):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        reason = "its disk is mounted read-only" if read_only else "no permission"
        raise ConfigError(f"{path} cannot be written: {reason}; choose another folder")


def temporary_path(path: Path) -> Path:
    """A new name next to ``path`` for what will become it; removes what killed writers of ``path`` left."""
    remove_leftovers(path)
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def remove_leftovers(path: Path) -> None:
    """Delete what killed writers of ``path`` left; temporaries of a process that still runs are kept."""
    prefix = f".{path.name}.tmp-"
    try:
        found = [entry for entry in path.parent.iterdir() if entry.name.startswith(prefix)]
    except OSError:  # the writer will say what is wrong with the folder
        return
    for entry in found:
        pid = entry.name.removeprefix(prefix).split("-")[0]
        if not pid.isdigit() or _runs(int(pid)):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name ``path`` when there is no room for it: the system names no file, and libraries say it in ways of their own.

    Raises:
        NoSpaceError: what is raised within means that a disk, a quota or a limit of file sizes is full.
    """
    try:
        yield
    except Exception as error:  # of a file within a folder, too: its name is gone with the folder
        if reason := no_space(error):
            raise NoSpaceError(f"{path}: {reason}{_free(path)}; nothing was written there") from error
        raise


def no_space(error: BaseException) -> str:
    """The system's words for a full disk, quota or limit of file sizes, if that is what an error means; else nothing.

    PyArrow and NumPy keep the system's number, DuckDB and Spark its text; torch raises its own while it handles ours.

    >>> no_space(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device'
    >>> no_space(OSError(errno.ENOENT, "No such file or directory"))
    ''
    """
    cause: BaseException | None = error
    while cause is not None:
        for code in _NO_SPACE:
            if getattr(cause, "errno", None) == code or os.strerror(code) in str(cause):
                return os.strerror(code)
        cause = cause.__cause__ or cause.__context__
    return ""


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DataFileError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: expected UTF-8 text: {error}") from error


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array's elements, little-endian, and nothing else; ``tofile`` does not say why it could not.

    Raises:
        OSError: as files do.
    """
    raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    with path.open("wb") as stream:
        stream.write(raw.view(np.uint8).data if raw.size else b"")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; BlockingIOError if another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def kept_folder(prefix: str, *, within: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder for a ``with`` block, in the system's folder for these or in ``within``.

    It is locked, which keeps systemd-tmpfiles from removing it after ten days (tmpfiles.d(5), AGE FIELD): a process
    that is started later opens what is in it.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within) as folder, locked(Path(folder)):
        yield Path(folder)


def sync(path: Path) -> None:
    """Have a file's content, or the renames in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _free(path: Path) -> str:
    """Room left on its disk, in words; a quota or a limit of file sizes is reached with some left."""
    absolute = path.absolute()  # itself, where it is a folder: a volume may be mounted there
    folder = next((each for each in (absolute, *absolute.parents) if each.is_dir()), None)
    if folder is None:
        return ""
    return f" ({shutil.disk_usage(folder).free / 1e6:,.1f} MB are free in {folder})"


def _not_writable(folder: Path, error: OSError) -> ConfigError | NoSpaceError:
    if reason := no_space(error):
        return NoSpaceError(f"{folder}: {reason}{_free(folder)}; nothing was written there")
    return ConfigError(f"{folder} cannot be written: {error.strerror or error}; choose another folder")


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON that a file or a caller holds; what is wrong with it is one kind of error.

    Args:
        text: UTF-8 if it is bytes.
        options: of ``json.loads``.

    Raises:
        ValueError: it is no JSON, nests too deeply, or holds a number of thousands of digits or a lone surrogate.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        values = json.loads(text, **options)
        if "\\ud" in text.lower():  # what UTF-8 cannot express could be neither written nor told
            json.dumps(values, ensure_ascii=False).encode()
        return values
    except RecursionError:
        raise ValueError("it nests too deeply") from None
