"""TableGuard: notices when the tables of a loaded bundle are written to, cut short, or cannot be read from the disk.

ONNX Runtime maps tables: whatever is written to such a file is in the model at once. The system writes down size and
time of a change before its bytes can be seen. So a request whose files are, after its graphs ran, as they were when the
bundle was verified has read what was verified. A change, once found, is for good: nothing is read any more.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from recsys.bundle import Bundle, FileState
from recsys.errors import BundleError, ModelError
from recsys.serving.inference.mapped_pages import (
    FileTimes,
    UnchangedFiles,
    all_faults,
    can_guard,
    faults_in_loading,
    faults_of,
    let_pages_go,
    mappings_of,
    register,
    surviving_faults,
    unregister,
    unregistered,
)
from recsys.serving.inference.memory import tables_bytes, two_fit
from recsys.serving.scheduling import lower_priority

_log = logging.getLogger("recsys.serving")

_TABLES = "tables/"
_HASH_CHUNK_BYTES = 1 << 20
_HASH_BYTES_PER_S = 200e6
"""So fast a file is hashed beside requests: at full speed it would take what they need of memory's speed."""
_RETRY_S = 0.5
_FEW = 8
"""So many files are compared before a request, too."""

_REMEDY = (
    "nothing is answered from it any more: go back to another release, or restart the server with a whole bundle "
    '(docs/guides/releases.md, "A bundle that changes under the server")'
)


class TableGuard:
    """Guards the tables of one loaded bundle, names among them. Safe to use from several threads.

    Args:
        bundle: whose they are; opened just before.
        release: name of the release that it belongs to, for messages; empty: the bundle's folder is named.

    Raises:
        BundleError: a table cannot be opened.
    """

    def __init__(self, bundle: Bundle, *, release: str = "") -> None:
        self.label = f"release {release!r}" if release else str(bundle.path)
        """Names the release in messages."""
        self._bundle = bundle
        self._names: list[str] = []
        self._descriptors: list[int] = []
        self._ranges: list[int] = []
        weakref.finalize(self, _let_go, self._descriptors, self._ranges)
        for name in bundle.manifest.files:
            if not name.startswith(_TABLES):
                continue
            try:
                self._descriptors.append(os.open(bundle.path / name, os.O_RDONLY | os.O_CLOEXEC))
                self._names.append(name)
            except FileNotFoundError:  # whatever needs it says so
                continue
            except OSError as error:
                hint = ", see `ulimit -n`" if error.errno == errno.EMFILE else ""
                raise BundleError(f"{bundle.path}: {name} cannot be opened: {error.strerror}{hint}") from error
        self._links = [os.fstat(each).st_nlink for each in self._descriptors]
        self.is_large = not two_fit(tables_bytes(bundle))
        """Two such releases have no room in memory."""
        self._files = UnchangedFiles(self._descriptors)
        self._compared_before = len(self._descriptors) <= _FEW or not can_guard()
        self._damage = ""
        self._lock = threading.Lock()
        self._suspects: list[int] = []
        self._hashing = False

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Load the tables within a ``with`` block: a page that cannot be read then is an error at its end.

        Raises:
            ModelError: a table is not the one that was verified, or could not be read.
            BundleError: of what is done within, ended by what became of the tables since they were verified, if
                anything did.
        """
        faults = faults_in_loading()
        with surviving_faults():
            try:
                yield
            except BundleError as error:
                raise type(error)(f"{error}{self._changes()}") from error
            finally:
                self._ranges.extend(register(unregistered(mappings_of(self._descriptors, self._paths()))))
        if faults_in_loading() != faults:
            raise self._found(f"a page of a table could not be read while it was loaded{self._changes()}")
        for place, name in enumerate(self._names):
            state = FileState.of(os.fstat(self._descriptors[place]))
            verified = self._bundle.states.get(name, state)
            with suppress(OSError):
                named = FileState.of((self._bundle.path / name).stat())
                if (named.inode, named.device) != (state.inode, state.device):
                    raise self._found(f"{name} was replaced while it was loaded")
            if state != verified:
                raise self._found(f"{name} was changed after it was verified: {_difference(verified, state)}")
        self.check()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the tables within a ``with`` block, by :meth:`check_before` and :meth:`check`.

        Raises:
            ModelError: as :meth:`check`, in place of an error within, too: what was read instead fits nothing.
        """
        self.check_before()
        try:
            yield
        except Exception:
            self.check()
            raise
        self.check()

    def check_before(self) -> None:
        """Compare the files before a request reads them, which saves reading what is gone.

        Of many files only what is known already is said, unless reading what is gone would end the process: the answer
        depends on :meth:`check` alone.

        Raises:
            ModelError: as :meth:`check`.
        """
        if self._compared_before:
            self.check()
        elif self._damage:
            raise ModelError(self._damage)

    def check(self) -> None:
        """Compare the files with what they were, after a request has read them; some 0.4 us a file.

        Raises:
            ModelError: a file is not what it was, or could not be read, now or at some time before.
        """
        if self._damage:
            raise ModelError(self._damage)
        if not self._files.hold():
            self._look()

    def damage(self) -> str:
        """Look at the files; returns the damage to them, which is for good, or an empty text."""
        with suppress(ModelError):
            self.check()
        return self._damage

    def let_pages_go(self) -> None:
        """Unmap the tables' pages: the model is about to be closed."""
        let_pages_go(self._ranges)
        if self.is_large and hasattr(os, "posix_fadvise"):
            for descriptor in self._descriptors:
                with suppress(OSError):
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def rest(self) -> None:
        """Leave the memory of the tables' pages to another release, where two have no room; a page read comes back.

        To mark them as cold would not do: Linux leaves pages alone that other processes map, too.
        """
        if self.is_large:
            self.let_pages_go()

    def _paths(self) -> list[Path]:
        return [self._bundle.path / name for name in self._names]

    def _look(self) -> None:
        """Find out what is not as it was."""
        with self._lock:
            if self._damage:
                raise ModelError(self._damage)
            faults = all_faults()
            unreadable = faults_of(self._ranges) > 0
            for place, name in enumerate(self._names):
                self._look_at(place, name)
            if unreadable:
                raise self._found("a page of a table could not be read: the disk failed, or the file was cut short")
            self._files.forgive_faults(faults)

    def _look_at(self, place: int, name: str) -> None:
        old, new = self._files.times[place], FileTimes.of(self._descriptors[place])
        if old.size_bytes != new.size_bytes or old.modified_ns != new.modified_ns:
            raise self._found(f"{name} was written to while it was served: {_difference(_state(old), _state(new))}")
        if old.changed_ns == new.changed_ns:
            return
        links, self._links[place] = self._links[place], os.fstat(self._descriptors[place]).st_nlink
        self._files.times[place] = new
        if links == self._links[place]:  # else a name was given to the file, or taken from it
            # Its rights or its owner were changed, or it was written to and its time set back.
            _log.warning("%s: something about %s was changed, but not size and time; hashing it", self.label, name)
            self._suspects.append(place)
            if not self._hashing:
                self._hashing = True
                threading.Thread(target=_hash_suspects, args=(weakref.ref(self),), name="hash", daemon=True).start()

    def _changes(self) -> str:
        """Differences from what was verified, for a message."""
        for name, descriptor in zip(self._names, self._descriptors, strict=True):
            state = FileState.of(os.fstat(descriptor))
            if name in self._bundle.states and self._bundle.states[name] != state:
                return f"; {name} was changed after it was verified: {_difference(self._bundle.states[name], state)}"
        return ""

    def _found(self, what: str) -> ModelError:
        """The error, from now on for every call."""
        if not self._damage:
            folder = "" if self.label == str(self._bundle.path) else f"{self._bundle.path}: "
            self._damage = f"{self.label} is damaged: {folder}{what}; {_REMEDY}"
            _log.error("%s", self._damage)
        return ModelError(self._damage)

    def next_suspect(self) -> tuple[int, str] | None:
        """Take a file that is to be hashed: a descriptor to close, and its name.

        Raises:
            OSError: the process has too many files open; the file is still to be hashed.
        """
        with self._lock:
            if not self._suspects or self._damage:
                self._hashing = False
                return None
            place = self._suspects[-1]
            descriptor = os.dup(self._descriptors[place])
            self._suspects.pop()
            return descriptor, self._names[place]

    def hashed(self, name: str, digest: str) -> None:
        """Take the hash of a file that was to be hashed."""
        if digest != self._bundle.manifest.files[name][1]:
            self._found(f"{name} was written to while it was served, and its time set back: its SHA-256 is {digest}")
        else:
            _log.info("%s: %s holds what it should", self.label, name)


def _hash_suspects(reference: weakref.ref[TableGuard]) -> None:
    """Hash what a guard suspects, at low priority and bounded speed, until it has no more or is gone."""
    lower_priority()
    told = False
    while (guard := reference()) is not None:
        try:
            suspect = guard.next_suspect()
        except OSError as error:
            if not told:
                _log.warning("%s: a table cannot be hashed yet: %s", guard.label, error.strerror)
            told = True
            del guard
            time.sleep(_RETRY_S)
            continue
        del guard  # the model may be closed meanwhile
        if suspect is None:
            return
        descriptor, name = suspect
        digest, offset, started_s = hashlib.sha256(), 0, time.monotonic()
        try:
            while reference() is not None and (chunk := os.pread(descriptor, _HASH_CHUNK_BYTES, offset)):
                digest.update(chunk)
                offset += len(chunk)
                time.sleep(max(0.0, started_s + offset / _HASH_BYTES_PER_S - time.monotonic()))
            found = digest.hexdigest()
        except OSError as error:
            found = f"unknown ({error.strerror})"
        finally:
            os.close(descriptor)
        if (guard := reference()) is not None:
            guard.hashed(name, found)


def _let_go(descriptors: list[int], ranges: list[int]) -> None:
    unregister(ranges)
    for descriptor in descriptors:
        os.close(descriptor)


def _state(times: FileTimes) -> FileState:
    return FileState(times.size_bytes, times.modified_ns, 0, 0)


def _difference(old: FileState, new: FileState) -> str:
    if (old.inode, old.device) != (new.inode, new.device):
        return "it is another file"
    when = datetime.fromtimestamp(new.modified_ns / 1e9, UTC).isoformat(" ", "seconds")
    if old.size_bytes != new.size_bytes:
        return f"its size went from {old.size_bytes:,} to {new.size_bytes:,} bytes, written at {when}"
    return f"its {new.size_bytes:,} bytes were written over at {when}"
