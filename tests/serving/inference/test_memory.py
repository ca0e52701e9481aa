"""Memory of two releases at a time: whether it is there, and what is done where it is not."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import ITEMS

from recsys.bundle import open_bundle
from recsys.bundle.verified import digest_in_pieces
from recsys.serving.inference import mapped_pages, table_guard
from recsys.serving.inference.memory import two_fit
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.serving.process import startup
from recsys.serving.process.models import Models
from recsys.serving.settings import Settings


@pytest.mark.parametrize("limit", ["_total_bytes", "group_limit_bytes"])
def test_two_tables_fit_if_they_fill_nine_tenths_of_what_there_is_at_most(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"recsys.serving.inference.memory.{limit}", lambda: 1_000)
    assert two_fit(450) and not two_fit(451)


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_has_the_same_hash_whether_its_pages_are_kept_or_not(tmp_path: Path, keep: bool) -> None:
    content, pieces = np.random.default_rng(1).bytes(9 << 20), list[int]()
    (tmp_path / "file").write_bytes(content)
    status, digest = digest_in_pieces(tmp_path / "file", read=pieces.append, keep=keep)
    assert digest == hashlib.sha256(content).hexdigest()
    assert (sum(pieces), status.st_size) == (len(content), len(content)) and len(pieces) == 3


def test_tables_are_read_as_the_settings_say_also_where_hot_rows_are_not_read_ahead(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[Path] = []
    monkeypatch.setattr(startup, "two_fit", lambda size_bytes: False)
    monkeypatch.setattr(startup, "advise_random", lambda bundle: advised.append(bundle.path) or 0)
    models = Models(open_ranking_session(open_bundle(tiny_bundle)), None)
    startup.prepare_models(models, Settings(table_reads="random"), beside_others=True)
    assert advised == [tiny_bundle]
    startup.prepare_models(models, Settings(table_reads="ahead"), beside_others=True)
    assert advised == [tiny_bundle]


def test_with_releases_tables_of_which_two_have_no_room_are_read_at_random(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[Path] = []
    monkeypatch.setattr(startup, "two_fit", lambda size_bytes: False)
    monkeypatch.setattr(startup, "advise_random", lambda bundle: advised.append(bundle.path) or 0)
    models = Models(open_ranking_session(open_bundle(tiny_bundle)), None)
    startup.prepare_models(models, Settings(bundle=tiny_bundle))
    assert not advised, "no other release comes beside it"
    startup.prepare_models(models, Settings(releases=tiny_bundle))
    assert advised == [tiny_bundle]


@pytest.mark.parametrize("room", [True, False])
def test_the_pages_of_a_table_that_rests_leave_memory_where_two_have_no_room(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    monkeypatch.setattr(table_guard, "two_fit", lambda size_bytes: room)
    let_go: list[list[int]] = []
    monkeypatch.setattr(table_guard, "let_pages_go", lambda numbers: let_go.append(list(numbers)))
    session = open_ranking_session(open_bundle(tiny_bundle))
    session.guard.rest()
    assert len(let_go) == (0 if room else 1)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="asks the Linux page cache")
def test_a_file_is_read_ahead_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(bytes(40 << 20))
    with path.open("rb", buffering=0) as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        mapped_pages.read_ahead(stream.fileno())
        until_s = time.monotonic() + 30
        missing = list(range(0, 40 << 20, 1 << 20))
        while missing and time.monotonic() < until_s:
            missing = [offset for offset in missing if not _is_in_memory(stream.fileno(), offset)]
        assert not missing


def _is_in_memory(descriptor: int, offset: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError:  # tmpfs: always in memory
        return True


def test_tables_that_were_let_go_or_rest_are_read_as_before(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_guard, "two_fit", lambda size_bytes: False)
    session = open_ranking_session(open_bundle(tiny_bundle))
    mapped = np.memmap(tiny_bundle / "tables" / "items.bin", dtype="<f4", mode="r", shape=ITEMS.shape)
    for step in (session.guard.rest, session.guard.let_pages_go):
        step()
        np.testing.assert_array_equal(mapped, ITEMS)
        session.guard.check()
