"""Pushing: bundles become one release of a store, whole or not at all.

The release is put together in a folder beside its place, ``releases/.NAME.tmp-RANDOM``, whose lock is held by the
pushing process; it is renamed when all is there and on disk. A file that the store has is not stored again: its bytes
are hashed once more, as those of the source are, for a push is rare, hashing costs a second a gigabyte, and a stored
file that was altered must not come into a new release. It is repaired from the source then, in all releases.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from recsys.bundle import MANIFEST, Manifest, open_bundle, read_manifest
from recsys.bundle.verified import digest_in_pieces
from recsys.bundle.verify import check_files
from recsys.errors import BundleError, ConfigError, InvalidInputError, RecsysError, ReleaseError
from recsys.features.extension import ids_problem
from recsys.files import make_folder, sync, write_atomically, writing
from recsys.releases.lock import hold, make_shared_folder, now, store_lock, who
from recsys.releases.release import (
    FILES,
    RANKING,
    RELEASE,
    RELEASES,
    RETRIEVAL,
    BundleRecord,
    Release,
    find_releases,
    open_release,
    release_name,
    release_text,
)
from recsys.releases.served import SERVED
from recsys.releases.stored_files import (
    add_stored,
    altered_source,
    copy_hashed,
    folders_of,
    remove_folder,
    remove_leftovers,
    repair,
    stored_file,
    try_link,
    writable,
)

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and in all."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The outcome of a push.

    Attributes:
        release: its record.
        new: False: the store had the release already; it was looked through again.
        stored_bytes, shared_bytes: of its files, those written and those that the store had.
        left_out: files of the bundles' folders that no manifest lists, and that were not pushed.
        copied_because: reason why files are not shared with other releases; empty: they are.
        repaired: files of the store that had been altered and are whole again, relative to it.
    """

    release: Release
    new: bool
    stored_bytes: int = 0
    shared_bytes: int = 0
    left_out: tuple[str, ...] = ()
    copied_because: str = ""
    repaired: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file to push: where it is, and its place in the release."""

    source: Path
    place: str
    size_bytes: int
    digest: str


@dataclass(kw_only=True)
class _Push:
    """A push while it runs; the fields without a default do not change."""

    store: Path
    record: Release
    files: list[_File]
    left_out: tuple[str, ...]
    progress: Progress | None
    total_bytes: int = 0
    read_bytes: int = 0
    shared_bytes: int = 0
    copied_because: str = ""
    repaired: list[str] = field(default_factory=list)

    @property
    def place(self) -> Path:
        return self.store / RELEASES / self.record.name

    def count(self, size_bytes: int) -> None:
        self.read_bytes += size_bytes
        if self.progress is not None:
            self.progress(self.read_bytes, max(self.total_bytes, self.read_bytes))

    def done(self, record: Release, *, new: bool) -> Pushed:
        size_bytes = sum(file.size_bytes for file in self.files)
        return Pushed(
            release=record,
            new=new,
            stored_bytes=size_bytes - self.shared_bytes if new else 0,
            shared_bytes=self.shared_bytes if new else size_bytes,
            left_out=self.left_out,
            copied_because=self.copied_because,
            repaired=tuple(sorted(set(self.repaired))),
        )


def push(
    store: Path, *, ranking: Path | None, retrieval: Path | None, note: str = "", progress: Progress | None = None
) -> Pushed:
    """Push bundles as one release, and say how it went; arguments and errors of ``store.push_release``."""
    bundles = _read_bundles(ranking, retrieval)
    files = [file for part, (path, manifest) in bundles.items() for file in _files_of(part, path, manifest)]
    left_out = tuple(name for path, manifest in bundles.values() for name in _unlisted(path, manifest))
    work = _Push(store=store, record=record_of(bundles, note=note), files=files, left_out=left_out, progress=progress)
    _check_store(store)
    with writing(work.place):
        make_folder(store)
        for folder in (RELEASES, FILES):
            make_shared_folder(store / folder, like=store)
        with store_lock(store):
            remove_leftovers(store)
        if work.place.exists():
            return _look_through(work)
        with _staging(work) as staging:
            return _push_new(work, staging)


def next_number(store: Path) -> int:
    """The number of the next release; those whose record is damaged do not count."""
    return max((each.release.number for each in find_releases(store)[0]), default=0) + 1


def _push_new(work: _Push, folder: Path) -> Pushed:
    work.total_bytes = sum(f.size_bytes * (1 + stored_file(work.store, f.digest).exists()) for f in work.files)
    copied: dict[str, Path] = {}
    for file in work.files:
        target = folder / file.place
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.digest in copied and not try_link(copied[file.digest], target):
            work.shared_bytes += file.size_bytes
        elif _linked(work, file, target):
            _check_source(work, file)
        else:
            copy_hashed(file.source, target, file.digest, work.count)
            copied.setdefault(file.digest, target)
    _check_opens(folder)
    with store_lock(work.store):
        if work.place.exists():  # another pushed the same meanwhile
            return work.done(open_release(work.store, work.record.name).release, new=False)
        for digest, target in copied.items():
            work.copied_because = add_stored(work.store, digest, target) or work.copied_because
        record = dataclasses.replace(work.record, number=next_number(work.store))
        _write_record(folder, record)
        for each in reversed(list(folders_of(folder))):
            each.chmod(0o555)
            sync(each)
        os.rename(folder, work.place)
        sync(work.place.parent)
    return work.done(record, new=True)


def _linked(work: _Push, file: _File, target: Path) -> bool:
    """Link a file that the store has; an altered one is repaired before."""
    place = stored_file(work.store, file.digest)
    try:
        whole = digest_in_pieces(place, read=work.count)[1] == file.digest
        if not whole:
            _repair(work, file, place)
        reason = try_link(place, target)
    except FileNotFoundError:  # never stored, or pruned this moment
        return False
    if reason:
        work.copied_because = reason
        return False
    work.shared_bytes += file.size_bytes
    return True


def _look_through(work: _Push) -> Pushed:
    """Compare a release that was pushed before with its bundles, and repair what was altered."""
    work.total_bytes = 2 * sum(file.size_bytes for file in work.files)
    for file in work.files:
        target = work.place / file.place
        try:
            whole = digest_in_pieces(target, read=work.count)[1] == file.digest
        except FileNotFoundError:
            whole = False
        if whole:
            _check_source(work, file)
        else:
            _repair(work, file, target)
    _check_opens(work.place)
    try:
        record = open_release(work.store, work.record.name).release
    except ReleaseError:
        with store_lock(work.store):
            _check_there(work)
            with writable(work.place):
                record = dataclasses.replace(work.record, number=next_number(work.store))
                _write_record(work.place, record)
        work.repaired.append(f"{RELEASES}/{record.name}/{RELEASE}")
    for part in (RANKING, RETRIEVAL):
        ours, theirs = getattr(work.record, part), getattr(record, part)
        if (ours and ours.version) != (theirs and theirs.version):
            raise ReleaseError(f"{work.place}: is of other bundles than these, whose name is the same; move it away")
    return work.done(record, new=False)


def _repair(work: _Push, file: _File, altered: Path) -> None:
    with store_lock(work.store):
        if altered.is_relative_to(work.place):
            _check_there(work)
        places = repair(work.store, file.source, file.digest, altered, work.count)
        add_stored(work.store, file.digest, altered)
    work.repaired += [str(place.relative_to(work.store)) for place in places]


def _check_there(work: _Push) -> None:
    if not work.place.is_dir():
        raise ReleaseError(f"{work.place} was deleted while it was looked through: push it again")


def _check_source(work: _Push, file: _File) -> None:
    if digest_in_pieces(file.source, read=work.count)[1] != file.digest:
        raise altered_source(file.source)


@contextmanager
def _staging(work: _Push) -> Iterator[Path]:
    """A folder to put the release together in, beside its place; what is left of it afterwards is deleted."""
    folder = work.place.with_name(f".{work.record.name}.tmp-{secrets.token_hex(4)}")
    lock = folder.with_name(f"{folder.name}.lock")
    with store_lock(work.store):  # between the file and its lock no other push may take it for a leftover
        held = hold(lock)
        assert held is not None, "the name is new"
    try:
        folder.mkdir()
        yield folder
    except BaseException:
        _remove_staging(folder, lock)
        with contextlib.suppress(OSError, RecsysError), store_lock(work.store):
            remove_leftovers(work.store)  # stored files that only this release has
        raise
    finally:
        _remove_staging(folder, lock)
        os.close(held)


def _remove_staging(folder: Path, lock: Path) -> None:
    with contextlib.suppress(OSError):
        remove_folder(folder)
        lock.unlink()


def _read_bundles(ranking: Path | None, retrieval: Path | None) -> dict[str, tuple[Path, Manifest]]:
    """The bundles by their part of a release, their files there and of the right sizes."""
    given = {part: path for part, path in ((RANKING, ranking), (RETRIEVAL, retrieval)) if path is not None}
    if not given:
        raise InvalidInputError("nothing to push; allowed: a ranking bundle, a retrieval bundle, or one of each")
    bundles: dict[str, tuple[Path, Manifest]] = {}
    for part, path in given.items():
        manifest = read_manifest(path)
        if manifest.kind != part:
            raise BundleError(f"{path} is a {manifest.kind} bundle, and was given as the {part} bundle")
        for name in manifest.files:
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts or name in ("", ".", MANIFEST):
                raise BundleError(f"{path}: {name!r} in its list of files is no file in the bundle")
        check_files(path, manifest, verify="sizes")  # hashed as they are copied
        bundles[part] = (path, manifest)
    if len(bundles) == 2:
        ours, theirs = bundles[RANKING][1], bundles[RETRIEVAL][1]
        features = theirs.feature_set, ours.feature_set
        if problem := ids_problem(*features, retrieval_model=theirs.model, ranking_model=ours.model):
            raise BundleError(f"{problem}; push two bundles of the same ids")
    return bundles


def _check_store(store: Path) -> None:
    """Refuse a folder that holds something else; raises ConfigError."""
    try:
        found = {entry.name for entry in store.iterdir() if not entry.name.startswith(".")}
    except OSError:  # absent, or the writer will say what is wrong
        return
    if found and not found & {RELEASES, SERVED}:
        raise ConfigError(
            f"{store}: is no store of releases, and is not empty ({min(found)}); choose a new folder, or an empty one"
        )


def _files_of(part: str, path: Path, manifest: Manifest) -> Iterator[_File]:
    for name, (size_bytes, digest) in manifest.files.items():
        yield _File(source=path / name, place=f"{part}/{name}", size_bytes=size_bytes, digest=digest)
    stated = (path / MANIFEST).read_bytes()
    if read_manifest(path) != manifest:
        raise BundleError(f"{path}: another bundle came into its place while it was read; push it again")
    digest = hashlib.sha256(stated).hexdigest()
    yield _File(source=path / MANIFEST, place=f"{part}/{MANIFEST}", size_bytes=len(stated), digest=digest)


def _unlisted(path: Path, manifest: Manifest) -> Iterator[str]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and name != MANIFEST and name not in manifest.files:
            yield str(file)


def record_of(bundles: Mapping[str, tuple[Path, Manifest]], *, note: str) -> Release:
    """The record of a release of bundles that is not numbered yet.

    Args:
        bundles: part of the release -> the bundle's folder, and its manifest; ranking first.
        note: for people.
    """
    parts = {
        part: BundleRecord(
            model=manifest.model,
            version=manifest.version,
            size_bytes=sum(size for size, _ in manifest.files.values()) + (path / MANIFEST).stat().st_size,
        )
        for part, (path, manifest) in bundles.items()
    }
    first = next(iter(bundles.values()))[1]
    versions = [parts[part].version if part in parts else "" for part in (RANKING, RETRIEVAL)]
    return Release(
        name=release_name(first.model, *versions),
        ranking=parts.get(RANKING),
        retrieval=parts.get(RETRIEVAL),
        feature_set=first.feature_set.name,
        feature_set_fingerprint=first.feature_set.fingerprint(),
        number=0,
        metrics=first.metrics,
        certificate=dataclasses.asdict(first.certificate),
        by=who(),
        at=now(),
        note=note,
    )


def _write_record(folder: Path, record: Release) -> None:
    file = folder / RELEASE
    write_atomically(file, release_text(record).encode())
    file.chmod(0o444)


def _check_opens(release: Path) -> None:
    """Open the bundles of a release whose files were hashed before; raises BundleError."""
    for part in (RANKING, RETRIEVAL):
        if (release / part).exists():
            open_bundle(release / part, verify="sizes")
