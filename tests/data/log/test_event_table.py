"""The event table: sorted, checked, whole or absent, and the same events as the online store's."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.data.column_folder import open_columns, write_columns
from recsys.data.log.event_table import EventTable, open_event_table, user_events, write_event_table
from recsys.errors import DataFileError, InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import MISSING, string_keys
from recsys.features.history.records import attribute_keys, event_dtype, make_events


def test_events_are_sorted_by_user_then_time_then_item(shop_table: EventTable) -> None:
    assert shop_table.offsets.tolist() == [0, 3, 3, 5]  # user 20 has no events
    assert shop_table.timestamp_ms.tolist() == [1000, 2000, 3000, 4000, 4000]
    assert shop_table.item_keys[shop_table.item_index].tolist() == [7, 5, 6, 5, 7]
    assert shop_table.context["hour"].tolist() == [10, 12, 9, 8, 11]


def test_entity_columns_are_those_of_the_feature_definition(shop_table: EventTable) -> None:
    assert shop_table.user_keys.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(shop_table.users["age"], [30.0, np.nan, 50.0])
    assert shop_table.users["city"][1] == MISSING
    assert shop_table.items["tags"].tolist() == [[1, 2], [-1, -1], [2, -1]]


def test_an_attribute_named_like_an_item_feature_takes_the_items_value(shop_table: EventTable) -> None:
    assert shop_table.attributes["brand"].tolist() == [3, 1, MISSING, 1, 3]


def test_arrival_is_the_timestamp_unless_given(shop: Any, tmp_path: Path) -> None:
    events = {**shop.events, "arrival_ms": [9000] * 5}
    write_event_table(shop.features, shop.users, shop.items, events, tmp_path / "late")
    assert open_event_table(tmp_path / "late").arrival_ms.tolist() == [9000] * 5
    write_event_table(shop.features, shop.users, shop.items, shop.events, tmp_path / "plain")
    table = open_event_table(tmp_path / "plain")
    assert table.arrival_ms.tolist() == table.timestamp_ms.tolist()


def test_user_events_are_the_bytes_the_online_encoder_makes(shop_table: EventTable, shop: Any) -> None:
    expected = make_events(
        shop.features,
        item=[7, 5, 6],
        timestamp_ms=[1000, 2000, 3000],
        attributes={"brand": [3, 1, None], "action": [3, 1, 2]},
    )
    assert user_events(shop_table, 0).tobytes() == expected.tobytes()
    assert user_events(shop_table, 1).shape == (0,)
    tied = user_events(shop_table, 2)
    assert tied.dtype == event_dtype(shop.features)
    assert attribute_keys(shop.features.history.attributes[1], tied).tolist() == [1, MISSING]


def test_a_table_without_events_opens(shop: Any, tmp_path: Path) -> None:
    none = {name: [] for name in ("user", "item_id", "action", "hour")}
    events = {**none, "timestamp_ms": np.zeros(0, dtype=np.int64)}
    write_event_table(shop.features, shop.users, shop.items, events, tmp_path / "empty")
    assert len(open_event_table(tmp_path / "empty")) == 0


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("events", {"user": [30, 10, 10, 99, 10]}, r"event 3: unknown user 99"),
        ("events", {"item_id": [5, 6, None, 7, 5]}, r"event 2: unknown item_id None"),
        ("events", {"hour": [1, 2]}, r"feature 'hour': 2 values for 5 entities"),
        ("events", {"user": [10, 10]}, r"2 'user' values for 5 'item_id' values"),
        ("events", {"actoin": [1] * 5}, r"unknown event column 'actoin': did you mean 'action'\?"),
        ("events", {"action": [300] * 5}, r"'action': value 300 does not fit its storage 'u8'; allowed: 0 to 254"),
        ("events", {"timestamp_ms": [-1] * 5}, r"timestamp_ms\[0\] is -1; allowed: 0 to"),
        ("users", {"user": [10, 20, 10]}, r"row 2: 'user' 10 was already given"),
        ("users", {"user": [10, None, 30]}, r"row 1: 'user' is missing"),
        ("items", {"title": ["a", "b", "c"]}, r"unknown feature 'title': .*valid: brand, item_id, tags"),
    ],
)
def test_a_wrong_column_is_refused_and_nothing_is_left(
    shop: Any, tmp_path: Path, part: str, change: dict[str, Any], message: str
) -> None:
    parts = {"users": shop.users, "items": shop.items, "events": shop.events}
    parts[part] = {**parts[part], **change}
    with pytest.raises(InvalidInputError, match=message):
        write_event_table(shop.features, path=tmp_path / "wrong", **parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("part", "name"), [("users", "user"), ("events", "timestamp_ms"), ("events", "user")])
def test_a_missing_column_is_named(shop: Any, tmp_path: Path, part: str, name: str) -> None:
    parts = {"users": shop.users, "items": shop.items, "events": shop.events}
    parts[part] = {key: column for key, column in parts[part].items() if key != name}
    with pytest.raises(InvalidInputError, match=f"column '{name}' is missing"):
        write_event_table(shop.features, path=tmp_path / "wrong", **parts)


def test_a_table_is_never_overwritten(shop: Any, shop_table: EventTable, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="shop exists: remove it first"):
        write_event_table(shop.features, shop.users, shop.items, shop.events, tmp_path / "shop")


def test_files_on_disk_are_those_of_the_format(shop_table: EventTable, tmp_path: Path) -> None:
    meta = json.loads((tmp_path / "shop" / "meta.json").read_text())
    assert (meta["kind"], meta["version"]) == ("event table", 1)
    assert FeatureSet.from_json(meta["info"]["features"]) == shop_table.features
    assert {name: (c["dtype"], c["shape"]) for name, c in meta["columns"].items()} == {
        "user.user": ("<i8", [3]),
        "user.city": ("<i8", [3]),
        "user.age": ("<f4", [3]),
        "item.item_id": ("<i8", [3]),
        "item.brand": ("<i8", [3]),
        "item.tags": ("<i8", [3, 2]),
        "offsets": ("<i8", [4]),
        "event.item": ("<i4", [5]),
        "event.timestamp": ("<i8", [5]),
        "event.arrival": ("<i8", [5]),
        "event.brand": ("<i8", [5]),
        "event.action": ("|u1", [5]),
        "context.hour": ("<i8", [5]),
    }
    files = {path.name for path in (tmp_path / "shop").iterdir()}
    assert files == {"meta.json", "names", *(f"{name}.npy" for name in meta["columns"])}
    assert [path.name for path in (tmp_path / "shop" / "names").iterdir()] == ["city.names.bin"]


def test_a_missing_column_file_is_named(shop_table: EventTable, tmp_path: Path) -> None:
    (tmp_path / "shop" / "event.item.npy").unlink()
    with pytest.raises(DataFileError, match=r"event\.item\.npy: column is missing; expected int32 of shape \[5\]"):
        open_event_table(tmp_path / "shop")


@pytest.mark.parametrize("keep_bytes", [0, 10, 60, -1])
def test_a_column_file_cut_short_is_named(shop_table: EventTable, tmp_path: Path, keep_bytes: int) -> None:
    path = tmp_path / "shop" / "event.timestamp.npy"
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(DataFileError, match=r"event\.timestamp\.npy: column is damaged or cut short; expected int64"):
        open_event_table(tmp_path / "shop")


def test_a_column_of_another_shape_is_named(shop_table: EventTable, tmp_path: Path) -> None:
    np.save(tmp_path / "shop" / "event.arrival.npy", np.zeros(4, dtype=np.int64))
    with pytest.raises(DataFileError, match=r"event\.arrival\.npy: expected int64 of shape \[5\], found .* \[4\]"):
        open_event_table(tmp_path / "shop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"event table format 2, but this program reads format 1: prepare the data again"),
        ({"kind": "samples"}, r"expected kind 'event table', found 'samples'"),
        ({"columns": []}, r"expected 'columns' and 'info'"),
    ],
)
def test_another_format_is_refused(
    shop_table: EventTable, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "shop" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataFileError, match=r"meta\.json: " + message):
        open_event_table(tmp_path / "shop")


def test_a_column_missing_from_the_list_is_named(shop_table: EventTable, tmp_path: Path) -> None:
    path = tmp_path / "shop" / "meta.json"
    meta = json.loads(path.read_text())
    del meta["columns"]["offsets"]
    path.write_text(json.dumps(meta))
    with pytest.raises(DataFileError, match=r"column 'offsets' is missing from meta\.json"):
        open_event_table(tmp_path / "shop")


@pytest.mark.parametrize(
    ("text", "message"), [("{", r"meta\.json: expected JSON"), ("[]", r"expected a JSON object, found list")]
)
def test_a_damaged_meta_file_is_refused(shop_table: EventTable, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "shop" / "meta.json").write_text(text)
    with pytest.raises(DataFileError, match=message):
        open_event_table(tmp_path / "shop")


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"not a folder of kind 'event table': meta\.json is missing"):
        open_event_table(tmp_path)


def test_offsets_that_do_not_end_at_the_last_event_are_refused(shop_table: EventTable, tmp_path: Path) -> None:
    np.save(tmp_path / "shop" / "offsets.npy", np.array([0, 3, 3, 9]))
    with pytest.raises(DataFileError, match=r"offsets\.npy: expected 4 offsets that end at 5 events"):
        open_event_table(tmp_path / "shop")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    class Unwritable:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

    columns: Any = {"good": np.zeros(3), "bad": Unwritable()}
    with pytest.raises(KeyboardInterrupt):
        write_columns(tmp_path / "half", columns, kind="test", version=1, info={})
    assert list(tmp_path.iterdir()) == []


def test_columns_are_mapped_not_read(tmp_path: Path) -> None:
    write_columns(tmp_path / "c", {"x": np.arange(9)}, kind="test", version=1, info={"n": 1})
    columns, info = open_columns(tmp_path / "c", kind="test", version=1)
    assert isinstance(columns["x"].base, np.memmap)
    assert not columns["x"].flags.writeable
    assert info == {"n": 1}


def test_of_equal_events_the_one_that_arrived_first_is_kept(shop: Any, tmp_path: Path) -> None:
    events = {
        "user": [10, 10, 10, 10, 10, 30],
        "item_id": [5, 5, 5, 6, 5, 5],
        "timestamp_ms": [1000] * 6,
        "arrival_ms": [3000, 2000, 2000, 1000, 1000, 1000],
        "action": [1, 1, 1, 1, 2, 1],
        "hour": [0, 1, 2, 3, 4, 5],
    }
    written = write_event_table(shop.features, shop.users, shop.items, events, tmp_path / "t")
    table = open_event_table(tmp_path / "t")
    # Rows 0 to 2 are equal but for arrival and context; another item, action or user is another event.
    # Of equal timestamps the earlier arrival comes first, then the smaller item.
    assert written.rows.tolist() == [4, 3, 1, 5] and written.repeated == 2
    assert table.offsets.tolist() == [0, 3, 3, 4]
    assert table.context["hour"].tolist() == [4, 3, 1, 5]
    assert table.arrival_ms.tolist() == [1000, 1000, 2000, 1000]
    assert json.loads((tmp_path / "t" / "meta.json").read_text())["info"]["repeated_events"] == 2


def test_a_damaged_column_says_which_folder_to_delete(shop_table: EventTable, tmp_path: Path) -> None:
    advice = re.escape(f"delete the folder {tmp_path / 'shop'} and prepare the data again")
    path = tmp_path / "shop" / "event.timestamp.npy"
    for damage in (lambda: path.write_bytes(b"x"), path.unlink, path.mkdir):
        damage()
        with pytest.raises(DataFileError, match=advice):
            open_event_table(tmp_path / "shop")


TEXTS = FeatureSet(
    name="texts",
    user_id=Categorical(name="user", id_type="string"),
    item_id=Categorical(name="item_id", id_type="string"),
    user=(Categorical(name="kind"),),
    item=(
        Categorical(name="kind", id_type="string", table="word"),
        Categorical(name="tags", id_type="string", max_values=3, table="word"),
    ),
    history=History(attributes=(Categorical(name="kind", id_type="string", table="word"),)),
    context=(Categorical(name="page", id_type="string"),),
)


def test_the_texts_of_all_string_ids_come_back_by_table(tmp_path: Path) -> None:
    write_event_table(
        TEXTS,
        {"user": ["ann", "bob"], "kind": [1, None]},
        {"item_id": ["七", "x"], "kind": ["a", None], "tags": [["b", "c"], None]},
        {"user": ["ann", "bob"], "item_id": ["x", "x"], "timestamp_ms": [1, 2], "kind": ["d", ""], "page": ["p", None]},
        tmp_path / "table",
    )
    names = open_event_table(tmp_path / "table").names
    expected = {"user": ["ann", "bob"], "item_id": ["x", "七"], "word": ["a", "b", "c", "d"], "page": ["p"]}
    assert {table: sorted(names[table].of(names[table].keys_R)) for table in names} == expected
    assert all(names[table].of(string_keys(texts)) == texts for table, texts in expected.items())


def test_a_table_of_an_earlier_version_has_no_texts(tmp_path: Path) -> None:
    none: dict[str, Any] = {"user": [], "item_id": [], "timestamp_ms": []}
    write_event_table(TEXTS, {"user": ["ann"]}, {"item_id": ["x"]}, none, tmp_path / "table")
    shutil.rmtree(tmp_path / "table" / "names")
    assert open_event_table(tmp_path / "table").names == {}
