"""Check of releases before they are loaded, in a process of its own at low priority.

Hashing in a serving process tripled its p99. Reading the files through also brings their pages into memory, where the
workers will find them. What was checked once on this machine is only read ahead.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import pickle
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, NamedTuple

from recsys.bundle import Bundle, open_bundle
from recsys.bundle.index import CODES, ROWS
from recsys.bundle.verified import VerifiedFiles, digest_in_pieces
from recsys.bundle.verify import FileState, Verify
from recsys.errors import BundleError, RecsysError, ReleaseError, StoreError
from recsys.serving.inference.mapped_pages import read_ahead
from recsys.serving.inference.memory import tables_bytes, two_fit
from recsys.serving.logs import configure_logs
from recsys.serving.process.children import LOG_FORMAT, start_python
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.scheduling import use_idle_scheduling
from recsys.serving.settings import Settings

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IDLE_CLASS = 3 << 13
_COLD_SHARE = 0.05
"""Share of users without a state from which on it is said."""

_REPORT_BYTES = 64 << 20
_PROGRAM = "from recsys.serving.process.releases import check; check.main()"


@dataclass(frozen=True, kw_only=True)
class CheckTask:
    """Releases to check, and how.

    Attributes:
        releases: whose files are checked.
        verify: ``full`` hashes files, ``sizes`` looks at their presence and size.
        redis_url: of the store, which is asked for the states of long histories; None: it is not.
        state_ttl_s: how long states are kept: users without an event since have none.
    """

    releases: tuple[PlannedRelease, ...]
    verify: Verify
    redis_url: str | None = dataclasses.field(default=None, repr=False)
    state_ttl_s: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckProgress:
    """Bytes read so far, and of all files."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Checked:
    """All is well with the files.

    Attributes:
        states: of each folder's files, just before they were read (``Bundle.states``).
        cold: release -> what is to be said of users whose states it lacks.
    """

    states: Mapping[Path, Mapping[str, FileState]]
    cold: Mapping[str, str] = field(default_factory=dict)


CheckMessage = CheckProgress | RecsysError | Checked
"""Of the process that checks; the last one is what it refused, or what it found well."""


class CheckEvent(NamedTuple):
    """A message about the plan of that number."""

    number: int
    message: CheckMessage


def check_task(releases: tuple[PlannedRelease, ...], settings: Settings) -> CheckTask:
    """The check of releases in a server of these settings."""
    return CheckTask(
        releases=releases,
        verify=settings.verify,
        redis_url=settings.redis_url,
        state_ttl_s=settings.state_ttl_s,
    )


def check_releases(task: CheckTask, *, progress: Callable[[CheckProgress], None], verified: VerifiedFiles) -> Checked:
    """Compare the files of releases with their manifests, and read them ahead if there is room.

    Raises:
        BundleError: a bundle is missing, incomplete, altered, or of a newer format.
    """
    opened = {path: open_bundle(path, verify="sizes") for release in task.releases for path in release.bundles()}
    bundles = list(opened.values())
    total = sum(size for bundle in bundles for size, _ in bundle.manifest.files.values())
    # Where two such releases have no room in memory, what is read here would push out what answers now
    keep = two_fit(sum(tables_bytes(bundle) for bundle in bundles))
    done = reported = 0

    def read(count: int) -> None:
        nonlocal done, reported
        done += count
        if done - reported >= _REPORT_BYTES or done == total:
            reported = done
            progress(CheckProgress(done_bytes=done, total_bytes=total))

    for bundle in bundles:
        for name, (size, digest) in bundle.manifest.files.items():
            file = bundle.path / name
            # Beside codes, few of the items' vectors are read by a search, and those wait for the disk once.
            wanted = keep and not (name == ROWS and CODES in bundle.manifest.files)
            if task.verify == "sizes" or verified.holds(file, digest):
                if wanted:
                    with file.open("rb", buffering=0) as stream:
                        read_ahead(stream.fileno())
                read(size)
                continue
            status, found = digest_in_pieces(file, read=read, keep=wanted)
            if found != digest:
                raise BundleError(f"{bundle.path}: {name} was altered: its SHA-256 is not the manifest's")
            verified.add(status, digest)
    return Checked(states={bundle.path: bundle.states for bundle in bundles}, cold=_cold(task, opened))


def _cold(task: CheckTask, opened: Mapping[Path, Bundle]) -> dict[str, str]:
    """Releases without states of many users with long histories."""
    cold = {}
    for release in task.releases:
        bundle = None if release.ranking is None else opened[release.ranking]
        if bundle is None or bundle.manifest.state is None or task.redis_url is None:
            continue
        # Imported here: only models with a state need it.
        from recsys.serving.long_history.precompute import open_store
        from recsys.serving.long_history.users import cold_states

        try:
            with open_store(task.redis_url, bundle.features) as store:
                found = cold_states(bundle, store, active_within_s=task.state_ttl_s)
        except StoreError as error:
            cold[release.name] = f"states of long histories could not be looked for: {error}"
            continue
        if found.share > _COLD_SHARE:
            cold[release.name] = (
                f"{100 * found.share:.0f} % of {found.looked_at} users with long histories have no state for this "
                "release: their first requests read all their events; `recsys precompute-states` makes states first"
            )
    return cold


def with_states(plan: Plan, checked: Checked) -> Plan:
    """The plan with the states of files that were checked: who loads them hashes those that were changed since."""
    releases = {}
    for name, release in plan.releases.items():
        own = {path: checked.states[path] for path in release.bundles() if path in checked.states}
        releases[name] = dataclasses.replace(release, verified={**release.verified, **own})
    return dataclasses.replace(plan, releases=releases)


class Check:
    """A running check; its events come into a queue.

    Args:
        number: of the plan, in each event.
        task: what to check.
        events: gets a :class:`CheckEvent` for each report, the last one with an error or :class:`Checked`.

    Raises:
        ReleaseError: no process can be started.
    """

    def __init__(self, number: int, task: CheckTask, events: SimpleQueue[Any]) -> None:
        try:
            self._process = start_python("-c", _PROGRAM, first=task)
        except OSError as error:  # no memory or no process to be had
            raise ReleaseError(f"no process to check the files with: {error.strerror}; try again") from error
        # From here, and at once: its imports alone take a core for a third of a second
        use_idle_scheduling(self._process.pid)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        threading.Thread(target=self._read, args=(number, events), name="check", daemon=True).start()

    def stop(self) -> None:
        """End it; an event of its end may come yet."""
        self._process.kill()

    def _read(self, number: int, events: SimpleQueue[Any]) -> None:
        assert self._process.stdout is not None
        ended = False
        with contextlib.suppress(Exception), self._process.stdout as stream:
            while not ended:
                message = pickle.load(stream)
                ended = not isinstance(message, CheckProgress)
                events.put(CheckEvent(number, message))
        code = self._process.wait()
        if not ended:
            events.put(CheckEvent(number, BundleError(f"the check of the files ended with code {code}")))


def main() -> None:
    """Check what comes on standard input."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    configure_logs("json" if os.environ.get(LOG_FORMAT) == "json" else "text")
    task: CheckTask = pickle.load(sys.stdin.buffer)
    _lower_priority()
    message: RecsysError | Checked
    try:
        message = check_releases(task, progress=lambda p: _send(output, p), verified=VerifiedFiles())
    except RecsysError as error:
        message = error
    except OSError as error:
        message = BundleError(f"{error.filename}: {error.strerror}")
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        _send(output, message)


def _send(output: IO[bytes], message: CheckMessage) -> None:
    output.write(pickle.dumps(message))
    output.flush()


def _lower_priority() -> None:
    """Leave the disk to those who serve; the processor is left to them from the start."""
    call = _IOPRIO_SET.get(platform.machine())
    if call is not None and sys.platform == "linux":
        ctypes.CDLL(None).syscall(call, 1, 0, _IDLE_CLASS)
