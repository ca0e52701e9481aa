"""Access of a running server: the file that is followed, the check, and what both count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from recsys.serving.rpc.access.check import AccessCheck
from recsys.serving.rpc.access.follow import PolicyFollower
from recsys.serving.rpc.access.quotas import Quotas
from recsys.serving.rpc.access.shared import SharedAccess
from recsys.serving.rpc.access.usage import Usage
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
def open_access(file: Path | None, *, shared: SharedAccess | None = None, worker: int = 0) -> Iterator[Access]:
    """Follow an access file for the duration of a ``with`` block.

    Args:
        file: the access file; None: everybody may do everything.
        shared: of all workers; None: this process is the only one.
        worker: its number among them, from 0.

    Raises:
        ConfigError: the file is bad, and no good one is shared.
    """
    if file is None:
        yield Access()
        return
    follower = PolicyFollower(file, fallback=None if shared is None else shared.contents)
    quotas = Quotas(usage=None if shared is None else Usage(shared.usage, worker=worker))
    check = AccessCheck(lambda: follower.policy, quotas=quotas)
    sources = {
        "access_refused": check.refused.read,
        "quota_limited": check.limited.read,
        "access_file": follower.counts.read,
    }
    with follower.following():
        yield Access((check,), sources)
