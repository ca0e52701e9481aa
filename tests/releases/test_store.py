"""The store as a whole: names, and ``served.json``, which one at a time changes."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.release_bundles import as_nobody, push_three, write_bundles

from recsys.errors import ConfigError, InvalidInputError, ReleaseError
from recsys.releases.changes import promoted, rolled_back, with_split
from recsys.releases.lock import store_lock
from recsys.releases.release import BundleRecord, Release, find_releases, open_release, release_text
from recsys.releases.served import Served, ServedModel, parse_served, read_served, served_text, write_served
from recsys.releases.status import ServerStatus, read_statuses, status_text, write_status
from recsys.releases.store import change_served, find_release, list_releases, push_release

GOLDEN = ROOT / "tests" / "golden"
RELEASE = Release(
    name="din-81357762411c",
    ranking=BundleRecord(model="din", version="0123456789abcdef", size_bytes=1_234),
    retrieval=None,
    feature_set="shop",
    feature_set_fingerprint="fedcba9876543210",
    number=7,
    metrics={"auc": 0.75, "gauc": None},
    certificate={
        "requests": 64,
        "candidates": 640,
        "max_abs_logit_difference": 1e-06,
        "tolerance": 0.0001,
        "compared": "torch 2.13.0, onnxruntime 1.31.0",
    },
    by="ann@ci-3",
    at="2026-03-01T12:00:00Z",
    note="more days: größer",
)
SERVED = Served(
    models={
        "sdim": ServedModel(live="sdim-0d3c41e5b6a7"),
        "din": ServedModel(
            live="din-81357762411c",
            previous="din-0d3c41e5b6a7",
            split={"din-42aa6b1f0c9d": 10},
            shadow={"din-42aa6b1f0c9d": 2.5},
        ),
    },
    default="din",
    revision=7,
    by="ann@ci-3",
    at="2026-03-01T12:00:00Z",
    why="more days",
)
STATUS = ServerStatus(
    server="ranker-1:50051",
    at="2026-03-01T12:00:05Z",
    revision=7,
    phase="watching",
    progress="60 of 300 s",
    models={"din": ServedModel(live="din-81357762411c", split={"din-42aa6b1f0c9d": 10})},
    loaded=("din-81357762411c", "din-42aa6b1f0c9d"),
    refused="",
    warnings=("the store is slow",),
    releases={"din-81357762411c": {"answered": 12}},
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


def test_release_json_has_the_bytes_of_its_specification(tmp_path: Path) -> None:
    golden = (GOLDEN / "release_v1.json").read_bytes()
    assert release_text(RELEASE).encode() == golden
    folder = tmp_path / "releases" / RELEASE.name
    folder.mkdir(parents=True)
    (folder / "release.json").write_bytes(golden)
    assert open_release(tmp_path, RELEASE.name).release == RELEASE


def test_served_json_has_the_bytes_of_its_specification() -> None:
    golden = (GOLDEN / "served_v1.json").read_bytes()
    assert served_text(SERVED).encode() == golden
    assert parse_served(golden.decode(), where="it") == SERVED


def test_a_status_has_the_bytes_of_its_specification(tmp_path: Path) -> None:
    golden = (GOLDEN / "status_v1.json").read_bytes()
    assert status_text(STATUS).encode() == golden
    write_status(tmp_path, STATUS)
    assert (tmp_path / "status" / "ranker-1-50051.json").read_bytes() == golden
    ((seen,), damaged) = read_statuses(tmp_path)
    assert seen.status == STATUS and damaged == []


def test_the_served_json_of_the_specification_is_one() -> None:
    page = (ROOT / "docs" / "specs" / "releases.md").read_text()
    (text,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert parse_served(text, where="the page").models["din"].split == {"din-42aa6b1f0c9d": 10}


def test_a_newer_format_and_a_renamed_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "releases" / RELEASE.name
    folder.mkdir(parents=True)
    newer = release_text(RELEASE).replace('"format_version": 1', '"format_version": 2')
    (folder / "release.json").write_text(newer)
    with pytest.raises(ReleaseError, match="format 2, but this program reads up to 1: upgrade it"):
        open_release(tmp_path, RELEASE.name)
    (folder / "release.json").write_text(release_text(RELEASE))
    folder.rename(folder.with_name("other"))
    with pytest.raises(ReleaseError, match="the folder was renamed"):
        open_release(tmp_path, "other")


def test_a_release_is_found_by_a_beginning_that_only_it_has(bundles: Path, tmp_path: Path) -> None:
    names = push_three(tmp_path, bundles)
    for name in names:
        assert find_release(tmp_path, name).release.name == find_release(tmp_path, name[:8]).release.name == name
    with pytest.raises(ReleaseError, match=f"'tiny-' fits several releases: {', '.join(sorted(names))}"):
        find_release(tmp_path, "tiny-")
    with pytest.raises(ReleaseError, match=f"no release '{names[0]}x': did you mean '{names[0]}'"):
        find_release(tmp_path, f"{names[0]}x")
    with pytest.raises(ReleaseError, match="no release ''"):
        find_release(tmp_path, "")


def test_a_damaged_record_hides_no_other_release(bundles: Path, tmp_path: Path) -> None:
    names = push_three(tmp_path, bundles)
    record = tmp_path / "releases" / names[1] / "release.json"
    record.unlink()
    record.write_text("{")
    found, damaged = find_releases(tmp_path)
    assert [each.release.name for each in found] == [names[0], names[2]]
    assert len(damaged) == 1 and str(record) in damaged[0]
    with pytest.raises(ReleaseError, match="not readable"):
        list_releases(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("number", "1", "number: '1'; expected a whole number"),
        ("note", 5, "note: 5; expected a text"),
        ("metrics", None, "metrics: None; expected an object"),
        ("metrics", {"auc": "high"}, "metrics['auc']: 'high'; expected a number or null"),
        ("ranking", {"model": "tiny", "version": "x", "size_bytes": "3"}, "ranking.size_bytes: '3'; expected"),
    ],
)
def test_a_record_whose_field_is_of_another_kind_is_damaged_and_names_it(
    bundles: Path, tmp_path: Path, field: str, value: Any, says: str
) -> None:
    name = push_three(tmp_path, bundles)[1]
    record = tmp_path / "releases" / name / "release.json"
    values = {**json.loads(record.read_text()), field: value}
    record.unlink()
    record.write_text(json.dumps(values))
    found, damaged = find_releases(tmp_path)
    assert len(found) == 2 and len(damaged) == 1 and f"{record}: malformed: {says}" in damaged[0]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("models", None, "models: None; expected an object"),
        ("models", {"tiny": []}, "models.tiny: []; expected an object"),
        ("loaded", "tiny-1", "loaded: 'tiny-1'; expected a list"),
        ("loaded", [1], "loaded: [1]; expected texts"),
        ("revision", "2", "revision: '2'; expected a whole number"),
    ],
)
def test_a_status_whose_field_is_of_another_kind_is_none_and_names_it(
    tmp_path: Path, field: str, value: Any, says: str
) -> None:
    write_status(tmp_path, ServerStatus(server="s:1", at="", revision=2))
    file = tmp_path / "status" / "s-1.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    found, damaged = read_statuses(tmp_path)
    assert found == [] and len(damaged) == 1 and str(file) in damaged[0] and says in damaged[0]


def test_what_a_newer_server_says_more_of_itself_and_of_a_model_is_passed_over(tmp_path: Path) -> None:
    status = ServerStatus(server="s:1", at="", revision=2, models={"tiny": ServedModel(live="tiny-1")})
    write_status(tmp_path, status)
    file = tmp_path / "status" / "s-1.json"
    values = json.loads(file.read_text())
    values["mood"] = values["models"]["tiny"]["mood"] = "good"
    file.write_text(json.dumps(values))
    (seen,), damaged = read_statuses(tmp_path)
    assert seen.status == status and damaged == []


def test_a_store_that_is_away_is_named(tmp_path: Path) -> None:
    for look in (list_releases, read_served):
        with pytest.raises(ReleaseError, match=f"{tmp_path / 'away'}: no such folder"):
            look(tmp_path / "away")
    with pytest.raises(ReleaseError, match="no such folder"):
        change_served(tmp_path / "away", lambda served: promoted(served, "din", "din-1"), why="")
    assert not (tmp_path / "away").exists()


def test_a_change_has_the_next_revision_and_says_who_when_and_why(bundles: Path, tmp_path: Path) -> None:
    name = push_release(tmp_path, ranking=bundles / "first", retrieval=None).name
    first = change_served(tmp_path, lambda served: promoted(served, "tiny", name), why="begin")
    assert (first.revision, first.why) == (1, "begin") and "@" in first.by and first.at.endswith("Z")
    assert read_served(tmp_path) == first
    again = change_served(tmp_path, lambda served: promoted(served, "tiny", name), why="again")
    assert again == first == read_served(tmp_path), "the same models change nothing"


def test_of_two_people_one_wins_and_the_other_is_told_who_and_why(bundles: Path, tmp_path: Path) -> None:
    names = push_three(tmp_path, bundles)
    before = read_served(tmp_path)
    won = change_served(tmp_path, lambda served: rolled_back(served, "tiny"), expected=before, why="it is worse")
    with pytest.raises(ReleaseError) as refused:
        change_served(tmp_path, lambda served: promoted(served, "tiny", names[2]), expected=before, why="newer")
    for part in (won.by, won.at, "it is worse", f"revision {won.revision} where {won.revision - 1} was expected"):
        assert part in str(refused.value)
    assert read_served(tmp_path) == won
    by_hand = dataclasses.replace(won, models={"tiny": ServedModel(live=names[0])})
    write_served(tmp_path, by_hand)
    with pytest.raises(ReleaseError, match="by hand: the revision is the same"):
        change_served(tmp_path, lambda served: promoted(served, "tiny", names[2]), expected=won, why="newer")


def test_of_many_at_once_that_decided_on_the_same_content_exactly_one_wins(bundles: Path, tmp_path: Path) -> None:
    names = push_three(tmp_path, bundles)
    before, outcomes = read_served(tmp_path), []
    assert before is not None

    def run(percent: int) -> None:
        try:
            shares = {names[2]: float(percent)}
            change_served(
                tmp_path, lambda served: with_split(served, "tiny", shares), expected=before, why=f"{percent}"
            )
            outcomes.append("won")
        except ReleaseError:
            outcomes.append("told")

    threads = [threading.Thread(target=run, args=(percent,)) for percent in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["told"] * 7 + ["won"]
    after = read_served(tmp_path)
    assert after is not None and after.revision == before.revision + 1


def test_a_release_that_is_not_there_cannot_be_served(bundles: Path, tmp_path: Path) -> None:
    names = push_three(tmp_path, bundles)
    before = read_served(tmp_path)
    with pytest.raises(ReleaseError, match="no release 'tiny-000000000000'"):
        change_served(tmp_path, lambda served: promoted(served, "tiny", "tiny-000000000000"), why="")
    with pytest.raises(InvalidInputError, match="is live; allowed: other releases"):
        change_served(tmp_path, lambda served: with_split(served, "tiny", {names[1]: 5}), why="")
    assert read_served(tmp_path) == before


def test_a_malformed_served_json_is_not_written_over(bundles: Path, tmp_path: Path) -> None:
    names = push_three(tmp_path, bundles)
    (tmp_path / "served.json").write_text('{"format_version": 1, "models": {"tiny": {"life": "x"}}}')
    with pytest.raises(ReleaseError, match="models.tiny.life: unknown field: did you mean 'live'"):
        change_served(tmp_path, lambda served: promoted(served, "tiny", names[2]), why="")


def test_a_lock_that_is_held_for_long_names_its_holder(tmp_path: Path) -> None:
    with store_lock(tmp_path):
        pass
    with (tmp_path / ".lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("ann@ci-3, process 5    ")
        held.flush()
        with pytest.raises(ReleaseError, match="held by ann@ci-3, process 5.*for more than 0.1 s"):
            with store_lock(tmp_path, wait_s=0.1):
                pytest.fail("two have the lock")
    with store_lock(tmp_path, wait_s=0.1):
        pass


def test_a_store_that_is_read_only_is_read_and_refuses_changes(bundles: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = Path(folder) / "store"
        names = push_three(store, bundles)
        before = (store / "served.json").read_bytes()
        store.chmod(0o555)
        with as_nobody():
            served = read_served(store)
            assert served is not None and set(served.releases()) <= set(names) and len(list_releases(store)) == 3
            assert find_release(store, names[0]).features().name == "tiny"
            with pytest.raises(ConfigError, match="cannot be written"):
                change_served(store, lambda served: rolled_back(served, "tiny"), why="")
        store.chmod(0o755)
        assert (store / "served.json").read_bytes() == before
