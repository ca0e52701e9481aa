"""A loaded model answers from the tables that were verified, or with an error that names what became of them."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import FEATURES, D, Event, reference_scores, write_tiny_bundle
from support.tiny_retrieval import TEXT_FEATURES, tiny_tables, tiny_text_tables, write_tiny_retrieval
from support.tiny_workers import until

from recsys.bundle import open_bundle
from recsys.errors import BundleError, ModelError
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.history.records import make_events
from recsys.serving.deadline import Deadline
from recsys.serving.inference import ranking_session
from recsys.serving.inference.mapped_pages import can_guard, mappings_of, register, unregister, unregistered
from recsys.serving.inference.ranking_session import RankingSession, open_ranking_session
from recsys.serving.inference.retrieval_session import open_retrieval

needs_guard = pytest.mark.skipif(not can_guard(), reason="the library was not compiled")

ROWS = 1 << 18  # 4 MB: pages of it are on the disk alone once the cache has dropped them
ITEMS = np.random.default_rng(0).normal(size=(ROWS, D)).astype(np.float32)
CANDIDATES = [3, ROWS // 2 + 5, ROWS - 1]
SCORES = reference_scores(events=[Event(item=7)], candidates=CANDIDATES, items=ITEMS)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle", items=ITEMS)
    return tmp_path / "bundle"


@pytest.fixture
def table(bundle: Path) -> Path:
    return bundle / "tables" / "items.bin"


@pytest.fixture
def session(bundle: Path) -> RankingSession:
    return open_ranking_session(open_bundle(bundle), release="tiny-1")


def request() -> EncodedRequest:
    """One event, three candidates far from each other in the table."""
    return encode_request(
        FEATURES,
        user_key=1,
        user_columns={},
        request_values={},
        events=make_events(FEATURES, item=[7], timestamp_ms=[1]),
        item_keys=np.array(CANDIDATES),
        item_columns={},
    )


def score(session: RankingSession) -> list[float]:
    return list(session.score(request(), deadline=Deadline.after(60)).scores.tolist())


def drop_pages(file: Path) -> None:
    """Have the system forget what it has read of a file."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def overwrite(file: Path, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.write(data)


CHANGES: dict[str, Callable[[Path], None]] = {
    "cut to nothing": lambda file: os.truncate(file, 0),
    "cut to half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "grown": lambda file: os.truncate(file, file.stat().st_size + 4096),
    "written over by NaN": lambda file: overwrite(file, b"\xff" * ITEMS.nbytes),
    "one number written over": lambda file: overwrite(file, b"\0\0\0\0"),
    "copied over": lambda file: file.write_bytes(file.read_bytes()),
}


@needs_guard
@pytest.mark.parametrize("change", CHANGES)
def test_a_table_that_was_changed_ends_every_request_with_its_name(
    change: str, session: RankingSession, table: Path
) -> None:
    assert score(session) == pytest.approx(SCORES, abs=1e-6)
    drop_pages(table)
    CHANGES[change](table)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"release 'tiny-1' is damaged: .*tables/items.bin was written to"):
            score(session)
    assert "tables/items.bin" in session.guard.damage()


class ChangedFirst:
    """A graph before whose run a table changes, as another program may do it at that moment."""

    def __init__(self, graph: Any, change: Callable[[], None]) -> None:
        self.graph, self.change = graph, change

    def run(self, *arguments: Any) -> Any:
        self.change()
        return self.graph.run(*arguments)


@needs_guard
@pytest.mark.parametrize("change", CHANGES)
def test_a_table_that_changes_while_a_request_reads_it_is_noticed(
    change: str, session: RankingSession, table: Path
) -> None:
    drop_pages(table)
    session._rank = ChangedFirst(session._rank, lambda: CHANGES[change](table))
    with pytest.raises(ModelError, match=r"release 'tiny-1' is damaged: .*tables/items.bin was written to"):
        score(session)


@needs_guard
def test_a_page_that_cannot_be_read_is_an_error_whatever_the_files_say(session: RankingSession, table: Path) -> None:
    before = table.stat()
    data = table.read_bytes()

    def cut_and_mend() -> None:
        os.truncate(table, 0)
        session._user.run(session._user_outputs, dict(request().user))  # of zeros
        table.write_bytes(data)
        os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))

    session._rank = ChangedFirst(session._rank, cut_and_mend)
    with pytest.raises(ModelError, match="a page of a table could not be read"):
        score(session)


def cut_mapping(file: Path) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Bytes of which none can be read, as of a disk that fails."""
    file.write_bytes(bytes(9000))
    rows = np.memmap(file, dtype=np.uint8, mode="r")
    os.truncate(file, 0)
    return rows


@needs_guard
def test_a_disk_that_fails_to_give_a_page_is_an_error(session: RankingSession, tmp_path: Path) -> None:
    rows = cut_mapping(tmp_path / "another")  # no file of the bundle changes
    numbers = register([(rows.ctypes.data, rows.ctypes.data + 12288)])
    session.guard._ranges.extend(numbers)
    assert score(session) == pytest.approx(SCORES, abs=1e-6)
    assert rows.sum() == 0
    with pytest.raises(ModelError, match="a page of a table could not be read: the disk failed"):
        score(session)


@needs_guard
def test_a_page_that_cannot_be_read_in_loading_is_an_error(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ranking_session.load_graph

    def reading(*arguments: Any, **more: Any) -> Any:
        assert cut_mapping(tmp_path / "another").sum() == 0
        return load(*arguments, **more)

    monkeypatch.setattr(ranking_session, "load_graph", reading)
    with pytest.raises(ModelError, match="a page of a table could not be read while it was loaded"):
        open_ranking_session(open_bundle(bundle))


@needs_guard
def test_a_change_is_found_without_a_request(session: RankingSession, table: Path) -> None:
    assert session.guard.damage() == ""
    os.truncate(table, 100)
    assert f"its size went from {ITEMS.nbytes:,} to 100 bytes" in session.guard.damage()


def test_a_file_that_takes_the_tables_name_does_no_harm(session: RankingSession, table: Path) -> None:
    other = table.with_name("other")
    other.write_bytes(b"\xff" * ITEMS.nbytes)
    other.replace(table)
    assert score(session) == pytest.approx(SCORES, abs=1e-6)
    table.unlink()
    assert score(session) == pytest.approx(SCORES, abs=1e-6)


def test_other_names_of_a_tables_file_do_no_harm(session: RankingSession, table: Path) -> None:
    os.link(table, table.with_name("other"))
    assert score(session) == pytest.approx(SCORES, abs=1e-6)
    table.unlink()
    assert score(session) == pytest.approx(SCORES, abs=1e-6) and session.guard.damage() == ""


def test_a_file_whose_rights_were_changed_is_hashed_and_kept(
    session: RankingSession, table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="recsys.serving")
    table.chmod(0o444)
    assert score(session) == pytest.approx(SCORES, abs=1e-6)
    until(lambda: "tables/items.bin holds what it should" in caplog.text)
    assert score(session) == pytest.approx(SCORES, abs=1e-6) and session.guard.damage() == ""


def test_a_file_whose_time_was_set_back_is_found_by_its_hash(session: RankingSession, table: Path) -> None:
    before = table.stat()
    overwrite(table, b"\0" * 64)
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    until(session.guard.damage)
    with pytest.raises(ModelError, match="tables/items.bin was written to while it was served, and its time set back"):
        score(session)


def test_a_file_that_cannot_be_hashed_for_want_of_descriptors_is_hashed_later(
    session: RankingSession, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duplicate, failures = os.dup, iter(range(1))

    def dup(descriptor: int) -> int:
        if next(failures, None) is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return duplicate(descriptor)

    monkeypatch.setattr(os, "dup", dup)
    before = table.stat()
    overwrite(table, b"\1" * 64)
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    score(session)
    until(lambda: session.guard.damage())
    assert next(failures, None) is None and "its time set back" in session.guard.damage()


def test_numbers_that_are_none_are_an_error_with_the_releases_name(tmp_path: Path) -> None:
    items = ITEMS.copy()
    items[CANDIDATES[1]] = np.nan
    write_tiny_bundle(tmp_path / "nan", items=items)
    session = open_ranking_session(open_bundle(tmp_path / "nan"), release="tiny-2")
    message = r"model 'tiny' of release 'tiny-2' gave no finite number for 1 of 3 candidates"
    with pytest.raises(ModelError, match=message):
        score(session)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_items_whose_scores_are_no_numbers_are_an_error(tmp_path: Path, value: float) -> None:
    tables = tiny_tables()
    tables.users_ND[2, 2] = value
    write_tiny_retrieval(tmp_path / "bundle", tables)
    session = open_retrieval(open_bundle(tmp_path / "bundle"), release="finder-1")
    assert len(session.retrieve(1, np.arange(1, 19), 5).items) == 2
    with pytest.raises(ModelError, match=r"retrieval model 'finder' of release 'finder-1' gave no finite number"):
        session.retrieve(3, np.array([2]), 5)


@needs_guard
@pytest.mark.parametrize("name", ["item_id.rows.bin", "item_id.names.bin"])
def test_a_retrieval_bundles_files_are_guarded_names_among_them(tmp_path: Path, name: str) -> None:
    write_tiny_retrieval(tmp_path / "bundle", tiny_text_tables(5_000), features=TEXT_FEATURES)
    session = open_retrieval(open_bundle(tmp_path / "bundle"), release="finder-1")
    assert session.names is not None
    keys = session.retrieve(1, np.empty(0, dtype=np.int64), 5).items
    file = tmp_path / "bundle" / "tables" / name
    drop_pages(file)
    os.truncate(file, 0)
    with pytest.raises(ModelError, match=f"release 'finder-1' is damaged: .*tables/{name} was written to"):
        session.names.find(keys)
    with pytest.raises(ModelError, match=f"tables/{name}"):
        session.retrieve(1, keys, 5)


def test_a_table_that_changes_between_its_check_and_its_loading_is_refused(bundle: Path, table: Path) -> None:
    opened = open_bundle(bundle)
    overwrite(table, b"\0" * 64)
    with pytest.raises(ModelError, match="tables/items.bin was changed after it was verified"):
        open_ranking_session(opened)


def test_a_table_that_is_cut_short_between_its_check_and_its_loading_is_refused(bundle: Path, table: Path) -> None:
    opened = open_bundle(bundle)
    os.truncate(table, 5000)
    with pytest.raises(BundleError, match=str(bundle)):
        open_ranking_session(opened)


def test_a_restart_hashes_what_changed_since_all_was_hashed(bundle: Path, table: Path) -> None:
    states = open_bundle(bundle).states
    open_bundle(bundle, verify="sizes", verified=states)
    overwrite(table, b"\0" * 64)
    open_bundle(bundle, verify="sizes")
    with pytest.raises(BundleError, match=r"tables/items.bin was altered: its SHA-256"):
        open_bundle(bundle, verify="sizes", verified=states)


def test_a_write_right_after_the_check_changes_the_files_state(bundle: Path, table: Path) -> None:
    for number in range(3):
        overwrite(table, ITEMS[:1].tobytes())  # just now: the clock of files may not have ticked since
        states = open_bundle(bundle, verify="sizes").states
        overwrite(table, bytes([number]))
        assert table.stat().st_mtime_ns != states["tables/items.bin"].modified_ns
        overwrite(table, ITEMS[:1].tobytes())


@needs_guard
def test_what_is_closed_is_guarded_no_more(bundle: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (free,) = numbers = register([(8, 16)])
    unregister(numbers)
    session = open_ranking_session(open_bundle(bundle))
    assert len(os.listdir("/proc/self/fd")) > before
    taken = register([(8, 16)])
    unregister(taken)
    assert taken[0] > free
    del session
    assert len(os.listdir("/proc/self/fd")) == before
    numbers = register([(8, 16)])
    unregister(numbers)
    assert numbers == [free]


@needs_guard
def test_of_mappings_that_the_system_tells_as_one_only_the_new_part_is_guarded(tmp_path: Path) -> None:
    half = 1 << 20
    file = tmp_path / "table"
    file.write_bytes(bytes(2 * half))
    descriptor = os.open(file, os.O_RDONLY)

    def of_half(offset: int) -> mmap.mmap:
        return mmap.mmap(descriptor, half, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ, offset=offset)

    older = of_half(half)
    ((begin, end),) = mappings_of([descriptor], [file])
    of_older = register(unregistered([(begin, end)]))
    newer = of_half(0)
    try:
        ((new_begin, new_end),) = unregistered(mappings_of([descriptor], [file]))
        assert new_end - new_begin == half and not begin <= new_begin < end
        assert unregistered([(begin - 8, begin + 8), (end - 8, end + 8)]) == [(begin - 8, begin), (end, end + 8)]
    finally:
        unregister(of_older)
        older.close()
        newer.close()
        os.close(descriptor)


_OTHERS = """
import faulthandler, mmap, os, sys
import numpy as np
from pathlib import Path
from recsys.bundle import open_bundle
from recsys.serving.inference.ranking_session import open_ranking_session
bundle, handler = Path(sys.argv[1]), sys.argv[2]
if handler == "before":
    faulthandler.enable()
first = open_ranking_session(open_bundle(bundle))
if handler == "after":
    faulthandler.enable()
second = open_ranking_session(open_bundle(bundle))
file = bundle / "other"
file.write_bytes(bytes(9000))
mapped = mmap.mmap(os.open(file, os.O_RDONLY), 0, access=mmap.ACCESS_READ)
table = bundle / "tables" / "items.bin"
os.posix_fadvise(os.open(table, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
os.truncate(table, 0)
ids = {"item_id": np.arange(3), "price": np.zeros(3, dtype="f4"), "user_vector": np.zeros(4, dtype="f4")}
print(second._rank.run(["scores"], ids)[0].tolist(), flush=True)  # of zeros: nothing asks the guard
os.truncate(file, 0)
mapped[5000]
"""


@needs_guard
@pytest.mark.parametrize("handler", ["before", "after", "none"])
def test_a_page_of_no_table_ends_the_process_as_before(bundle: Path, handler: str) -> None:
    arguments = [sys.executable, "-c", _OTHERS, str(bundle), handler]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGBUS and done.stdout == "[0.5, 0.5, 0.5]\n"
    assert ("Fatal Python error: Bus error" in done.stderr) == (handler != "none")
