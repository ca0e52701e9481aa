"""A bundle is whole and unaltered, or it is refused; writing one is all or nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import FEATURES, ITEMS, write_tiny_bundle

from recsys.bundle import FORMAT_VERSION, MANIFEST, bundle_writer, open_bundle, read_manifest
from recsys.bundle.manifest import manifest_from_dict, manifest_to_dict
from recsys.errors import BundleError, InvalidInputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole bundle."""
    write_tiny_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((path / MANIFEST).read_text())
    change(values)
    (path / MANIFEST).write_text(json.dumps(values))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = write_tiny_bundle(tmp_path / "tiny")
    bundle = open_bundle(tmp_path / "tiny", expected=FEATURES)
    assert bundle.manifest == written
    assert bundle.features == FEATURES
    assert set(written.files) == {"user.onnx", "rank.onnx", "tables/items.bin"}
    assert (tmp_path / "tiny" / "tables" / "items.bin").read_bytes() == ITEMS.astype("<f4").tobytes()


def test_the_version_changes_exactly_when_a_file_does(tmp_path: Path) -> None:
    first = write_tiny_bundle(tmp_path / "a")
    assert write_tiny_bundle(tmp_path / "b").version == first.version
    altered = dataclasses.replace(first, files={**first.files, "user.onnx": (1, "0" * 64)})
    assert altered.version != first.version
    assert len(first.version) == 16


def test_tables_in_one_file_are_read_from_where_they_lie_and_need_a_reader_that_knows_of_them(path: Path) -> None:
    manifest = read_manifest(path)
    assert json.loads((path / MANIFEST).read_text())["format_version"] == 1, "as it always was"
    (info,), rows = manifest.tables.values(), len(ITEMS)
    assert "offset" not in (path / MANIFEST).read_text()
    parts = {
        "few": dataclasses.replace(info, shape=(3, ITEMS.shape[1])),
        "rest": dataclasses.replace(info, shape=(rows - 3, ITEMS.shape[1]), offset_bytes=3 * ITEMS[0].nbytes),
    }
    assert sum(part.size_bytes for part in parts.values()) == info.size_bytes == ITEMS.nbytes
    np.testing.assert_array_equal(parts["few"].read(path), ITEMS[:3])
    np.testing.assert_array_equal(parts["rest"].read(path), ITEMS[3:])
    values = manifest_to_dict(dataclasses.replace(manifest, tables=parts))
    assert values["format_version"] == FORMAT_VERSION == 2
    assert manifest_from_dict(values).tables == parts


def test_a_missing_file_is_named(path: Path) -> None:
    (path / "tables" / "items.bin").unlink()
    with pytest.raises(BundleError, match=r"tables/items.bin is missing; export the bundle again"):
        open_bundle(path, verify="sizes")


def test_a_truncated_file_is_refused_by_either_check(path: Path) -> None:
    os.truncate(path / "tables" / "items.bin", 100)
    for verify in ("full", "sizes"):
        with pytest.raises(BundleError, match=r"tables/items.bin has 100 bytes, the manifest says 128"):
            open_bundle(path, verify=verify)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tables/items.bin", "user.onnx", "rank.onnx"])
def test_one_altered_byte_is_refused(path: Path, name: str) -> None:
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was altered: its SHA-256 is not the manifest's"):
        open_bundle(path)
    open_bundle(path, verify="sizes")


def test_a_newer_format_asks_for_an_upgrade(path: Path) -> None:
    edit_manifest(path, lambda values: values.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(BundleError, match=f"bundle format {FORMAT_VERSION + 1}, but this program reads up to"):
        open_bundle(path)


def test_a_bundle_for_another_feature_set_is_refused(path: Path) -> None:
    other = dataclasses.replace(FEATURES, name="other")
    with pytest.raises(
        BundleError, match=rf"'tiny' \({FEATURES.fingerprint()}\), not 'other' \({other.fingerprint()}\)"
    ):
        open_bundle(path, expected=other)


def test_an_altered_feature_set_is_refused(path: Path) -> None:
    edit_manifest(path, lambda values: values["feature_set"]["history"].update(recent=3))
    with pytest.raises(BundleError, match="the FeatureSet was altered: its fingerprint is"):
        open_bundle(path)
    edit_manifest(path, lambda values: values.pop("feature_set_fingerprint"))
    with pytest.raises(BundleError, match="the FeatureSet was altered: .* the manifest says None"):
        open_bundle(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no manifest.json: not a bundle; `recsys export` writes a bundle"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[]", "no format_version: not a manifest"),
        (b"{}", "no format_version: not a manifest"),
        (b'{"format_version": 1}', "malformed manifest: 'kind'"),
    ],
)
def test_a_folder_that_is_not_a_bundle_is_refused(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=complaint):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model", "feature_set", "graphs", "tables", "parity", "files", "training"])
def test_a_manifest_without_a_part_is_malformed(path: Path, name: str) -> None:
    edit_manifest(path, lambda values: values.pop(name))
    with pytest.raises(BundleError, match=f"malformed manifest.*{name}"):
        read_manifest(path)


def test_a_graph_outside_the_list_of_files_is_refused(path: Path) -> None:
    edit_manifest(path, lambda values: values["graphs"]["user"].update(file="../other.onnx"))
    with pytest.raises(BundleError, match=r"graph '../other.onnx' is not in its list of files"):
        open_bundle(path)


def test_an_existing_bundle_is_replaced_only_when_asked(path: Path) -> None:
    with pytest.raises(InvalidInputError, match="exists; choose another folder, or replace it with overwrite=True"):
        write_tiny_bundle(path)
    manifest = dataclasses.replace(open_bundle(path).manifest, model="second", graphs={})
    with bundle_writer(path, overwrite=True) as writer:
        writer.finish(manifest)
        assert open_bundle(path).manifest.model == "tiny"
    assert read_manifest(path).model == "second"
    assert [p.name for p in path.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("turns", [8, pytest.param(100, marks=pytest.mark.prove)])
def test_while_a_bundle_is_replaced_there_always_is_one(path: Path, turns: int) -> None:
    manifest = open_bundle(path).manifest
    done = threading.Event()
    seen: set[str] = set()
    errors: list[BundleError] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(read_manifest(path).model)
            except BundleError as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(turns):
        with bundle_writer(path, overwrite=True) as writer:
            writer.finish(dataclasses.replace(manifest, model=f"turn {turn}", graphs={}))
    done.set()
    reader.join()
    assert not errors and len(seen) > 1


def test_a_system_that_cannot_swap_folders_still_replaces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.bundle.write._exchange", lambda first, second: False)
    manifest = dataclasses.replace(open_bundle(path).manifest, model="second", graphs={})
    with bundle_writer(path, overwrite=True) as writer:
        writer.finish(manifest)
    assert read_manifest(path).model == "second"
    assert [p.name for p in path.parent.iterdir()] == ["tiny"]


def test_a_failed_overwrite_leaves_the_old_bundle(path: Path) -> None:
    before = open_bundle(path).manifest
    with pytest.raises(RuntimeError, match="half way"), bundle_writer(path, overwrite=True) as writer:
        (writer.folder / "user.onnx").write_bytes(b"half")
        raise RuntimeError("half way")
    with pytest.raises(BundleError, match="was not finished"), bundle_writer(path, overwrite=True):
        pass
    assert open_bundle(path).manifest == before
    assert [p.name for p in path.parent.iterdir()] == ["tiny"]


def test_a_folder_that_is_not_a_bundle_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "letter.txt").write_text("dear")
    with pytest.raises(InvalidInputError, match="exists and is not a bundle; it is not overwritten"):
        with bundle_writer(tmp_path / "precious", overwrite=True):
            pass
    assert (tmp_path / "precious" / "letter.txt").read_text() == "dear"


def test_what_a_killed_export_left_is_cleaned_and_a_running_ones_is_kept(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib\n"
        "from recsys.bundle import bundle_writer\n"
        "with bundle_writer(pathlib.Path(sys.argv[1])) as writer:\n"
        "    (writer.folder / 'user.onnx').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "tiny"])
    assert killed.returncode == -9
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".tiny.tmp-")
    with bundle_writer(tmp_path / "tiny") as running:
        write_tiny_bundle(tmp_path / "tiny")
        assert {p.name for p in tmp_path.iterdir()} == {"tiny", running.folder.name}
        running.finished = True
        shutil.rmtree(tmp_path / "tiny")


def test_a_kill_between_the_two_renames_of_an_overwrite_loses_no_bundle(tmp_path: Path) -> None:
    written = write_tiny_bundle(tmp_path / "tiny")
    os.rename(tmp_path / "tiny", tmp_path / ".tiny.old-cafe")
    with pytest.raises(InvalidInputError, match="exists"):
        write_tiny_bundle(tmp_path / "tiny")
    assert open_bundle(tmp_path / "tiny").manifest.version == written.version


@pytest.mark.parametrize("change", [{"model": "other"}, {"created_at": "2020-01-01"}, {"metrics": {"auc": 1.0}}])
def test_any_altered_word_of_the_manifest_is_refused(path: Path, change: dict[str, object]) -> None:
    edit_manifest(path, lambda values: values.update(change))
    with pytest.raises(BundleError, match="manifest.json was altered"):
        open_bundle(path)
