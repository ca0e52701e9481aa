"""Names of string ids: what was written is found by key, and a file that does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.arrays import Int64Array
from recsys.errors import BundleError
from recsys.features.hashing import string_keys
from recsys.features.names import Names, open_names, write_names

TITLES = ["B00005N7P0", "Amélie", "七人の侍", "🎬", "with spaces\tand\x00", "x" * 100_000]


def sorted_by_key(names: list[str]) -> tuple[Int64Array, list[str]]:
    order = np.argsort(keys := string_keys(names))
    return keys[order], [names[place] for place in order]


def written(file: Path, names: list[str]) -> Names:
    keys, ordered = sorted_by_key(names)
    write_names(file, ordered)
    return open_names(file, keys)


def test_any_text_comes_back_by_its_key_in_the_order_asked_for(tmp_path: Path) -> None:
    names = written(tmp_path / "names", TITLES)
    asked = [*reversed(TITLES), TITLES[2]]
    assert names.of(string_keys(asked)) == asked
    assert names.of(np.empty(0, dtype=np.int64)) == []


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, max_size=20))
def test_all_names_come_back(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    assert written(tmp_path_factory.mktemp("names") / "names", names).of(string_keys(names)) == names


def test_the_bytes_are_those_of_the_specification(tmp_path: Path) -> None:
    write_names(tmp_path / "names", ["", "a", "é"])
    ends = [0, 0, 1, 3]
    assert (tmp_path / "names").read_bytes() == b"".join(n.to_bytes(8, "little") for n in ends) + b"a\xc3\xa9"


def cut_in_the_names(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def cut_in_the_beginnings(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def shuffled(file: Path) -> None:
    begins = np.fromfile(file, dtype="<i8", count=4)
    begins[1:3] = begins[2:0:-1]
    file.write_bytes(begins.tobytes() + file.read_bytes()[32:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_in_the_names, "names: has 5 bytes of names, .* to end at 6; expected 0 and 5: export the bundle again"),
        (cut_in_the_beginnings, "names: has 20 bytes; expected 32 and the names of 3 rows: export the bundle again"),
        (emptied, "names: cannot be read: .*; export the bundle again"),
        (Path.unlink, "names: cannot be read: .*No such file"),
        (shuffled, "names: has 6 bytes of names, which are to begin at 0, not to go back"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    keys, ordered = sorted_by_key(["a", "bb", "ccc"])
    write_names(tmp_path / "names", ordered)
    damage(tmp_path / "names")
    with pytest.raises(BundleError, match=message):
        open_names(tmp_path / "names", keys)


def test_names_of_other_items_are_refused_by_their_number(tmp_path: Path) -> None:
    keys, ordered = sorted_by_key(TITLES)
    write_names(tmp_path / "names", ordered)
    with pytest.raises(BundleError, match="names: has 100,0.. bytes of names"):
        open_names(tmp_path / "names", keys[:-1])


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(np.array([0, 2], dtype="<i8").tobytes() + b"a\xff")
    assert open_names(tmp_path / "names", np.array([7])).of(np.array([7])) == ["a\ufffd"]


def test_what_utf8_cannot_express_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_names(tmp_path / "names", ["a\udc80"])
    assert not (tmp_path / "names").exists()
