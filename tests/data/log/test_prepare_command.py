"""`recsys prepare`: from files to a folder that can be trained on."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.cli.prepare import parse_size
from recsys.data.datasets import load_dataset
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.features.hashing import string_key

FEATURES = {
    "name": "shop",
    "user_id": {"name": "user"},
    "item_id": {"name": "item_id", "id_type": "string"},
    "item": [{"name": "brand", "id_type": "string"}],
    "history": {"attributes": [{"name": "brand", "id_type": "string"}, {"name": "rating", "storage": "u8"}]},
}
DAY_MS = 24 * 3600 * 1000
T0_MS = 1704067200000
"""2024-01-01."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "features.json").write_text(json.dumps(FEATURES))
    rows = [f"{user},{'xyz'[n % 3]},{T0_MS + n * DAY_MS},{n % 5 + 1}" for n in range(10) for user in (1, 2)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item_id,timestamp_ms,rating", *rows]) + "\n")
    (tmp_path / "items.jsonl").write_text("".join(f'{{"item_id": "{i}", "brand": "b{i}"}}\n' for i in "xyz"))
    return tmp_path


def prepare(folder: Path, *options: str) -> dict[str, object]:
    given = [str(folder / "log.csv"), "--features", str(folder / "features.json"), "--out", str(folder / "out")]
    result = CliRunner().invoke(app, ["prepare", *given, "--json", *options], catch_exceptions=False)
    if result.exception is not None:
        raise result.exception
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_log_becomes_a_folder_to_train_on(folder: Path) -> None:
    items, start = (
        str(folder / "items.jsonl"),
        ("--validation-from", "2024-01-08", "--test-from", str(T0_MS + 9 * DAY_MS)),
    )
    summary = prepare(folder, "--items", items, "--label", "rating>=4", *start, "--memory-limit", "1GB")
    assert summary["samples"] == {"train": 14, "validation": 4, "test": 2}
    assert (summary["users"], summary["items"], summary["events"], summary["rejected"]) == (2, 3, 20, 0)
    dataset = load_dataset(str(folder / "out"), recent=5, work_dir=folder).dataset
    assert {name: len(split) for name, split in dataset.samples.splits.items()} == summary["samples"]


def test_rows_that_do_not_fit_are_written_aside(folder: Path) -> None:
    with open(folder / "log.csv", "a") as log:
        log.write(f"x,y,{T0_MS},1\n")
    with pytest.raises(DataFileError, match=r"log\.csv: row 21: 'user' is 'x'; allowed: a 64-bit integer \(--strict"):
        prepare(folder, "--no-samples", "--strict")
    assert not (folder / "out").exists()
    summary = prepare(folder, "--no-samples")
    assert summary["rejected"] == 1 and summary["rejects"] == str(folder / "out.rejected.jsonl")
    letter = json.loads((folder / "out.rejected.jsonl").read_text())
    assert letter["file"] == str(folder / "log.csv") and letter["row"] == 21
    assert (letter["field"], letter["value"], letter["allowed"]) == ("user", "x", "a 64-bit integer")
    assert letter["record"] == f"x,y,{T0_MS},1"
    shutil.rmtree(folder / "out")
    assert prepare(folder, "--no-samples", "--rejects", str(folder / "rejects.jsonl"))["rejected"] == 1
    assert json.loads((folder / "rejects.jsonl").read_text())["row"] == 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--test-from", "soon"), "--test-from is 'soon': expected a date like 2026-01-31"),
        (("--memory-limit", "lots"), "size 'lots': expected a number and MB, GB, MiB or GiB"),
        (("--entity", "shop"), "--entity 'shop': expected NAME=FILE"),
    ],
)
def test_an_option_that_cannot_be_read_is_refused(folder: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(folder, *options)


def test_sizes_are_read_with_their_units() -> None:
    assert [parse_size(text) for text in ("4GB", "512 mib", "1.5GiB")] == [4 * 10**9, 512 << 20, 3 << 29]


def test_an_odd_part_is_warned_of_by_every_command_that_uses_it(folder: Path) -> None:
    given = ("--label", "rating>=4", "--validation-from", "2024-01-08", "--test-from", "2024-02-01")
    split = prepare(folder, *given)["split"]
    assert isinstance(split, dict) and split["rule"] == "time"
    assert split["parts"]["train"]["samples"] == 14 and split["parts"]["train"]["positives"] == 4
    expected = (
        "the test part is empty: no sample is from 2024-02-01T00:00:00Z on; they are from 2024-01-01T00:00:00Z to "
        "2024-01-10T00:00:00Z; `recsys evaluate` has nothing to measure there"
    )
    assert expected in split["warnings"]
    assert expected in load_dataset(str(folder / "out"), recent=5, work_dir=folder).dataset.samples.warnings
    change = ["data.dataset=" + str(folder / "out"), "train.epochs=1", "--run-dir"]
    trained = CliRunner().invoke(app, ["train", "din", *change, str(folder / "run")])
    assert trained.exit_code == 0 and f"warning: {expected}" in trained.stderr, trained.output
    evaluated = CliRunner().invoke(app, ["evaluate", str(folder / "run")])
    assert evaluated.exit_code == 0 and f"warning: {expected}" in evaluated.stderr, evaluated.output


def test_a_log_that_nothing_makes_samples_of_is_refused_with_the_ways_there_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing says which rows are positive") as caught:
        prepare(folder)
    for way in ("--negatives 4", '--label "rating>=4"', "--labels FILES", "--requests FOLDER", "--no-samples"):
        assert f"\n  {way}  " in str(caught.value)
    assert not (folder / "out").exists()
    summary = prepare(folder, "--no-samples")
    assert (summary["events"], summary["samples"], summary["warnings"]) == (20, {}, [])
    trained = CliRunner().invoke(
        app, ["train", "din", f"data.dataset={folder / 'out'}", "--run-dir", str(folder / "r")]
    )
    assert "the log was prepared without samples" in str(trained.exception)


def test_clicks_alone_become_lists_with_negatives(folder: Path) -> None:
    log = (folder / "log.csv").read_text().replace(f"1,x,{T0_MS},", f"1,w,{T0_MS},")  # an item that user 2 never took
    (folder / "log.csv").write_text(log)
    summary = prepare(folder, "--negatives", "2", "--negatives-by", "popularity", "--negatives-seed", "7")
    drawn, split = summary["negatives"], summary["split"]
    assert isinstance(drawn, dict) and isinstance(split, dict)
    assert drawn["rule"] == {"per_positive": 2, "by": "popularity", "seed": 7}
    # User 1 took all there is; user 2 took all but w, once for each of its ten moments.
    assert (drawn["positives"], drawn["negatives"], drawn["short_moments"]) == (20, 10, 20)
    assert sum(part["samples"] for part in split["parts"].values()) == 30
    notes, short = (str(w) for w in list(summary["warnings"])[:2])  # type: ignore[call-overload]
    assert notes.startswith("negatives are drawn (2 for a positive, popularity): scores rank items, and are no prob")
    assert short.startswith("20 of 20 lists, of 2 users, have fewer than 2 negatives for a positive")
    dataset = load_dataset(str(folder / "out"), recent=5, work_dir=folder).dataset
    assert list(dataset.samples.warnings) == summary["warnings"]
    zeros = dataset.samples.label == 0
    assert set(dataset.table.item_keys[dataset.sample_item[zeros]].tolist()) == {string_key("w")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--negatives", "2", "--labels", "x.csv"), "--labels goes without --negatives: each says what users did not"),
        (("--requests", "x", "--labels", "x.csv"), "--labels goes without --requests"),
        (("--no-samples", "--negatives", "2"), "--no-samples goes without --negatives"),
        (("--no-samples", "--label", "rating>=4"), "--no-samples goes without --label"),
        (("--negatives", "-1"), "negatives is -1; allowed: 1 to 1000"),
        (("--negatives-by", "popularity"), "need --negatives N"),
        (("--window", "soon"), "--window 'soon': expected a number and s, m, h or d"),
        (("--window", "400d"), "window is 34560000000 ms; allowed"),
        (("--negatives", "2", "--label", "rating>=9"), "no event is positive"),
    ],
)
def test_ways_to_make_samples_that_contradict_are_refused(folder: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        prepare(folder, *options)
    assert not (folder / "out").exists()
