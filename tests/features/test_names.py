"""Names of string ids: what was written is found by key, and a file that does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import BundleError, DataFileError, InvalidInputError
from recsys.features.feature_set import Categorical, Numeric
from recsys.features.hashing import MISSING, string_key, string_keys
from recsys.features.names import Names, UnknownText, open_names, shown_ids, shown_value, write_names

TITLES = ["B00005N7P0", "Amélie", "七人の侍", "🎬", "with spaces\tand\x00", "x" * 100_000]
HEAD_BYTES = 16
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def written(file: Path, names: list[str]) -> Names:
    write_names(file, string_keys(names), names)
    return open_names(file)


def test_any_text_comes_back_by_its_key_in_the_order_asked_for(tmp_path: Path) -> None:
    names = written(tmp_path / "names", TITLES)
    asked = [*reversed(TITLES), TITLES[2]]
    assert names.find(string_keys(asked)) == asked
    assert names.of(string_keys(asked)) == asked
    assert names.find(np.empty(0, dtype=np.int64)) == []


@given(names=st.lists(TEXT, max_size=20), others=st.lists(TEXT, max_size=5))
def test_all_names_come_back_and_no_other(
    names: list[str], others: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = written(tmp_path_factory.mktemp("names") / "names", names)
    assert len(found) == len(set(names))
    assert found.find(string_keys([*names, *others])) == [*names, *(o if o in names else None for o in others)]


def test_the_bytes_are_those_of_the_specification(tmp_path: Path) -> None:
    write_names(tmp_path / "names", np.array([9, 7]), ["é", "a"])
    numbers = [7, 9, 0, 1, 3]
    expected = b"RSN1" + (1).to_bytes(4, "little") + (2).to_bytes(8, "little")
    expected += b"".join(n.to_bytes(8, "little") for n in numbers) + b"a\xc3\xa9"
    assert (tmp_path / "names").read_bytes() == expected


def cut_in_the_names(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def cut_in_the_beginnings(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def of_another_kind(file: Path) -> None:
    file.write_bytes(b"RSH1" + file.read_bytes()[4:])


def of_a_newer_version(file: Path) -> None:
    file.write_bytes(b"RSN1\x02" + file.read_bytes()[5:])


DAMAGES = [
    (cut_in_the_names, "names: has 5 bytes of names, .* to end at 6; expected 0 and 5: "),
    (cut_in_the_beginnings, "names: has 50 bytes; expected 72 and the names of 3 ids: "),
    (emptied, "names: cannot be read: .*; "),
    (Path.unlink, "names: cannot be read: .*No such file.*; "),
    (of_another_kind, "names: expected names, which begin with b'RSN1'; found b'RSH1': "),
    (of_a_newer_version, "names: names of format 2; this program reads format 1: "),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_file_that_is_not_whole_is_refused(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    file = tmp_path / "names"
    write_names(file, string_keys(["a", "bb", "ccc"]), ["a", "bb", "ccc"])
    damage(file)
    with pytest.raises(BundleError, match=f"{message}export the bundle again"):
        open_names(file)
    with pytest.raises(DataFileError, match=f"{message}prepare the data again"):
        open_names(file, error=DataFileError, again="prepare the data again")


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    write_names(tmp_path / "names", np.array([7]), ["ab"])
    (tmp_path / "names").write_bytes((tmp_path / "names").read_bytes()[:-1] + b"\xff")
    assert open_names(tmp_path / "names").find(np.array([7])) == ["a\ufffd"]


def test_what_utf8_cannot_express_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_names(tmp_path / "names", np.array([1]), ["a\udc80"])
    assert not (tmp_path / "names").exists()


def test_two_texts_of_one_key_are_refused_by_both_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="'x' and 'y' have one key, 5 .*rename one of them"):
        write_names(tmp_path / "names", np.array([5, 4, 5]), ["x", "z", "y"])


GENRE = Categorical(name="genre", id_type="string")


def test_ids_are_shown_as_people_know_them_and_an_unknown_text_as_such(tmp_path: Path) -> None:
    names = written(tmp_path / "names", ["Drama", "Comedy"])
    keys = string_keys(["Comedy", "Western", "Drama"])
    assert shown_ids(GENRE, keys, names) == ["Comedy", UnknownText(string_key("Western")), "Drama"]
    assert shown_ids(GENRE, keys[:1], None) == [UnknownText(string_key("Comedy"))]
    assert shown_ids(Categorical(name="year"), np.array([1999]), None) == [1999]
    assert str(UnknownText(12)) == "key 12 (text unknown)"


def test_a_value_is_shown_as_one_text(tmp_path: Path) -> None:
    names = {"genre": written(tmp_path / "names", ["Drama", "Comedy"])}
    several = Categorical(name="genres", id_type="string", max_values=3, table="genre")
    keys = np.append(string_keys(["Drama", "Comedy"]), MISSING)
    assert shown_value(several, keys, names) == "Drama, Comedy"
    assert shown_value(GENRE, keys[0], names) == "Drama"
    assert shown_value(GENRE, keys[2], names) == "missing"
    assert shown_value(GENRE, keys[0], {}) == f"key {keys[0]} (text unknown)"
    assert shown_value(Numeric(name="price"), np.float32(2.5), names) == "2.5"
