"""``served.json`` beside what servers say that they serve; waiting until they do what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ReleaseError
from recsys.releases.served import SERVED, Served, ServedModel, read_served
from recsys.releases.status import FRESH_S, SeenStatus, ServerStatus, read_statuses

_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Follower:
    """A server beside ``served.json``.

    Attributes:
        seen: its status.
        differences: what it does not do as the file says, in words; none: it does.
        refused: reason why it will not by itself: it refused what the file says now, or went back from it. Empty: it
            may be on its way.
    """

    seen: SeenStatus
    differences: tuple[str, ...]
    refused: str

    @property
    def server(self) -> str:
        """Name of the server."""
        return self.seen.status.server


def followers(served: Served | None, statuses: Iterable[SeenStatus]) -> list[Follower]:
    """Compare each server with the file, those that differ first."""
    found = [_follower(served, seen) for seen in statuses]
    return sorted(found, key=lambda each: (not each.differences, each.server))


def wait_until_served(
    store: Path, expected: Served, *, timeout_s: float, say: Callable[[str], None] = lambda _: None
) -> list[Follower]:
    """Wait until all servers whose status is fresh do what ``served.json`` says.

    Args:
        store: its folder.
        expected: content to wait for; another one is an error, for then it will never be.
        timeout_s: the longest wait.
        say: called with a line when what is waited for changes.

    Returns:
        The servers, those with an old status, too.

    Raises:
        ReleaseError: a server refused, or went back; the file was changed meanwhile; time is up; no server is there.
    """
    ends_s, said = time.monotonic() + timeout_s, ""
    while True:
        found = read_served(store)
        if found != expected:
            by = "" if found is None else f" by {found.by or 'somebody'} ({found.why or 'no reason given'})"
            raise ReleaseError(f"{store / SERVED} was changed{by} while servers were waited for")
        statuses, unread = read_statuses(store)
        all_servers = followers(found, statuses)
        fresh = [each for each in all_servers if each.seen.fresh]
        behind = [each for each in fresh if each.differences]
        for each in behind:
            if each.refused:
                raise ReleaseError(f"{each.server} does not serve what {SERVED} says: {each.refused}")
        if fresh and not behind and not unread:
            return all_servers
        now = "; ".join([*(_line(each) for each in behind), *unread]) if fresh or unread else _NO_SERVER
        if time.monotonic() >= ends_s:
            raise ReleaseError(f"after {timeout_s:g} s, revision {expected.revision} is not served everywhere: {now}")
        if now != said:
            said = now
            say(now)
        time.sleep(_POLL_S)


_NO_SERVER = f"no server has written its status within {FRESH_S:g} s"


def _line(each: Follower) -> str:
    status = each.seen.status
    phase = ", ".join(part for part in (status.phase, status.progress) if part)
    return f"{each.server}: {', '.join(each.differences)}" + (f" ({phase})" if phase else "")


def _follower(served: Served | None, seen: SeenStatus) -> Follower:
    status, differences, refused = seen.status, [], ""
    models: Mapping[str, ServedModel] = {} if served is None else served.models
    revision = 0 if served is None else served.revision
    if seen.ended:
        differences.append(f"its process has ended without a farewell, and was last seen {seen.age_s:,.0f} s ago")
    elif not seen.fresh:
        differences.append(
            f"its status is {seen.age_s:,.0f} s old: it is gone, or cannot write to the store, and may serve anything"
        )
    wrong = list(_wrong_models(models, status))
    if wrong and status.refused:
        differences.append(f"refused: {status.refused}")
        refused = status.refused if status.revision >= revision else ""
    if wrong and status.revision < revision:
        differences.append(f"is at revision {status.revision} of {revision}")
    return Follower(seen=seen, differences=(*differences, *wrong), refused=refused)


def _wrong_models(models: Mapping[str, ServedModel], status: ServerStatus) -> Iterable[str]:
    for name, wanted in models.items():
        found = status.models.get(name)
        if found is None:
            yield f"does not serve {name}"
            continue
        if found.live != wanted.live:
            yield f"serves {found.live} as {name}, not {wanted.live}"
        for side in ("split", "shadow"):
            ours, theirs = dict(getattr(wanted, side)), dict(getattr(found, side))
            if ours != theirs:
                yield f"{side} of {name} is {shares_text(theirs)}, not {shares_text(ours)}"
    for name in status.models:
        if name not in models:
            yield f"serves {name}, which {SERVED} does not name"


def shares_text(shares: Mapping[str, float]) -> str:
    """Shares in words.

    >>> shares_text({"din-2": 10, "din-3": 2.5})
    'din-2 10 %, din-3 2.5 %'
    >>> shares_text({})
    'none'
    """
    return ", ".join(f"{name} {percent:g} %" for name, percent in shares.items()) or "none"
