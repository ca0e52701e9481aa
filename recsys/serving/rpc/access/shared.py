"""Shared: what a server's workers have in common of access, kept by their supervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from recsys.serving.rpc.access.follow import PolicyFollower
from recsys.serving.rpc.access.usage import usage_file


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAccess:
    """Share of a worker that starts.

    Attributes:
        contents: of the last good access file, and of the file of keys that it names.
        usage: the file in which all workers count for quotas.
    """

    contents: Mapping[Path, bytes] = field(repr=False)
    usage: Path


@contextmanager
def shared_access(file: Path | None, *, workers: int) -> Iterator[Callable[[], SharedAccess | None]]:
    """Follow an access file for workers to come, for the duration of a ``with`` block; yields what gives one its share.

    Args:
        file: the access file; None: everybody may do everything, and there is nothing to share.
        workers: how many there are.

    Raises:
        ConfigError: the file is bad.
    """
    if file is None:
        yield lambda: None
        return
    follower = PolicyFollower(file)
    with follower.following(), usage_file(workers=workers) as usage:
        yield lambda: SharedAccess(contents=follower.policy.contents, usage=usage)
