"""Files that names, folders and patterns stand for, and their formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.ingest_log import EVENTS, T0_MS

from recsys.errors import DataFileError
from recsys.rows.contract import event_rows
from recsys.rows.files import find_files, raw_file
from recsys.rows.read import read_rows


def names(given: str) -> list[str]:
    """Names of the files that one argument stands for."""
    return [file.path.name for file in find_files([given])[0]]


@pytest.mark.parametrize(
    ("exists", "other", "pattern"),
    [
        ("log[1].csv", "log1.csv", "log[0-9].csv"),
        ("a*b.csv", "axb.csv", "a?b.csv"),
        ("what?.csv", "whats.csv", "w*.csv"),
    ],
)
def test_a_path_that_exists_is_that_file_and_no_pattern(exists: str, other: str, pattern: str, tmp_path: Path) -> None:
    (tmp_path / exists).touch()
    (tmp_path / other).touch()
    assert names(str(tmp_path / exists)) == [exists]
    assert other in names(str(tmp_path / pattern))
    (tmp_path / exists).unlink()
    files, said = find_files([str(tmp_path / exists)])
    assert [file.path.name for file in files] == [other]
    assert said == [f"{tmp_path / exists} matched 1 file: {tmp_path / other}"]


def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(tmp_path: Path) -> None:
    for folder in ("logs[1]", "logs1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.csv").touch()
    assert names(str(tmp_path / "logs[1]")) == ["logs[1].csv"]


def test_files_of_a_folder_are_those_with_known_endings_by_name(tmp_path: Path) -> None:
    for name in (
        "b.jsonl.zst",
        "a.csv",
        "c.PARQUET",
        "_SUCCESS.csv",
        ".a.csv.crc",
        "notes.txt",
        "d.tsv.gz",
        "e.csv.zip",
    ):
        (tmp_path / name).touch()
    (tmp_path / "folder.csv").mkdir()
    files, said = find_files([str(tmp_path)])
    found = [(file.path.name, file.format, file.packed) for file in files]
    assert found == [
        ("a.csv", "csv", ""),
        ("b.jsonl.zst", "jsonl", ".zst"),
        ("c.PARQUET", "parquet", ""),
        ("d.tsv.gz", "tsv", ".gz"),
    ]
    assert said == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none.csv", "none.csv: no such file or folder; allowed: files, folders or patterns of .parquet, .csv, .tsv"),
        ("none*.csv", r"none\*.csv: no such file, and as a pattern it matches none"),
        ("empty", "empty: the folder holds no such file"),
        (
            "notes.txt",
            "notes.txt: unknown format; allowed endings: .parquet, .csv, .tsv, .jsonl, .ndjson, .json, all but",
        ),
        ("log.parquet.gz", "log.parquet.gz: unknown format"),
        ("log.csv.zip", "log.csv.zip: unknown format"),
    ],
)
def test_what_is_not_there_or_not_read_is_named(name: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for other in ("notes.txt", "log.parquet.gz", "log.csv.zip"):
        (tmp_path / other).touch()
    with pytest.raises(DataFileError, match=problem):
        find_files([str(tmp_path / name)])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_of_folders_are_no_values(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "rating=5" / "user_id=7"
    folder.mkdir(parents=True)
    row = {"user_id": 1, "item_id": 2, "timestamp_ms": T0_MS, "rating": 3}
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), folder / "log.parquet")
    else:
        text = ",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n"
        (folder / "log.csv").write_text(text)
    for given in (folder, folder / f"log.{kind}", tmp_path / "*" / "*" / f"*.{kind}"):
        (file,), _ = find_files([str(given)])
        (raw,) = (rows for rows in read_rows(raw_file(file.path), event_rows(EVENTS)) if rows.length)
        encoded = event_rows(EVENTS).encode(raw.columns, raw.length)
        stored = {name: np.asarray(encoded.columns[name]).tolist() for name in row}
        assert stored == {name: [value] for name, value in row.items()}
