"""A file or folder appears whole, and what killed writers left goes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recsys.data.column_folder import open_columns, write_columns
from recsys.errors import ConfigError
from recsys.files import atomic_file, make_folder, parse_json, write_atomically


def pid_of_a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "file") as stream:
        stream.write(b"ne")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_leftovers_of_killed_writers_go_and_those_of_running_ones_stay(tmp_path: Path) -> None:
    dead = pid_of_a_dead_process()
    (tmp_path / f".events.tmp-{dead}-00").mkdir()
    (tmp_path / f".events.tmp-{dead}-00" / "column.npy").write_bytes(b"x")
    (tmp_path / f".events.tmp-{dead}-01").write_bytes(b"x")
    kept = {f".events.tmp-{os.getpid()}-02", f".other.tmp-{dead}-03", ".events.tmp-mine", ".events"}
    for name in kept:
        (tmp_path / name).write_bytes(b"x")
    write_columns(tmp_path / "events", {"x": np.arange(3)}, kind="test", version=1, info={})
    assert {entry.name for entry in tmp_path.iterdir()} == {*kept, "events"}
    open_columns(tmp_path / "events", kind="test", version=1)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    message = re.escape(f"{tmp_path / 'file' / 'sub'} cannot be written: Not a directory; choose another folder")
    with pytest.raises(ConfigError, match=message):
        make_folder(tmp_path / "file" / "sub")
    with pytest.raises(ConfigError, match=message):
        write_columns(tmp_path / "file" / "sub" / "events", {}, kind="test", version=1, info={})
    with pytest.raises(ConfigError, match="absent cannot be written: No such file or directory"):
        write_atomically(tmp_path / "absent" / "file", b"")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a superuser may write anywhere
    with pytest.raises(ConfigError, match="cannot be written: no permission; choose another folder"):
        make_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "it nests too deeply"),
        ('{"a": ' * 100_000, "it nests too deeply"),
        ("1" * 5_000, "limit"),
        (b'"\xff"', "utf-8"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"\\uD800": 1}', "surrogates not allowed"),
        ("{", "Expecting"),
        (b"", "Expecting"),
    ],
)
def test_json_that_is_none_is_one_kind_of_error(text: str | bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_json_is_parsed() -> None:
    assert parse_json(b'{"\xc3\xa9": [1, "\\ud83d\\ude00"]}') == {"é": [1, "😀"]}
