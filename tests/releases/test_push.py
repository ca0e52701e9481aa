"""A release is pushed whole or not at all, its files are stored once, and it stays as it was pushed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_bundle import FEATURES, ITEMS, write_tiny_bundle
from support.tiny_retrieval import TEXT_FEATURES, tiny_text_tables, write_tiny_retrieval

from recsys.bundle import open_bundle
from recsys.errors import BundleError, InvalidInputError
from recsys.features.feature_set import Categorical
from recsys.releases.push import push
from recsys.releases.release import open_release
from recsys.releases.store import list_releases, push_release

BIG = "tables/items.bin"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``first``; ``second``, whose table is another; ``finder``, a retrieval bundle; ``texts``, one of text ids."""
    folder = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(folder / "first")
    write_tiny_bundle(folder / "second", items=ITEMS * 2)
    write_tiny_retrieval(folder / "finder")
    write_tiny_retrieval(folder / "texts", tiny_text_tables(), features=TEXT_FEATURES)
    return folder


def stored(store: Path) -> dict[str, bytes]:
    """All files of a store but the lock, by name."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def alter(file: Path) -> None:
    """Change one byte in place: all hard links of the file have it."""
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.seek(10)
        byte = stream.read(1)[0]
        stream.seek(10)
        stream.write(bytes([byte ^ 1]))
    file.chmod(0o444)


def test_a_release_holds_its_bundles_and_its_record(bundles: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    release = push_release(store, ranking=bundles / "first", retrieval=bundles / "finder", note="a try")
    (found,) = list_releases(store)
    assert found.release == release and (release.number, release.note, release.model) == (1, "a try", "tiny")
    assert release.feature_set_fingerprint == FEATURES.fingerprint()
    assert found.ranking is not None and found.retrieval is not None
    for path, source in ((found.ranking, bundles / "first"), (found.retrieval, bundles / "finder")):
        assert open_bundle(path, verify="full").manifest == open_bundle(source).manifest
    assert release.retrieval is not None and release.retrieval.version == open_bundle(found.retrieval).manifest.version


def test_files_and_folders_of_a_release_are_read_only(bundles: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    name = push_release(store, ranking=bundles / "first", retrieval=None).name
    folder = store / "releases" / name
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert modes == {True: 0o555, False: 0o444}


def test_a_file_that_two_releases_share_is_stored_once(bundles: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = push(store, ranking=bundles / "first", retrieval=None)
    second = push(store, ranking=bundles / "second", retrieval=None)
    paths = [store / "releases" / each.release.name / "ranking" / "user.onnx" for each in (first, second)]
    assert os.path.samefile(*paths)
    shared = sum((bundles / "first" / name).stat().st_size for name in ("user.onnx", "rank.onnx"))
    assert (first.shared_bytes, second.shared_bytes) == (0, shared)
    assert second.release.ranking is not None
    assert second.stored_bytes + second.shared_bytes == second.release.ranking.size_bytes
    assert [each.release.number for each in list_releases(store)] == [1, 2]


def test_the_same_bundles_again_are_the_same_release(bundles: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = push(store, ranking=bundles / "first", retrieval=None, note="one")
    before = stored(store)
    again = push(store, ranking=bundles / "first", retrieval=None, note="two")
    assert (first.new, again.new) == (True, False) and again.release == first.release and stored(store) == before
    assert (again.stored_bytes, again.repaired) == (0, ())


def test_progress_counts_up_to_all_bytes(bundles: Path, tmp_path: Path) -> None:
    for _ in range(2):
        seen: list[tuple[int, int]] = []
        push_release(
            tmp_path, ranking=bundles / "first", retrieval=None, progress=lambda *both, seen=seen: seen.append(both)
        )
        assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("file", ["user.onnx", BIG, "manifest.json"])
def test_a_bundle_altered_by_one_byte_is_refused_and_leaves_nothing(bundles: Path, tmp_path: Path, file: str) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    store = tmp_path / "store"
    push_release(store, ranking=bundles / "second", retrieval=None)
    before = stored(store)
    alter(tmp_path / "bundle" / file)
    with pytest.raises(BundleError, match="altered|malformed|not readable"):
        push_release(store, ranking=tmp_path / "bundle", retrieval=None)
    assert stored(store) == before


@pytest.mark.parametrize("where", ["files", "releases"])
def test_an_altered_file_of_the_store_is_repaired_in_every_release(bundles: Path, tmp_path: Path, where: str) -> None:
    store = tmp_path / "store"
    first = push_release(store, ranking=bundles / "first", retrieval=None)
    alter(next(path for path in (store / "releases").rglob("user.onnx")))
    if where == "releases":
        repaired = push(store, ranking=bundles / "first", retrieval=None).repaired
    else:
        repaired = push(store, ranking=bundles / "second", retrieval=None).repaired
    assert f"releases/{first.name}/ranking/user.onnx" in repaired and any(
        path.startswith("files/") for path in repaired
    )
    for each in list_releases(store):
        assert each.ranking is not None
        open_bundle(each.ranking, verify="full")
    assert push(store, ranking=bundles / "first", retrieval=None).repaired == ()


def test_bundles_of_other_ids_are_not_one_release(bundles: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="names items by string ids.*'tiny' by int"):
        push_release(tmp_path / "store", ranking=bundles / "first", retrieval=bundles / "texts")
    other = replace(FEATURES, user_id=Categorical(name="user_id", id_type="string"))
    write_tiny_bundle(tmp_path / "named", features=other)
    with pytest.raises(BundleError, match="names users by int ids"):
        push_release(tmp_path / "store", ranking=tmp_path / "named", retrieval=bundles / "finder")
    assert not (tmp_path / "store").exists()


def test_bundles_in_the_wrong_place_and_none_are_refused(bundles: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is a ranking bundle, and was given as the retrieval bundle"):
        push_release(tmp_path / "store", ranking=None, retrieval=bundles / "first")
    with pytest.raises(InvalidInputError, match="nothing to push"):
        push_release(tmp_path / "store", ranking=None, retrieval=None)
    assert not (tmp_path / "store").exists()


def test_a_lost_record_is_written_again(bundles: Path, tmp_path: Path) -> None:
    name = push_release(tmp_path, ranking=bundles / "first", retrieval=None).name
    (tmp_path / "releases" / name / "release.json").unlink()
    again = push(tmp_path, ranking=bundles / "first", retrieval=None)
    assert again.repaired == (f"releases/{name}/release.json",)
    assert open_release(tmp_path, name).release == again.release
