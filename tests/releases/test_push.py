"""A release is pushed whole or not at all, its files are stored once, and it stays as it was pushed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from support.full_disk import files_up_to
from support.release_bundles import alter, as_nobody, check_clean, check_whole, stored, write_bundles
from support.tiny_bundle import FEATURES, ITEMS, write_tiny_bundle

import recsys.releases.push as push_module
from recsys.bundle import open_bundle
from recsys.bundle.manifest import digest_of, manifest_to_dict
from recsys.errors import BundleError, ConfigError, InvalidInputError, NoSpaceError, ReleaseError
from recsys.features.feature_set import Categorical
from recsys.releases.prune import prune
from recsys.releases.push import push
from recsys.releases.release import open_release
from recsys.releases.store import list_releases, push_release
from recsys.releases.verify import altered_files

BIG = "tables/items.bin"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


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
    check_whole(store)
    check_clean(store)
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


def test_a_lost_folder_is_made_again_and_is_read_only(bundles: Path, tmp_path: Path) -> None:
    name = push_release(tmp_path, ranking=bundles / "first", retrieval=None).name
    ranking = tmp_path / "releases" / name / "ranking"
    for folder in (ranking, ranking / "tables"):
        folder.chmod(0o755)
    shutil.rmtree(ranking)
    again = push(tmp_path, ranking=bundles / "first", retrieval=None)
    assert f"releases/{name}/ranking/manifest.json" in again.repaired
    assert altered_files(open_release(tmp_path, name), verify="full") == []
    assert {folder.stat().st_mode & 0o777 for folder in (ranking.parent, ranking, ranking / "tables")} == {0o555}
    assert push_release(tmp_path, ranking=bundles / "second", retrieval=None)  # what was repaired is shared again


def test_a_release_that_is_pruned_while_it_is_looked_through_is_not_half_there(bundles: Path, tmp_path: Path) -> None:
    first = push_release(tmp_path, ranking=bundles / "first", retrieval=None).name
    second = push_release(tmp_path, ranking=bundles / "second", retrieval=None).name
    removed: list[str] = []

    def pruned(done: int, total: int) -> None:
        if not removed:  # the first file was read
            removed.extend(prune(tmp_path, keep=1).removed)

    with pytest.raises(ReleaseError, match=f"{first} was deleted while it was looked through: push it again"):
        push(tmp_path, ranking=bundles / "first", retrieval=None, progress=pruned)
    assert removed == [first]
    assert [path.name for path in (tmp_path / "releases").iterdir()] == [second]


def test_a_bundle_that_changes_during_the_push_is_refused(bundles: Path, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    begun: list[int] = []

    def write_over(done: int, total: int) -> None:
        if not begun:  # the first file was read
            alter(tmp_path / "bundle" / "rank.onnx")
            alter(tmp_path / "bundle" / "user.onnx")
        begun.append(done)

    with pytest.raises(BundleError, match="was altered, or changes while it is pushed"):
        push_release(tmp_path / "store", ranking=tmp_path / "bundle", retrieval=None, progress=write_over)
    assert stored(tmp_path / "store") == {}


def test_a_bundle_that_is_exchanged_during_the_push_is_refused(bundles: Path, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")

    def exchange(done: int, total: int) -> None:
        if not (tmp_path / "gone").exists():
            (tmp_path / "bundle").rename(tmp_path / "gone")
            (tmp_path / "bundle").symlink_to(bundles / "second")

    with pytest.raises(BundleError, match="was altered, or changes while it is pushed"):
        push_release(tmp_path / "store", ranking=tmp_path / "bundle", retrieval=None, progress=exchange)
    assert stored(tmp_path / "store") == {}


def test_files_that_no_manifest_lists_are_named_and_not_pushed(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    pushed = push(tmp_path / "store", ranking=tmp_path / "bundle", retrieval=None)
    assert pushed.left_out == (str(tmp_path / "bundle" / "notes.txt"),)
    assert not list((tmp_path / "store").rglob("notes.txt"))


def test_a_list_of_files_that_leads_out_of_the_bundle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("x")
    manifest = write_tiny_bundle(tmp_path / "bundle")
    files = {**manifest.files, "../secret": (1, sha256(b"x").hexdigest())}
    values = manifest_to_dict(replace(manifest, files=files))
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps({**values, "manifest_sha256": digest_of(values)}))
    with pytest.raises(BundleError, match="'../secret' in its list of files is no file in the bundle"):
        push_release(tmp_path / "store", ranking=tmp_path / "bundle", retrieval=None)


def test_a_folder_of_something_else_is_no_store(bundles: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no store of releases, and is not empty"):
        push_release(bundles / "second", ranking=bundles / "first", retrieval=None)
    assert not (bundles / "second" / "releases").exists()


def test_the_number_grows_whatever_the_clocks_say(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for bundle, time in (("first", "2031-01-01T00:00:00Z"), ("second", "1999-01-01T00:00:00Z")):
        monkeypatch.setattr("recsys.releases.push.now", lambda time=time: time)
        names.append(push_release(tmp_path, ranking=bundles / bundle, retrieval=None).name)
    assert [(each.release.name, each.release.number) for each in list_releases(tmp_path)] == [
        (names[0], 1),
        (names[1], 2),
    ]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_files_are_copied_and_it_is_said_where_no_hard_link_can_be_made(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    for bundle in ("first", "second", "first"):
        pushed = push(tmp_path, ranking=bundles / bundle, retrieval=None)
        assert pushed.copied_because == (os.strerror(code) if pushed.new else "") and pushed.new == (
            pushed.shared_bytes == 0
        )
    assert len(check_whole(tmp_path)) == 2 and not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    alter(next((tmp_path / "releases").rglob("user.onnx")))
    assert (
        sum(len(push(tmp_path, ranking=bundles / each, retrieval=None).repaired) for each in ("first", "second")) == 1
    )
    check_whole(tmp_path)


def test_files_of_another_user_are_copied_where_the_system_protects_them(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0 or Path("/proc/sys/fs/protected_hardlinks").read_text().strip() != "1":
        pytest.skip("needs root, and protected hard links")
    with tempfile.TemporaryDirectory() as folder:
        store, source = Path(folder) / "store", Path(folder) / "bundle"
        Path(folder).chmod(0o755)
        store.mkdir()
        store.chmod(0o777)
        push_release(store, ranking=bundles / "first", retrieval=None)
        write_tiny_bundle(source, items=ITEMS * 5)
        with as_nobody():
            pushed = push(store, ranking=source, retrieval=None)
        assert pushed.copied_because == "Operation not permitted" and pushed.new and pushed.shared_bytes == 0
        assert len(check_whole(store)) == 2


def test_a_store_that_cannot_be_written_is_named(bundles: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        Path(folder).chmod(0o755)
        write_tiny_bundle(Path(folder) / "bundle")
        push_release(store, ranking=Path(folder) / "bundle", retrieval=None)
        before = stored(store)
        store.chmod(0o555)
        with as_nobody():
            assert len(list_releases(store)) == 1
            with pytest.raises(ConfigError, match=f"{store}.* cannot be written"):
                push_release(store, ranking=Path(folder) / "bundle", retrieval=None)
        store.chmod(0o755)
        assert stored(store) == before


@pytest.mark.parametrize("most", [100, 500, 4_000])
def test_a_full_disk_leaves_the_store_as_it_was(bundles: Path, tmp_path: Path, most: int) -> None:
    push_release(tmp_path, ranking=bundles / "first", retrieval=None)
    before = stored(tmp_path)
    with files_up_to(most), pytest.raises(NoSpaceError, match="releases/tiny-.*: File too large.*nothing was written"):
        push_release(tmp_path, ranking=bundles / "second", retrieval=bundles / "finder")
    assert stored(tmp_path) == before
    check_clean(tmp_path)
    push_release(tmp_path, ranking=bundles / "second", retrieval=bundles / "finder")
    assert len(check_whole(tmp_path)) == 2


@pytest.mark.parametrize("step", ["_write_record", "folders_of", "add_stored"])
def test_a_disk_that_is_full_at_the_last_steps_leaves_the_store_as_it_was(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    push_release(tmp_path, ranking=bundles / "first", retrieval=None)
    before = stored(tmp_path)
    real, calls = getattr(push_module, step), []

    def full(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2 or step != "add_stored":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    monkeypatch.setattr(push_module, step, full)
    with pytest.raises(NoSpaceError, match="No space left on device"):
        push_release(tmp_path, ranking=bundles / "second", retrieval=None)
    assert stored(tmp_path) == before
    check_clean(tmp_path)


def test_a_push_removes_what_killed_pushes_repairs_and_readers_left(bundles: Path, tmp_path: Path) -> None:
    name = push_release(tmp_path, ranking=bundles / "first", retrieval=None).name
    before = stored(tmp_path)
    folder = tmp_path / "releases" / name / "ranking"
    for each in (folder.parent, folder):
        each.chmod(0o755)
    half = tmp_path / "releases" / ".tiny-000000000000.tmp-00"
    (half / "ranking").mkdir(parents=True)
    (half / "ranking").chmod(0o555)
    (tmp_path / "status").mkdir()
    place = next(path for path in (tmp_path / "files").rglob("*") if path.is_file())
    for file in (
        half.with_name(f"{half.name}.lock"),
        half.with_name(".tiny-111111111111.tmp-00.lock"),
        folder / ".user.onnx.tmp-00",
        folder.parent / ".release.json.tmp-1-00",
        tmp_path / "status" / ".clock-1-00",
        place.with_name("0" * 64),
    ):
        file.write_bytes(b"x")
    os.link(place, place.with_name(f".{place.name}.tmp-00"))
    assert push(tmp_path, ranking=bundles / "first", retrieval=None).repaired == ()
    assert stored(tmp_path) == before
    check_clean(tmp_path)


def test_a_user_without_root_s_rights_pushes_repairs_and_prunes_what_is_read_only(bundles: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        store, source = Path(folder) / "store", write_bundles(Path(folder) / "bundles")
        with as_nobody():
            for name in ("first", "second"):
                push_release(store, ranking=source / name, retrieval=None)
            alter(next((store / "releases").rglob("user.onnx")))
            assert len(push(store, ranking=source / "first", retrieval=None).repaired) == 3
            assert len(check_whole(store)) == 2
            assert len(prune(store, keep=1).removed) == 1 and len(check_whole(store)) == 1
            check_clean(store)
