"""Access of a running server: the file that is followed, the check, and what both count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from recsys.serving.rpc.access.check import AccessCheck
from recsys.serving.rpc.access.follow import PolicyFollower
from recsys.serving.rpc.interceptors import Interceptor


@dataclass(frozen=True, slots=True)
class Access:
    """Access of a server; empty while it is off.

    Attributes:
        interceptors: the check.
        sources: counts by label, for ``Telemetry.polling``.
    """

    interceptors: Sequence[Interceptor] = ()
    sources: Mapping[str, Callable[[], dict[str, int]]] = field(default_factory=dict)


@contextmanager
def open_access(file: Path | None) -> Iterator[Access]:
    """Follow an access file for the duration of a ``with`` block.

    Args:
        file: the access file; None: everybody may do everything.

    Raises:
        ConfigError: the file is bad.
    """
    if file is None:
        yield Access()
        return
    follower = PolicyFollower(file)
    check = AccessCheck(lambda: follower.policy)
    sources = {
        "access_refused": check.refused.read,
        "quota_limited": check.limited.read,
        "access_file": follower.counts.read,
    }
    with follower.following():
        yield Access((check,), sources)
