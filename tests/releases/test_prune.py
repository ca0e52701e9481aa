"""Pruning keeps what is in use, and frees what only the deleted releases had."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from support.release_bundles import alter, check_clean, check_whole, push_three, write_bundles

from recsys.errors import InvalidInputError, ReleaseError
from recsys.releases.prune import prune
from recsys.releases.release import open_release, release_names
from recsys.releases.status import FRESH_S, ServerStatus, read_statuses, status_file, write_status
from recsys.releases.store import push_release
from recsys.releases.verify import altered_files, shared_bytes


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def store(bundles: Path, tmp_path: Path) -> Path:
    """A store of three releases, of which nothing is served."""
    push_three(tmp_path / "store", bundles)
    (tmp_path / "store" / "served.json").unlink()
    return tmp_path / "store"


def names_of(store: Path, bundles: Path) -> list[str]:
    return [push_release(store, ranking=bundles / each, retrieval=None).name for each in ("first", "second", "third")]


def used_bytes(store: Path) -> int:
    """Bytes of all files, each inode once."""
    found = {path.stat().st_ino: path.stat().st_size for path in store.rglob("*") if path.is_file()}
    return sum(found.values())


def grow_old(store: Path, server: str, age_s: float) -> None:
    then = time.time() - age_s
    os.utime(status_file(store, server), (then, then))


def test_the_newest_stay_and_the_files_of_the_others_are_freed(store: Path, bundles: Path) -> None:
    names, before = names_of(store, bundles), used_bytes(store)
    tried = prune(store, keep=1, dry_run=True)
    assert release_names(store) == sorted(names) and used_bytes(store) == before
    pruned = prune(store, keep=1)
    assert tried == pruned and pruned.removed == tuple(names[:2]) and pruned.kept == {names[2]: "among the newest 1"}
    assert check_whole(store) == [names[2]] and before - used_bytes(store) == pruned.freed_bytes > 0
    check_clean(store)


def test_what_is_served_stays(bundles: Path, tmp_path: Path) -> None:
    names = push_three(tmp_path, bundles)
    pruned = prune(tmp_path, keep=1)
    assert pruned.removed == () and set(pruned.kept) == set(names)
    assert pruned.kept[names[0]] == pruned.kept[names[1]] == "served.json names it"


def test_what_a_server_has_loaded_stays_while_its_status_is_fresh(store: Path, bundles: Path) -> None:
    names = names_of(store, bundles)
    write_status(store, ServerStatus(server="a:1", at="1999-01-01T00:00:00Z", revision=1, loaded=(names[0],)))
    write_status(store, ServerStatus(server="b:1", at="2999-01-01T00:00:00Z", revision=1, loaded=(names[1],)))
    grow_old(store, "b:1", FRESH_S + 30)
    pruned = prune(store, keep=1)
    assert pruned.removed == (names[1],) and pruned.kept[names[0]] == "loaded by a:1" and pruned.servers == ()
    grow_old(store, "b:1", 2 * 86_400)
    assert prune(store, keep=1).servers == ("b:1",) and not status_file(store, "b:1").exists()


def test_nothing_is_deleted_where_it_is_unknown_what_is_in_use(store: Path, bundles: Path) -> None:
    (store / "status").mkdir()
    (store / "status" / "a-1.json").write_text("{")
    with pytest.raises(ReleaseError, match="a-1.json.*what it has loaded is unknown: delete the file"):
        prune(store, keep=1)
    (store / "status" / "a-1.json").unlink()
    (store / "served.json").write_text("{")
    with pytest.raises(ReleaseError, match="served.json: not JSON"):
        prune(store, keep=1)
    assert len(release_names(store)) == 3


def test_the_newest_release_always_stays_so_that_no_number_is_given_twice(store: Path, bundles: Path) -> None:
    with pytest.raises(InvalidInputError, match="keep: 0; allowed: at least 1"):
        prune(store, keep=0)
    names = names_of(store, bundles)
    prune(store, keep=1)
    assert push_release(store, ranking=bundles / "first", retrieval=None).number == 4
    assert names[0] in release_names(store)


def test_a_damaged_release_stays_and_is_named(store: Path, bundles: Path) -> None:
    names = names_of(store, bundles)
    record = store / "releases" / names[0] / "release.json"
    record.unlink()
    pruned = prune(store, keep=1)
    assert pruned.removed == (names[1],) and "its record is damaged" in pruned.kept[names[0]]


def test_files_that_were_altered_or_lost_are_named(store: Path, bundles: Path) -> None:
    folder = open_release(store, names_of(store, bundles)[0])
    assert altered_files(folder, verify="full") == []
    alter(folder.path / "ranking" / "user.onnx")
    assert altered_files(folder, verify="sizes") == []
    (found,) = altered_files(folder, verify="full")
    assert "ranking/user.onnx: was altered" in found
    (folder.path / "ranking" / "tables" / "items.bin").unlink()
    alter(folder.path / "ranking" / "manifest.json")
    (found,) = altered_files(folder, verify="sizes")
    assert re.search("manifest.json", found)
    shutil.copy(bundles / "second" / "manifest.json", folder.path / "ranking" / "manifest.json")
    found = altered_files(folder, verify="sizes")
    assert "is of version" in found[0] and "items.bin: is missing" in found[1]


def test_shared_bytes_are_of_the_files_that_another_release_has(store: Path, bundles: Path) -> None:
    names = names_of(store, bundles)
    graphs = sum((bundles / "first" / name).stat().st_size for name in ("user.onnx", "rank.onnx"))
    assert shared_bytes(open_release(store, names[0])) == graphs
    prune(store, keep=1)
    assert shared_bytes(open_release(store, names[2])) == 0


def test_statuses_of_servers_are_separate_and_stay_in_their_folder(store: Path) -> None:
    status = ServerStatus(server="a:1", at="", revision=1)
    for server in ("a:1", "a:2", "../../etc/x:1"):
        write_status(store, dataclasses.replace(status, server=server))
    assert [each.status.server for each in read_statuses(store)[0]] == ["../../etc/x:1", "a:1", "a:2"]
    assert len(list((store / "status").iterdir())) == 3


def test_a_status_of_a_newer_server_is_read_as_far_as_it_is_known(store: Path) -> None:
    status = ServerStatus(server="a:1", at="", revision=1)
    write_status(store, status)
    file = status_file(store, "a:1")
    file.write_text(json.dumps({**json.loads(file.read_text()), "weather": "fine"}))
    assert [each.status for each in read_statuses(store)[0]] == [status]
