"""Pruning: releases that nothing needs are deleted, and the files that only they had."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ConfigError, InvalidInputError, ReleaseError
from recsys.releases.lock import store_lock
from recsys.releases.release import FILES, RELEASES, find_releases, release_names
from recsys.releases.served import read_served
from recsys.releases.status import read_statuses, status_file
from recsys.releases.stored_files import remove_folder, remove_leftovers

KEEP = 5
OLD_STATUS_S = 86_400.0
"""A server whose status is older is gone: the file is deleted, too."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """The outcome of a prune.

    Attributes:
        removed: releases that were deleted, or would be.
        kept: the other ones -> the reason.
        freed_bytes: of the files that no other release has.
        servers: those whose old status was deleted, or would be.
    """

    removed: tuple[str, ...]
    kept: Mapping[str, str]
    freed_bytes: int
    servers: tuple[str, ...]


def prune(store: Path, *, keep: int = KEEP, dry_run: bool = False) -> Pruned:
    """Delete releases; kept are those of ``served.json``, those that a server has loaded, and the newest by number.

    Args:
        store: its folder.
        keep: how many of the newest stay, at least one: the next number is one more than the largest.
        dry_run: only say what would be deleted; needs no right to write.

    Raises:
        InvalidInputError: ``keep`` is less than one.
        ReleaseError: there is no store; ``served.json`` or a server's status cannot be read, so that it is unknown what
            is in use; another process holds the lock for too long.
        ConfigError: the store cannot be written, or a release is another user's.
    """
    if keep < 1:
        raise InvalidInputError(f"keep: {keep}; allowed: at least 1, the newest release")
    release_names(store)  # there is a store
    if dry_run:
        return _plan(store, keep)
    with store_lock(store):
        remove_leftovers(store)
        plan = _plan(store, keep)
        for name in plan.removed:
            gone = store / RELEASES / f".{name}.tmp-{secrets.token_hex(4)}"
            try:
                os.chmod(store / RELEASES / name, 0o755)
            except PermissionError:
                raise ConfigError(
                    f"{store / RELEASES / name} is another user's: prune as the one who pushed it"
                ) from None
            # Not found any more in one step; the next push or prune ends what a kill leaves
            os.rename(store / RELEASES / name, gone)
            remove_folder(gone)
        for server in plan.servers:
            status_file(store, server).unlink(missing_ok=True)
        remove_leftovers(store)
    return plan


def _plan(store: Path, keep: int) -> Pruned:
    served, (statuses, unread) = read_served(store), read_statuses(store)
    if unread:
        raise ReleaseError(f"{unread[0]}; what it has loaded is unknown: delete the file if that server is gone")
    found, damaged = find_releases(store)
    kept = {each.release.name: f"among the newest {keep}" for each in found[-keep:]}
    for seen in statuses:
        if seen.recent:
            kept |= {name: f"loaded by {seen.status.server}" for name in seen.status.loaded}
    for name in served.releases() if served is not None else ():
        kept[name] = "served.json names it"
    readable = {each.release.name for each in found}
    there = readable | set(release_names(store))
    kept |= {name: "its record is damaged: push its bundles again, or delete it" for name in there - readable}
    removed = tuple(each.release.name for each in found if each.release.name not in kept)
    return Pruned(
        removed=removed,
        kept={name: reason for name, reason in kept.items() if name in there},
        freed_bytes=_bytes_of_only(store, removed),
        servers=tuple(seen.status.server for seen in statuses if seen.age_s > OLD_STATUS_S),
    )


def _bytes_of_only(store: Path, names: Iterable[str]) -> int:
    """Bytes of the files all of whose hard links are in these releases and among the stored files."""
    links: Counter[tuple[int, int]] = Counter()
    sizes: dict[tuple[int, int], int] = {}
    in_all: dict[tuple[int, int], int] = {}
    for folder in (store / FILES, *(store / RELEASES / name for name in names)):
        for path in folder.rglob("*"):
            found = path.lstat()
            if not path.is_dir():
                key = (found.st_dev, found.st_ino)
                links[key] += 1
                sizes[key], in_all[key] = found.st_size, found.st_nlink
    return sum(size for key, size in sizes.items() if links[key] >= in_all[key])
