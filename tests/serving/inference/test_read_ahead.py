"""Reading the pages of hot ids ahead: what it touches, that it ends, and what hot ids may be."""

import math
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.tiny_bundle import write_tiny_bundle

from recsys.bundle import open_bundle
from recsys.errors import InvalidInputError
from recsys.features.encode import EncodedRequest
from recsys.features.hashing import KEY_LIMIT
from recsys.features.hot_ids import HotIds, read_hot_ids, write_hot_ids
from recsys.serving.deadline import Deadline
from recsys.serving.inference.memory import group_limit_bytes
from recsys.serving.inference.ranking_session import RankingSession, Scores, open_ranking_session
from recsys.serving.inference.read_ahead import advise_random, in_memory, read_pages_ahead


@pytest.fixture
def session(tmp_path: Path) -> RankingSession:
    write_tiny_bundle(tmp_path / "bundle")
    return open_ranking_session(open_bundle(tmp_path / "bundle"))


class Noting:
    """A session that notes what it is asked; it stands before the real one, which answers."""

    def __init__(self, session: RankingSession) -> None:
        self.features = session.features
        self.users: list[int] = []
        self.items: list[list[int]] = []
        self._session = session

    def score(self, request: EncodedRequest, *, deadline: Deadline) -> Scores:
        self.users.append(int(request.user["user_id"][0]))
        self.items.append(request.candidates["item_id"].tolist())
        return self._session.score(request, deadline=deadline)


@pytest.mark.parametrize(("users", "items"), [(3, 1000), (1000, 3), (0, 7), (7, 0), (0, 0)])
def test_every_hot_id_is_looked_up_and_the_hottest_first(session: RankingSession, users: int, items: int) -> None:
    hot = HotIds(users=np.arange(users), items=np.arange(items) + 5)
    noting = Noting(session)
    done = read_pages_ahead(noting, hot, threads=1)  # type: ignore[arg-type]
    looked_up = [item for chunk in noting.items for item in chunk]
    assert list(dict.fromkeys(looked_up))[:items] == hot.items.tolist()
    assert list(dict.fromkeys(noting.users))[:users] == hot.users.tolist()
    assert (done.users, done.items, done.complete) == (users, items, True)


def test_threads_look_up_every_id_too(session: RankingSession) -> None:
    hot = HotIds(users=np.arange(500), items=np.arange(5000))
    noting = Noting(session)
    assert read_pages_ahead(noting, hot, threads=8).complete  # type: ignore[arg-type]
    assert {item for chunk in noting.items for item in chunk} >= set(range(5000))
    assert set(noting.users) >= set(range(500))


def test_read_ahead_ends_when_its_time_is_over(session: RankingSession) -> None:
    done = read_pages_ahead(session, HotIds(users=np.arange(10), items=np.arange(10)), timeout_s=0.0)
    assert not done.complete
    assert done.users == done.items == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux page cache")
def test_the_mapped_tables_are_told_to_be_read_at_random(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert advise_random(bundle) == 0, "nothing is mapped yet"
    session = open_ranking_session(bundle)
    told = advise_random(bundle)
    assert told % mmap.PAGESIZE == 0
    flags = [
        rows.split()
        for mapping in _mappings(str(bundle.path / "tables"))
        for rows in mapping.splitlines()
        if rows.startswith("VmFlags")
    ]
    assert len(flags) * mmap.PAGESIZE == told  # each table of this bundle is a page
    assert all("rr" in words for words in flags)
    del session


def test_hot_ids_survive_a_file(tmp_path: Path) -> None:
    hot = HotIds(users=np.array([3, 1], dtype=np.int64), items=np.array([KEY_LIMIT - 1], dtype=np.int64))
    write_hot_ids(tmp_path / "hot.npz", hot)
    read = read_hot_ids(tmp_path / "hot.npz")
    np.testing.assert_array_equal(read.users, hot.users)
    np.testing.assert_array_equal(read.items, hot.items)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    expected = "expected: an .npz with int64 arrays 'users' and 'items'"
    file = tmp_path / "hot.npz"
    with pytest.raises(InvalidInputError, match=expected):
        read_hot_ids(file)
    for content in (b"", b"text", b"PK\x03\x04 cut off"):
        file.write_bytes(content)
        with pytest.raises(InvalidInputError, match=expected):
            read_hot_ids(file)
    np.savez(file, users=np.arange(3))
    with pytest.raises(InvalidInputError, match=expected):
        read_hot_ids(file)


@pytest.mark.parametrize("items", [np.arange(3.0), np.array([[1]]), np.array([-1]), np.array([KEY_LIMIT])])
def test_hot_ids_that_are_no_keys_are_refused(items: npt.NDArray[Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "hot.npz", users=np.arange(3), items=items)
    with pytest.raises(InvalidInputError, match="'items' is .*; allowed: int64, .* keys from 0 to"):
        read_hot_ids(tmp_path / "hot.npz")


def _mappings(folder: str) -> list[str]:
    """Entries of this process's /proc/self/smaps for files under a folder."""
    entries: list[str] = []
    for row in Path("/proc/self/smaps").read_text().splitlines():
        if row.split(maxsplit=1)[0].count("-") == 1 and not row.split(maxsplit=1)[0].endswith(":"):
            entries.append(row)
        else:
            entries[-1] += f"\n{row}"
    return [entry for entry in entries if f"{folder}/" in entry.splitlines()[0]]


def test_a_signal_ends_read_ahead_at_once(session: RankingSession) -> None:
    class Interrupted(Noting):
        def score(self, request: EncodedRequest, *, deadline: Deadline) -> Scores:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            return super().score(request, deadline=deadline)

    asked = Interrupted(session)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            read_pages_ahead(asked, HotIds(users=np.arange(10_000), items=np.arange(1)), threads=2)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(asked.users) < 1000


def test_an_error_of_one_thread_ends_the_others(session: RankingSession) -> None:
    class Failing(Noting):
        def score(self, request: EncodedRequest, *, deadline: Deadline) -> Scores:
            if int(request.user["user_id"][0]) == 5:
                raise RuntimeError("a page cannot be read")
            time.sleep(0.001)
            return super().score(request, deadline=deadline)

    asked = Failing(session)
    with pytest.raises(RuntimeError, match="a page cannot be read"):
        read_pages_ahead(asked, HotIds(users=np.arange(10_000), items=np.arange(1)), threads=2)  # type: ignore[arg-type]
    assert len(asked.users) < 1000


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": "2000", "a/b/memory.max": "max"}, 2000),
        ("0::/a/b\n", {"a/memory.max": "2000", "a/b/memory.max": "1000"}, 1000),
        ("0::/outside/of/the/container\n", {"memory.max": "3000"}, 3000),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "4000"}, 4000),
        ("4:cpu:/a\n", {"a/memory.max": "1000"}, math.inf),
        ("0::/a\n", {"a/memory.max": "max"}, math.inf),
    ],
)
def test_the_least_limit_of_the_control_groups_counts(
    groups: str, files: dict[str, str], limit: float, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(f"{text}\n")
    assert group_limit_bytes(tmp_path / "cgroup", tmp_path / "fs") == limit


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert group_limit_bytes(tmp_path / "none") == math.inf


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="asks for reads that do not wait")
def test_tables_are_in_memory_once_they_are_read_and_not_after_they_are_dropped(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    (table,) = (bundle.path / "tables").iterdir()
    table.read_bytes()
    if not in_memory(bundle):
        pytest.skip("this file system does not tell")
    deadline_s = time.monotonic() + 30
    while in_memory(bundle):  # a page that the system works with at the moment is not dropped
        assert time.monotonic() < deadline_s
        with table.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
