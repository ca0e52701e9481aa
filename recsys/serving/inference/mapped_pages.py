"""Mapped pages that cannot be read: they give zeros and a count, where the system would end the process by SIGBUS.

The work is done by ``recsys/operators/table_guard.cpp``; here is its Python side. Where it was not compiled, or on
another system than Linux, files are still compared by their sizes and times, but a page that is gone ends the process.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from recsys.operators import library

_log = logging.getLogger("recsys.serving")

_MADV_DONTNEED = 4
_PIECE_BYTES = 8 << 20
_AHEAD_BYTES = 128 << 10
_PIECE_PAUSE_S = 0.0005

Range = tuple[int, int]
"""First address of a mapping, and the one after its last."""


class FileTimes(ctypes.Structure):
    """A file's facts as the library compares them."""

    _fields_ = [(name, ctypes.c_int64) for name in ("descriptor", "size_bytes", "modified_ns", "changed_ns")]

    @classmethod
    def of(cls, descriptor: int) -> FileTimes:
        """The facts of an open file as they are now."""
        now = os.fstat(descriptor)
        return cls(descriptor, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


@cache
def _library(*, holds_lock: bool = True) -> Any:
    """The compiled functions, with the handler of SIGBUS installed; None where there are none, which is said once.

    ``holds_lock``: calls keep the interpreter's lock; right for what takes a microsecond.
    """
    path = library()
    loaded = None if path is None else (ctypes.PyDLL if holds_lock else ctypes.CDLL)(str(path))
    if loaded is None or not hasattr(loaded, "recsys_guard_unchanged"):
        _log.warning(
            "a table that is cut short while it is served may end the process: recsys's operators, which prevent it, "
            "were not compiled when it was installed, do not load or are older; never write to a bundle that is served"
        )
        return None
    for name in ("all_faults", "faults_in_loading", "faults"):
        getattr(loaded, f"recsys_guard_{name}").restype = ctypes.c_uint64
    loaded.recsys_guard_add.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    loaded.recsys_guard_unchanged.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64]
    return loaded


def can_guard() -> bool:
    """True if pages that cannot be read are survived here."""
    return _library() is not None


def all_faults() -> int:
    """The number of pages and mappings that could not be read so far; never falls."""
    guard = _library()
    return 0 if guard is None else guard.recsys_guard_all_faults()


def faults_in_loading() -> int:
    """Those of :func:`all_faults` that were met within :func:`surviving_faults`, in mappings not registered yet."""
    guard = _library()
    return 0 if guard is None else guard.recsys_guard_faults_in_loading()


@contextmanager
def surviving_faults() -> Iterator[None]:
    """Replace every page that cannot be read for the duration of a ``with`` block, whatever it is mapped from."""
    guard = _library()
    if guard is None:
        yield
        return
    if guard.recsys_guard_install() != 0:
        _log.warning("no handler of SIGBUS can be installed: a table that is cut short ends the process")
    guard.recsys_guard_load(1)
    try:
        yield
    finally:
        guard.recsys_guard_load(-1)


def register(ranges: Iterable[Range]) -> list[int]:
    """Guard mappings until :func:`unregister`; numbers for :func:`faults_of`."""
    guard = _library()
    if guard is None:
        return []
    numbers = []
    for begin, end in ranges:
        numbers.append(guard.recsys_guard_add(begin, end))
        _registered[numbers[-1]] = begin, end
    if -1 in numbers:
        _log.warning("too many mappings of tables: one that is cut short may end the process; serve fewer releases")
        del _registered[-1]
    return [number for number in numbers if number >= 0]


_registered: dict[int, Range] = {}


def unregister(numbers: Sequence[int]) -> None:
    """Give up what :func:`register` gave."""
    if numbers:
        for number in numbers:
            _library().recsys_guard_remove(number)
            del _registered[number]


def unregistered(mappings: Iterable[Range]) -> list[Range]:
    """The parts of mappings that are not registered.

    Linux tells two mappings as one that adjoin in memory and in their file, of two loaded models, say. Taken as one,
    the part of the model that is closed first would be replaced with whatever lies there by then.
    """
    found, registered = [], sorted(list(_registered.values()))
    for begin, end in sorted(mappings):
        for known_begin, known_end in registered:
            if known_end <= begin or known_begin >= end:
                continue
            if known_begin > begin:
                found.append((begin, known_begin))
            begin = known_end
        if begin < end:
            found.append((begin, end))
    return found


@cache
def madvise_call() -> Any:
    """The system's ``madvise(address, bytes, advice)``; Linux."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise


def read_ahead(descriptor: int) -> None:
    """Have the system read a file into memory; returns when the last reads are on their way.

    Piece by piece: of a larger one Linux reads what one read-ahead of the disk is, and says nothing.
    """
    if hasattr(os, "posix_fadvise"):
        for offset in range(0, os.fstat(descriptor).st_size, _AHEAD_BYTES):
            os.posix_fadvise(descriptor, offset, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def let_pages_go(numbers: Sequence[int]) -> None:
    """Unmap the pages of mappings that nobody reads any more, a few at a time; one that is read again comes back.

    A mapping of a gigabyte that is unmapped at once keeps every page fault of the process waiting meanwhile.
    """
    if not sys.platform.startswith("linux"):
        return
    madvise = madvise_call()
    for number in numbers:
        begin, end = _registered[number]
        for piece in range(begin, end, _PIECE_BYTES):
            madvise(piece, min(_PIECE_BYTES, end - piece), _MADV_DONTNEED)
            time.sleep(_PIECE_PAUSE_S)


def faults_of(numbers: Sequence[int]) -> int:
    """Count the pages of these mappings that could not be read."""
    return sum(_library().recsys_guard_faults(number) for number in numbers) if numbers else 0


class UnchangedFiles:
    """Compares open files with what they were; a microsecond for each three.

    Args:
        descriptors: of the files; not closed here.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.times = (FileTimes * len(descriptors))(*(FileTimes.of(each) for each in descriptors))
        """Facts as they were; to be written to where a change is known to do no harm."""
        self._faults = all_faults()
        self._place = ctypes.addressof(self.times)
        # A call that may wait for another machine must not keep the interpreter's lock.
        guard = _library()
        if guard is not None and not all(guard.recsys_guard_is_local(each) for each in descriptors):
            guard = _library(holds_lock=False)
        self._compare = None if guard is None else guard.recsys_guard_unchanged

    def hold(self) -> bool:
        """True if all files are as they were, and no page could not be read since :meth:`forgive_faults`."""
        if self._compare is None:
            return all(_same(each, FileTimes.of(each.descriptor)) for each in self.times)
        return bool(self._compare(self._place, len(self.times), self._faults))

    def forgive_faults(self, faults: int) -> None:
        """Take so many of :func:`all_faults` for those of others."""
        self._faults = faults


def _same(old: FileTimes, new: FileTimes) -> bool:
    return bytes(old) == bytes(new)


def mappings_of(descriptors: Iterable[int], names: Iterable[Path]) -> set[Range]:
    """The mappings of some files in this process, whatever their names are now; none where the system does not tell.

    Args:
        descriptors: of the files.
        names: of the files: Btrfs and overlayfs tell other numbers of a mapping than of the file.
    """
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    paths = {str(name.resolve()).replace("\n", "\\012") for name in names}
    held = {(os.major(s.st_dev), os.minor(s.st_dev), s.st_ino) for s in map(os.fstat, descriptors)}
    found = set()
    for line in lines:
        addresses, _, _, device, inode, *path = line.split(maxsplit=5)
        major, minor = (int(part, 16) for part in device.split(":"))
        if (major, minor, int(inode)) in held or (path and path[0].removesuffix(" (deleted)") in paths):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            found.add((begin, end))
    return found
