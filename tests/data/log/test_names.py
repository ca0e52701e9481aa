"""NamesWriter: pairs that came in any order, batches and repetitions are one file by key, whatever went to disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.log.names import Collision, NamesWriter, named_tables, open_table_names
from recsys.errors import DataFileError
from recsys.features.feature_set import Categorical, Entity, FeatureSet
from recsys.features.hashing import MISSING, string_keys
from recsys.features.names import open_names, write_names

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
FEATURES = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id", id_type="string"),
    item=(Categorical(name="tags", id_type="string", max_values=3, table="tag"), Categorical(name="year")),
    context=(Categorical(name="topic", id_type="string", table="tag"),),
    entities=(Entity(name="seller", id=Categorical(name="seller_id", id_type="string"), features=()),),
)


def file_of(folder: Path, table: str = "tag") -> Path:
    return folder / "names" / f"{table}.names.bin"


@given(
    batches=st.lists(st.lists(ANY_TEXT, max_size=30), max_size=8),
    memory_bytes=st.sampled_from([100, 400, 2_000, 1 << 20]),
    in_arrow=st.booleans(),
)
def test_batches_give_the_file_of_their_distinct_texts_whatever_memory_there_is(
    batches: list[list[str]], memory_bytes: int, in_arrow: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names")
    writer = NamesWriter(folder / "names", memory_bytes=memory_bytes)
    for texts in batches:
        writer.add("tag", string_keys(texts), pa.array(texts, pa.string()) if in_arrow else texts)
    assert writer.finish() == ()
    distinct = sorted({text for texts in batches for text in texts})
    assert (folder / "names").exists() == bool(batches)
    if batches:
        assert [path.name for path in (folder / "names").iterdir()] == ["tag.names.bin"]
        write_names(folder / "expected", string_keys(distinct), distinct)
        assert file_of(folder).read_bytes() == (folder / "expected").read_bytes()


def test_many_ids_go_to_disk_and_come_back_and_few_bytes_stay_in_memory(tmp_path: Path) -> None:
    writer = NamesWriter(tmp_path / "names", memory_bytes=1 << 20)
    for begin in range(0, 100_000, 5_000):
        texts = [f"item number {number}" for number in range(begin, begin + 10_000)]  # each comes in two batches
        writer.add("item_id", string_keys(texts), texts)
        writer.add("tag", string_keys(["a", "b"]), ["a", "b"])
        assert writer._held_bytes() < 1 << 20
    assert len(list((tmp_path / "names" / ".runs").iterdir())) > 3, "else nothing of this was tested"
    assert writer.finish() == ()
    names = open_names(file_of(tmp_path, "item_id"))
    assert len(names) == 105_000
    assert (np.diff(names.keys_R) > 0).all()
    asked = [f"item number {number}" for number in (104_999, 0, 77_777)]
    assert names.find(string_keys([*asked, "item number 105000"])) == [*asked, None]
    assert open_names(file_of(tmp_path, "tag")).find(string_keys(["b", "a"])) == ["b", "a"]


def test_missing_values_and_what_is_no_utf8_have_no_name(tmp_path: Path) -> None:
    writer = NamesWriter(tmp_path / "names")
    texts = ["", "a", None, "a\udc80"]
    writer.add("tag", np.array([MISSING, 1, MISSING, 2]), texts)
    writer.add("tag", np.array([MISSING, 3]), pa.array([None, "c"]))
    writer.finish()
    assert open_names(file_of(tmp_path)).find(np.array([MISSING, 1, 2, 3])) == [None, "a", None, "c"]


@pytest.mark.parametrize("memory_bytes", [1, 1 << 20])
@pytest.mark.parametrize("batches", [[["x", "y", "z"]], [["x"], ["y", "z"]], [["y", "z"], ["x"]]])
def test_two_texts_of_one_key_are_told_and_the_first_in_the_alphabet_is_kept(
    batches: list[list[str]], memory_bytes: int, tmp_path: Path
) -> None:
    keys = {"x": 5, "y": 5, "z": 9}
    writer = NamesWriter(tmp_path / "names", memory_bytes=memory_bytes)
    for texts in batches:
        writer.add("tag", np.array([keys[text] for text in texts]), texts)
    (collision,) = writer.finish()
    assert collision == Collision("tag", 5, ("x", "y"))
    assert str(collision).startswith("table 'tag': 'x' and 'y' have one key, 5 ")
    assert open_names(file_of(tmp_path)).find(np.array([5, 9])) == ["x", "z"]


def test_the_tables_of_string_ids_have_names_those_of_entities_too(tmp_path: Path) -> None:
    assert named_tables(FEATURES) == ("item_id", "tag", "seller_id")
    assert open_table_names(tmp_path / "names", FEATURES) == {}
    writer = NamesWriter(tmp_path / "names")
    writer.add("tag", string_keys(["a"]), ["a"])
    writer.finish()
    found = open_table_names(tmp_path / "names", FEATURES)
    assert list(found) == ["tag"]
    file_of(tmp_path).write_bytes(b"RSN1")
    with pytest.raises(DataFileError, match=r"tag.names.bin: .*prepare the data again"):
        open_table_names(tmp_path / "names", FEATURES)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("a file")
    writer = NamesWriter(tmp_path / "names", memory_bytes=1)
    with pytest.raises(DataFileError, match="names: the names of ids could not be written"):
        writer.add("tag", string_keys(["a"]), ["a"])
