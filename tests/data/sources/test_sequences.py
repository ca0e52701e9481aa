"""S3-Rec's sequences: who is split how, what is drawn, and what is wrong in the files is named."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.item_sequences import SEQUENCES, sample_lines, write_sequences

from recsys.data.datasets import load_dataset
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.sources.sequences.files import read_sequences
from recsys.data.sources.sequences.prepare import ATTRIBUTES, CANDIDATES, NEGATIVES, draw_unseen, prepare_sequences
from recsys.errors import DataFileError

Write = Callable[..., Path]

PUBLISHED = "s3rec_sequences"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a small LastFM; a text of None is left out."""
    return functools.partial(write_sequences, tmp_path / "data")


def prepared(path: Path, *, seed: int = 0) -> Dataset:
    return prepare_sequences("lastfm_sequences", path, path.parent / "prepared", seed=seed)


def shown(dataset: Dataset, split: str, user: int) -> list[tuple[int, int, int]]:
    """(time, item, label) of a user's samples in a split."""
    rows = dataset.split(split)
    rows = rows[dataset.table.user_keys[dataset.sample_user[rows]] == user]
    items = dataset.table.item_keys[dataset.sample_item[rows]]
    return list(zip(dataset.sample_time_ms[rows], items, dataset.samples.label[rows], strict=True))


def test_the_last_item_is_for_test_and_the_one_before_for_validation(write: Write) -> None:
    dataset = prepared(write())
    happened = {
        split: [(int(t), int(item)) for t, item, label in shown(dataset, split, 7) if label]
        for split in ("train", "validation", "test")
    }
    assert happened == {"train": [(2, 2), (3, 3), (4, 4)], "validation": [(5, 5)], "test": [(6, 6)]}


def test_a_history_is_what_came_before_in_the_sequence(write: Write) -> None:
    dataset = prepared(write())
    rows = dataset.split("test")
    row = rows[dataset.table.user_keys[dataset.sample_user[rows]] == 7][:1]
    assert make_batch(dataset, row).history["history.item_id"].tolist() == [1, 2, 3, 4, 5]


def test_each_candidate_list_has_one_item_that_happened_and_99_others_the_user_never_had(write: Write) -> None:
    dataset = prepared(write())
    for split in ("validation", "test"):
        candidates = shown(dataset, split, 7)
        items = {int(item) for _, item, _ in candidates}
        assert len(candidates) == len(items) == CANDIDATES
        assert sum(int(label) for _, _, label in candidates) == 1
        assert len(items & {1, 2, 3, 4, 5, 6}) == 1


def test_training_negatives_are_not_items_of_the_users_training_part(write: Write) -> None:
    dataset = prepared(write())
    drawn = [int(item) for _, item, label in shown(dataset, "train", 7) if not label]
    assert len(drawn) == 3 * NEGATIVES
    assert not set(drawn) & {1, 2, 3, 4}


def test_training_negatives_may_be_what_the_user_has_later() -> None:
    random = np.random.default_rng(0)
    drawn = draw_unseen(np.zeros(50, dtype=np.int64), seen=np.array([0, 1]), items=4, count=1, random=random)
    assert set(drawn.ravel().tolist()) == {2, 3}


def test_draws_are_uniform_over_what_is_left() -> None:
    random = np.random.default_rng(0)
    drawn = draw_unseen(np.zeros(4000, dtype=np.int64), seen=np.array([1, 3]), items=6, count=2, random=random)
    counts = np.bincount(drawn.ravel(), minlength=6)
    assert counts[[1, 3]].tolist() == [0, 0]
    # 8,000 draws of four items: a standard deviation is at most 39.
    assert np.abs(counts[[0, 2, 4, 5]] - 2000).max() < 200


def test_a_user_with_fewer_than_three_items_is_only_trained_on(write: Write) -> None:
    dataset = prepared(write())
    assert [(int(t), int(i)) for t, i, label in shown(dataset, "train", 9) if label] == [(2, 9)]
    assert shown(dataset, "validation", 9) == shown(dataset, "test", 9) == []


def test_published_negatives_are_the_test_candidates(write: Write) -> None:
    dataset = prepared(write(sample=sample_lines(SEQUENCES)))
    items = sorted(int(item) for _, item, label in shown(dataset, "test", 7) if not label)
    assert items == list(range(120, 219))


def test_an_item_without_attributes_has_none_and_others_their_most_listed_first(write: Write) -> None:
    dataset = prepared(write())
    attributes = dict(zip(dataset.table.item_keys.tolist(), dataset.table.items["attributes"].tolist(), strict=True))
    main = dict(zip(dataset.table.item_keys.tolist(), dataset.table.items["main_attribute"].tolist(), strict=True))
    empty = [-1] * ATTRIBUTES
    assert attributes[1] == [9, 5, *empty[2:]] and main[1] == 9
    assert attributes[2] == attributes[4] == empty and main[2] == main[4] == -1
    assert attributes[3] == list(range(1, ATTRIBUTES + 1))


def test_a_seed_names_the_draw_and_its_folder(write: Write) -> None:
    folder = write()
    first, again, other = (prepared(folder, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.sample_item, again.sample_item)
    assert not np.array_equal(first.sample_item, other.sample_item)
    assert len(list((folder.parent / "prepared").iterdir())) == 2


def test_the_data_set_is_loaded_by_its_name_with_as_many_events_as_asked(write: Write, tmp_path: Path) -> None:
    loaded = load_dataset("lastfm_sequences", recent=2, work_dir=tmp_path / "work", path=write(gz=False))
    rows = loaded.dataset.split("test")
    assert int((loaded.dataset.history_end - loaded.dataset.history_begin)[rows].max()) == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7 1 2 x\n", r"line 1: expected user item item \.\.\. between blanks, found '7 1 2 x'"),
        ("7 1 2\n7\n", r"line 2: expected user item item"),
        ("", r"line 1: .*, found ''"),
        ("7 1 -2\n", r"line 1: "),
        ("7 1 2\n8 1 2\n7 3\n", r"line 3: expected a new user, found 7, whom line 1 has"),
    ],
)
def test_a_malformed_sequence_is_named(write: Write, text: str, found: str) -> None:
    with pytest.raises(DataFileError, match=rf"LastFM\.txt\.gz: {found}"):
        prepared(write(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object of attributes by item id, found list"),
        ('{"1": "x"}', "item '1': expected a list of attribute ids, found x"),
        ('{"a": [1]}', "item 'a': expected a list"),
        ('{"1": [1.5]}', r"item '1': expected a list of attribute ids, found \[1\.5\]"),
    ],
)
def test_malformed_attributes_are_named(write: Write, text: str, found: str) -> None:
    with pytest.raises(DataFileError, match=rf"item2attributes\.json\.gz: {found}"):
        prepared(write(attributes=text))


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("7 120", "8 120", r"line 1: expected a user who has a sequence, found user 8"),
        ("7 120", "7 1", r"line 1: expected items that user 7 never had, found item 1"),
        ("7 120", "7 999", r"line 1: expected items of the sequences, found item 999"),
        ("3 120 121", "3 121", r"line 2: expected 99 different items, as in line 1, found 98"),
        ("3 120 121", "3 121 121", r"line 2: expected 99 different items, as in line 1, found 98"),
    ],
)
def test_published_negatives_that_do_not_fit_are_named(write: Write, old: str, new: str, found: str) -> None:
    sample = sample_lines(SEQUENCES)
    assert old in sample
    with pytest.raises(DataFileError, match=rf"LastFM_sample\.txt\.gz: {found}"):
        prepared(write(sample=sample.replace(old, new, 1)))


def test_a_user_without_published_negatives_is_named(write: Write) -> None:
    with pytest.raises(DataFileError, match=r"no line of user 7; expected one of each user"):
        prepared(write(sample=sample_lines(SEQUENCES).split("\n", 1)[1]))


def test_too_few_items_to_draw_from_is_an_error(write: Write) -> None:
    with pytest.raises(DataFileError, match=r"user number 1: had all but 2 of 6 items; expected 4 to draw from"):
        prepared(write("7 1 2 3 4 5 6\n"))


def test_an_absent_or_damaged_file_is_named(write: Write) -> None:
    folder = write(sequences=None)
    with pytest.raises(DataFileError, match=r"holds no LastFM\.txt; expected the folder of S3-Rec's data"):
        prepared(folder)
    folder = write()
    (folder / "s3rec_sequences" / "LastFM_item2attributes.json.gz").unlink()
    with pytest.raises(DataFileError, match=r"LastFM_item2attributes\.json: does not exist, gzipped or not"):
        prepared(folder)
    file = folder / "s3rec_sequences" / "LastFM.txt.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataFileError, match=r"LastFM\.txt\.gz: damaged or cut short"):
        prepared(folder)


def test_the_published_lastfm_has_its_published_size() -> None:
    found = [f for f in (os.environ.get("RECSYS_DATA_DIR"), "../shared/data") if f and (Path(f) / PUBLISHED).is_dir()]
    if not found:
        pytest.skip("S3-Rec's data is not here")
    sequences = read_sequences(Path(found[0]) / PUBLISHED, "LastFM")
    assert len(sequences.user) == 1090 and len(sequences.item) == 52_551
    assert len(np.unique(sequences.item)) == len(sequences.attributes) == 3646
    assert sequences.negatives is not None and sequences.negatives.shape == (1090, CANDIDATES - 1)
