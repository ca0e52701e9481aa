"""The store of releases: pushed, listed, found by name; and the one file that says which are served."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import EllipsisType

from recsys.errors import ReleaseError, nearest
from recsys.releases.lock import now, store_lock, who
from recsys.releases.push import Progress, push
from recsys.releases.release import Release, ReleaseFolder, find_releases, open_release, release_names
from recsys.releases.served import SERVED, Served, read_served, write_served


def push_release(
    store: Path, *, ranking: Path | None, retrieval: Path | None, note: str = "", progress: Progress | None = None
) -> Release:
    """Push bundles as one release, whole or not at all; the same bundles again are the same release.

    Args:
        store: its folder; made if it is absent.
        ranking, retrieval: folders of the bundles, at least one.
        note: for people, of a new release.
        progress: called with the bytes read so far and in all.

    Raises:
        InvalidInputError: no bundle is given.
        BundleError: a bundle is missing, altered, changes meanwhile, or is of another kind; the two have other ids.
        ConfigError: the store cannot be written.
        NoSpaceError: there is no room.
        ReleaseError: another process holds the store's lock for too long.
    """
    return push(store, ranking=ranking, retrieval=retrieval, note=note, progress=progress).release


def list_releases(store: Path) -> list[ReleaseFolder]:
    """All releases of a store by number, the oldest first.

    Raises:
        ReleaseError: there is no store, or a record is damaged; :func:`recsys.releases.release.find_releases` goes on.
    """
    found, damaged = find_releases(store)
    if damaged:
        raise ReleaseError(damaged[0])
    return found


def find_release(store: Path, text: str) -> ReleaseFolder:
    """The release of this name, or the only one whose name begins so.

    Raises:
        ReleaseError: there is none, there are several, or its record is damaged.
    """
    names = release_names(store)
    fitting = [text] if text in names else [name for name in names if text and name.startswith(text)]
    if not fitting:
        raise ReleaseError(f"{store}: no release {text!r}: {nearest(text, names)}")
    if len(fitting) > 1:
        raise ReleaseError(f"{store}: {text!r} fits several releases: {', '.join(fitting)}; give more of the name")
    return open_release(store, fitting[0])


def change_served(
    store: Path,
    change: Callable[[Served | None], Served],
    *,
    expected: Served | None | EllipsisType = ...,
    why: str,
) -> Served:
    """Change ``served.json`` while nobody else does.

    Args:
        store: its folder.
        change: from the content, None if nothing was promoted yet, to the next; the revision and who, when and why are
            set here. The same models again change nothing.
        expected: content that the decision was made on; by default any.
        why: for people.

    Returns:
        The content afterwards.

    Raises:
        ReleaseError: the content is not what was expected, the file is malformed, a release that is new in it does not
            exist, or another process holds the lock for too long.
        ConfigError: the store cannot be written.
        NoSpaceError: there is no room.
        Exception: as ``change``.
    """
    read_served(store)  # makes no store
    with store_lock(store):
        found = read_served(store)
        if expected is not ... and found != expected:
            raise ReleaseError(_changed_meanwhile(store, found, expected))
        wanted = change(found)
        if found is not None and (wanted.models, wanted.default) == (found.models, found.default):
            return found
        for name in wanted.releases():
            if found is None or name not in found.releases():
                open_release(store, name)
        revision = 1 if found is None else found.revision + 1
        changed = dataclasses.replace(wanted, revision=revision, by=who(), at=now(), why=why)
        write_served(store, changed)
        return changed


def _changed_meanwhile(store: Path, found: Served | None, expected: Served | None) -> str:
    before = 0 if expected is None else expected.revision
    if found is None:
        return f"{store / SERVED} is gone; it was at revision {before}: look who removed it, and try again"
    hand = "" if found.revision != before else ", by hand: the revision is the same"
    return (
        f"{store / SERVED} was changed meanwhile by {found.by or 'somebody'} at {found.at or 'an unknown time'}"
        f" ({found.why or 'no reason given'}{hand}): revision {found.revision} where {before} was expected; nothing "
        "was changed: look at `recsys release status`, and decide again"
    )
