"""Reading published splits, and holding out a validation part."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from recsys.data.interactions.ids import PairIds, pair_features
from recsys.data.interactions.pairs import Pairs, find_interactions, hold_out, ids_of, load_interactions, make_pairs
from recsys.errors import DataFileError, InvalidInputError
from recsys.features.feature_set import IdType
from recsys.features.hashing import string_keys

TRAIN = "0 3 1 2\n2 0\n1 4 0 \n"
TEST = "0 0\n1 1 2\n3\n"


def folder(path: Path, **texts: str | bytes) -> Path:
    """A file per text; one of bytes is written as it is, to ``.txt.gz``."""
    for name, text in texts.items():
        if isinstance(text, bytes):
            (path / f"{name}.txt.gz").write_bytes(text)
        else:
            (path / f"{name}.txt").write_text(text)
    return path


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.user_E.tolist(), pairs.item_E.tolist(), strict=True))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_folder_is_read_as_published(tmp_path: Path, compressed: bool) -> None:
    train, test = (gzip.compress(t.encode()) if compressed else t for t in (TRAIN, TEST))
    got = load_interactions(folder(tmp_path, train=train, test=test), validation_share=0.0)
    assert (got.num_users, got.num_items) == (3, 5)  # the last user has no items, so nobody knows of them
    assert listed(got.train) == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 4), (2, 0)]
    assert listed(got.test) == [(0, 0), (1, 1), (1, 2)]
    assert listed(got.validation) == []
    assert got.source == str(tmp_path)


def test_a_published_validation_file_is_the_validation_part(tmp_path: Path) -> None:
    got = load_interactions(folder(tmp_path, train=TRAIN, test=TEST, valid="2 6\n0 4\n"))
    assert listed(got.validation) == [(0, 4), (2, 6)]
    assert len(got.train) == 6
    assert got.num_items == 7


def test_a_share_beside_a_validation_part_of_the_datas_own_is_noted(tmp_path: Path) -> None:
    texts = {"train": TRAIN, "test": TEST}
    for name in ("own", "none"):
        (tmp_path / name).mkdir()
    own = folder(tmp_path / "own", **texts, valid="2 6\n0 4\n")
    said = "data.validation_share 0.3 is without effect: the data has a validation part of its own"
    assert load_interactions(own, validation_share=0.3).notes == (said,)
    assert load_interactions(own).notes == ()
    assert load_interactions(folder(tmp_path / "none", **texts), validation_share=0.3).notes == ()


def test_a_tenth_of_each_users_training_items_is_held_out(tmp_path: Path) -> None:
    counts = [1, 2, 9, 14, 26, 40]
    train = "".join(f"{user} {' '.join(map(str, range(n)))}\n" for user, n in enumerate(counts))
    got = load_interactions(folder(tmp_path, train=train, test="0 50\n"), seed=3)
    assert np.bincount(got.validation.user_E, minlength=6).tolist() == [0, 1, 1, 1, 3, 4]
    everything = [(user, item) for user, n in enumerate(counts) for item in range(n)]
    assert sorted(listed(got.train) + listed(got.validation)) == everything
    for part in (got.train, got.validation):
        assert listed(part) == sorted(listed(part))


def test_the_draw_follows_the_seed_and_nothing_else() -> None:
    pairs = make_pairs(np.repeat(np.arange(30), 20), np.tile(np.arange(20), 30))
    first, again, other = (listed(hold_out(pairs, share=0.3, seed=seed)[1]) for seed in (1, 1, 2))
    assert first == again != other


def test_every_item_of_a_user_is_equally_likely_to_be_held_out() -> None:
    pairs = make_pairs(np.repeat(np.arange(20_000), 4), np.tile(np.arange(4), 20_000))
    _, held = hold_out(pairs, share=0.25, seed=0)
    # 20,000 draws of one item in four: a standard deviation of 61.
    assert np.abs(np.bincount(held.item_E) - 5000).max() < 5 * 61


def test_a_user_always_keeps_something() -> None:
    pairs = make_pairs(np.array([0, 0, 1, 3, 3, 3]), np.array([1, 2, 1, 0, 1, 2]))
    kept, held = hold_out(pairs, share=0.99, seed=0)
    assert np.bincount(kept.user_E).tolist() == [1, 1, 0, 1]
    assert np.bincount(held.user_E).tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(InvalidInputError, match=r"share is (-0.1|1.0|nan); allowed: 0 to below 1"):
        hold_out(make_pairs(np.array([0]), np.array([0])), share=share, seed=0)


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"\[2\] users for \[1\] items; both must be \[E\]"):
        make_pairs(np.array([0, 1]), np.array([0]))
    with pytest.raises(InvalidInputError, match="an index is -1; allowed: 0 or more"):
        make_pairs(np.array([0, 1]), np.array([0, -1]))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("0 1\n1 x 2\n", r"train.txt: line 2: expected user item item ... \(integers from 0\), found '1 x 2'"),
        ("0 -1\n", "train.txt: line 1: expected .* found '0 -1'"),
        ("0 1234567890\n", "train.txt: line 1: expected"),
        ("0 1\n\n0 2\n", "train.txt: line 3: expected a new user, found 0, which line 1 has"),
        ("", "train.txt: holds no interactions"),
        ("0\n1\n", "train.txt: holds no interactions"),
        ("0 9 1\n", "user 0 has item 1 in two of the files; expected disjoint files"),
        (b"0 1\n", "train.txt.gz: not a gzip file"),
        (gzip.compress(TRAIN.encode(), mtime=0)[:-9], "train.txt.gz: damaged or cut short"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path: Path, train: str | bytes, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        load_interactions(folder(tmp_path, train=train, test="0 1\n"))


def test_absent_and_unreadable_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="has neither train.txt.gz nor train.txt"):
        load_interactions(tmp_path)
    (tmp_path / "train.txt").mkdir()
    with pytest.raises(DataFileError, match="train.txt: cannot be read: Is a directory"):
        load_interactions(tmp_path)


def test_a_data_set_is_found_where_the_option_then_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, named = tmp_path / "given", tmp_path / "named" / "gowalla"
    for place in (given, named):
        place.mkdir(parents=True)
        folder(place, train=TRAIN)
    monkeypatch.setenv("RECSYS_DATA_DIR", str(tmp_path / "named"))
    assert find_interactions("gowalla") == named
    assert find_interactions("gowalla", given) == given
    assert find_interactions("gowalla", tmp_path / "named") == named
    assert find_interactions(str(given)) == given
    with pytest.raises(DataFileError, match=r"no train.txt.gz in .*nowhere; give the folder of a log"):
        find_interactions(str(tmp_path / "nowhere"))


def test_without_lists_of_ids_an_index_is_its_own_id(tmp_path: Path) -> None:
    ids = ids_of(load_interactions(folder(tmp_path, train=TRAIN, test=TEST), name="shop"))
    assert ids.user_keys_N.tolist() == [0, 1, 2] and ids.item_keys_M.tolist() == [0, 1, 2, 3, 4]
    assert (ids.features.name, ids.features.user_id.id_type, ids.features.item_id.id_type) == ("shop", "int", "int")


@pytest.mark.parametrize("compressed", [False, True])
def test_lists_say_which_ids_the_indices_stand_for(tmp_path: Path, compressed: bool) -> None:
    users = "org_id remap_id\n70 1\n9 0\n800 2\n12 3\n"  # of a user without items too
    items = "org_id remap_id\n" + "".join(f"B0{index}X {index}\n" for index in range(5))
    lists = {"user_list": users, "item_list": items}
    given = {name: gzip.compress(text.encode()) for name, text in lists.items()} if compressed else lists
    ids = ids_of(load_interactions(folder(tmp_path, train=TRAIN, test=TEST, **given)))
    assert ids.user_keys_N.tolist() == [9, 70, 800] and ids.features.user_id.id_type == "int"
    assert ids.item_keys_M.tolist() == string_keys([f"B0{index}X" for index in range(5)]).tolist()
    assert ids.features.item_id.id_type == "string"
    assert ids.item_names_M == tuple(f"B0{index}X" for index in range(5))


@pytest.mark.parametrize("other", ["-1", "007", str(1 << 62), "x"])
def test_ids_that_are_not_their_own_keys_are_texts(other: str, tmp_path: Path) -> None:
    users = f"h i\n{(1 << 62) - 1} 0\n{other} 1\n0 2\n"
    ids = ids_of(load_interactions(folder(tmp_path, train=TRAIN, test=TEST, user_list=users)))
    assert ids.features.user_id.id_type == "string"
    assert ids.user_keys_N.tolist() == string_keys([str((1 << 62) - 1), other, "0"]).tolist()


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ("h i\n7 0\n8 1\n", "user_list.txt: no id of index 2; expected the ids of 0 to 2"),
        ("h i\n7 0\n8 1\n7 2\n", "user_list.txt: two indices below 3 have one id; expected distinct ids"),
        ("h i\n7 0\n8\n", "user_list.txt: line 3: expected an id and its index, found '8'"),
        ("h i\n7 zero\n", "user_list.txt: line 2: expected an id and its index, found '7 zero'"),
        ("h i\nNUcxGd9W 1\nJCaTtfAV 0\nx 2\n", "'JCaTtfAV' and 'NUcxGd9W' have one key, 1824316602636817148 "),
        (b"h i\na 0\n\xe9 1\n", r"user_list.txt.gz: line 3: expected UTF-8, found b'\\xe9 1'"),
    ],
)
def test_a_list_of_ids_that_is_not_whole_is_refused(users: str | bytes, message: str, tmp_path: Path) -> None:
    users = gzip.compress(users) if isinstance(users, bytes) else users
    with pytest.raises(DataFileError, match=message):
        load_interactions(folder(tmp_path, train=TRAIN, test=TEST, user_list=users))


@pytest.mark.parametrize(
    ("id_type", "names", "message"),
    [
        ("string", None, "item_names_M: 0 names of 3 items, which take string ids; expected 3"),
        ("string", ("a", "b"), "item_names_M: 2 names of 3 items, which take string ids; expected 3"),
        ("int", ("a", "b", "c"), "item_names_M: 3 names of 3 items, which take int ids; expected 0"),
    ],
)
def test_items_have_names_where_their_ids_are_strings(
    id_type: IdType, names: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        PairIds(
            features=pair_features("shop", "int", id_type),
            user_keys_N=np.arange(2),
            item_keys_M=np.arange(3),
            item_names_M=names,
        )
