"""Servers beside ``served.json``, and the wait for them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.release_bundles import push_three, write_bundles

from recsys.errors import ReleaseError
from recsys.releases.changes import rolled_back
from recsys.releases.following import followers, wait_until_served
from recsys.releases.processes import has_ended, own_process
from recsys.releases.served import Served, ServedModel, read_served
from recsys.releases.status import FRESH_S, SeenStatus, ServerStatus, read_statuses, status_file, write_status
from recsys.releases.store import change_served

SERVED = Served(models={"din": ServedModel(live="b", previous="a", split={"c": 10})}, default="din", revision=5)


def differences(served: Served | None = SERVED, age_s: float = 1.0, **status: object) -> tuple[tuple[str, ...], str]:
    values = {"server": "s:1", "at": "", "revision": 5, "models": SERVED.models, **status}
    (found,) = followers(served, [SeenStatus(status=ServerStatus(**values), age_s=age_s)])  # type: ignore[arg-type]
    return found.differences, found.refused


def test_a_server_that_does_what_the_file_says_differs_in_nothing() -> None:
    assert differences() == ((), "")
    assert differences(models={"din": ServedModel(live="b", split={"c": 10})}) == ((), ""), "previous is not compared"
    assert differences(revision=4) == ((), ""), "the revision alone says nothing: people edit the file"
    assert differences(refused="of another revision") == ((), "")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"models": {}}, "does not serve din"),
        ({"models": {"din": ServedModel(live="a", split={"c": 10})}}, "serves a as din, not b"),
        ({"models": {"din": ServedModel(live="b")}}, "split of din is none, not c 10 %"),
        (
            {"models": {"din": ServedModel(live="b", split={"c": 10}, shadow={"a": 1})}},
            "shadow of din is a 1 %, not none",
        ),
        ({"models": {**SERVED.models, "old": ServedModel(live="a")}}, "serves old, which served.json does not name"),
        ({"models": {}, "revision": 4}, "is at revision 4 of 5"),
        ({"age_s": FRESH_S + 1}, "its status is 61 s old"),
        ({"models": {}, "refused": "drift 0.4"}, "refused: drift 0.4"),
    ],
)
def test_each_difference_is_said(status: dict[str, object], words: str) -> None:
    assert any(words in each for each in differences(**status)[0])  # type: ignore[arg-type]


def test_only_a_refusal_of_this_revision_is_final() -> None:
    wrong = {"models": {"din": ServedModel(live="a")}, "refused": "drift 0.4"}
    assert differences(**wrong)[1] == "drift 0.4"  # type: ignore[arg-type]
    assert differences(**wrong, revision=4)[1] == ""  # type: ignore[arg-type]


def test_a_server_that_was_killed_is_known_to_have_ended_long_before_its_status_is_old(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    name = "import sys; from recsys.releases.processes import own_process; print(own_process(), flush=True)"
    killed = subprocess.Popen([sys.executable, "-c", f"{name}; sys.stdin.read()"], stdin=-1, stdout=-1, text=True)
    assert killed.stdout is not None
    process = killed.stdout.readline().strip()
    write_status(tmp_path, ServerStatus(server="s:1", at="", revision=5, models=SERVED.models, process=process))

    def differences_now() -> tuple[str, ...]:
        (found,) = followers(SERVED, read_statuses(tmp_path)[0])
        return found.differences

    try:
        assert differences_now() == ()
        killed.kill()
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # and nobody has asked for its exit code yet
        assert "its process has ended without a farewell" in differences_now()[0]
    finally:
        killed.communicate()
    assert "its process has ended without a farewell" in differences_now()[0]


def test_a_process_of_another_machine_container_or_start_is_not_taken_for_one_of_ours() -> None:
    place, number, start = own_process().split("/")
    boot, namespace = place.split(":")
    assert not has_ended(own_process())
    assert has_ended(f"{place}/{number}/{int(start) + 1}"), "another process had this number"
    for other in (f"{boot[:-1]}x:{namespace}", f"{boot}:{namespace}0", "nonsense", ""):
        assert not has_ended(f"{other}/{2**22 + 1}/{start}")
    for damaged in (f"{place}/../{start}", f"{place}/", f"{place}/-1/{start}", "/", ""):
        assert not has_ended(damaged)
    assert has_ended(f"{place}/{2**22 + 1}/{start}"), "the largest number of a process is 2**22"


def test_servers_that_differ_come_first() -> None:
    statuses = [
        SeenStatus(status=ServerStatus(server=name, at="", revision=5, models=models), age_s=1.0)
        for name, models in (("a", SERVED.models), ("b", {}), ("c", SERVED.models))
    ]
    assert [each.server for each in followers(SERVED, statuses)] == ["b", "a", "c"]
    assert followers(None, []) == []


@pytest.fixture
def store(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    push_three(tmp_path, write_bundles(tmp_path_factory.mktemp("bundles")))
    return tmp_path


def status_of(store: Path, server: str = "s:1", **more: object) -> ServerStatus:
    served = read_served(store)
    assert served is not None
    values = {"server": server, "at": "", "revision": served.revision, "models": served.models, **more}
    return ServerStatus(**values)  # type: ignore[arg-type]


def wait(store: Path, timeout_s: float, said: list[str] | None = None) -> list[str]:
    served = read_served(store)
    assert served is not None
    say = (said if said is not None else []).append
    return [each.server for each in wait_until_served(store, served, timeout_s=timeout_s, say=say)]


def test_the_wait_ends_when_all_servers_follow(store: Path) -> None:
    write_status(store, status_of(store))
    late = status_of(store, "t:1")
    write_status(store, dataclasses.replace(late, models={}, revision=1, phase="loading", progress="40 %"))
    timer = threading.Timer(0.5, lambda: write_status(store, late))
    timer.start()
    said: list[str] = []
    assert wait(store, 20.0, said) == ["s:1", "t:1"]
    assert said == ["t:1: is at revision 1 of 2, does not serve tiny (loading, 40 %)"]
    timer.join()


def test_the_wait_fails_with_the_reason_of_a_server_that_refused(store: Path) -> None:
    write_status(store, status_of(store, models={}, refused="drift 0.4 > 0.2"))
    begun_s = time.monotonic()
    with pytest.raises(ReleaseError, match="s:1 does not serve what served.json says: drift 0.4 > 0.2"):
        wait(store, 20.0)
    assert time.monotonic() - begun_s < 10.0


def test_the_wait_fails_when_time_is_up_or_no_server_is_there(store: Path) -> None:
    with pytest.raises(ReleaseError, match="after 0.1 s, revision 2 .*: no server has written its status within 60 s"):
        wait(store, 0.1)
    write_status(store, status_of(store, models={}))
    with pytest.raises(ReleaseError, match="s:1: does not serve tiny"):
        wait(store, 0.1)


def test_the_wait_fails_when_the_file_is_changed_meanwhile(store: Path) -> None:
    before = read_served(store)
    assert before is not None
    change_served(store, lambda served: rolled_back(served, "tiny"), why="it is worse")
    with pytest.raises(ReleaseError, match="was changed by .*it is worse"):
        wait_until_served(store, before, timeout_s=20.0)


def test_the_wait_is_not_for_a_server_that_is_gone(store: Path) -> None:
    write_status(store, status_of(store))
    write_status(store, status_of(store, "gone:1", models={}))
    then = time.time() - FRESH_S - 10
    os.utime(status_file(store, "gone:1"), (then, then))
    assert sorted(wait(store, 20.0)) == ["gone:1", "s:1"]


def test_age_is_by_the_clock_of_the_files_not_by_what_a_server_says(store: Path) -> None:
    for server, at in (("early:1", "1999-01-01T00:00:00Z"), ("late:1", "2999-01-01T00:00:00Z")):
        write_status(store, dataclasses.replace(status_of(store, server), at=at))
    seen, damaged = read_statuses(store)
    assert [each.fresh for each in seen] == [True, True] and damaged == []
    assert not list((store / "status").glob(".*"))
