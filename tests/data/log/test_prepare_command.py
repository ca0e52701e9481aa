"""`recsys prepare`: from files to a folder that can be trained on."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.cli.prepare import parse_size
from recsys.data.datasets import load_dataset
from recsys.errors import ConfigError, DataFileError

FEATURES = {
    "name": "shop",
    "user_id": {"name": "user"},
    "item_id": {"name": "item_id", "id_type": "string"},
    "item": [{"name": "brand", "id_type": "string"}],
    "history": {"attributes": [{"name": "brand", "id_type": "string"}, {"name": "rating", "storage": "u8"}]},
}
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "features.json").write_text(json.dumps(FEATURES))
    rows = [f"{user},{'xyz'[n % 3]},{n * DAY_MS},{n % 5 + 1}" for n in range(10) for user in (1, 2)]
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
    items, start = str(folder / "items.jsonl"), ("--validation-from", "1970-01-08", "--test-from", str(9 * DAY_MS))
    summary = prepare(folder, "--items", items, "--label", "rating>=4", *start, "--memory-limit", "1GB")
    assert summary["samples"] == {"train": 14, "validation": 4, "test": 2}
    assert (summary["users"], summary["items"], summary["events"], summary["rejected"]) == (2, 3, 20, 0)
    dataset = load_dataset(str(folder / "out"), recent=5, work_dir=folder).dataset
    assert {name: len(split) for name, split in dataset.samples.splits.items()} == summary["samples"]


def test_rows_that_do_not_fit_are_written_aside(folder: Path) -> None:
    with open(folder / "log.csv", "a") as log:
        log.write("x,y,5,1\n")
    with pytest.raises(DataFileError, match=r"log\.csv: row 21: 'user' takes int ids; got 'x'"):
        prepare(folder)
    assert prepare(folder, "--rejects", str(folder / "rejects.jsonl"))["rejected"] == 1
    assert json.loads((folder / "rejects.jsonl").read_text())["row"]["user"] == "x"


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
    given = ("--label", "rating>=4", "--validation-from", "1970-01-08", "--test-from", "1970-02-01")
    split = prepare(folder, *given)["split"]
    assert isinstance(split, dict) and split["rule"] == "time"
    assert split["parts"]["train"]["samples"] == 14 and split["parts"]["train"]["positives"] == 4
    expected = (
        "the test part is empty: no sample is from 1970-02-01T00:00:00Z on; they are from 1970-01-01T00:00:00Z to "
        "1970-01-10T00:00:00Z; `recsys evaluate` has nothing to measure there"
    )
    assert expected in split["warnings"]
    assert expected in load_dataset(str(folder / "out"), recent=5, work_dir=folder).dataset.samples.warnings
    change = ["data.dataset=" + str(folder / "out"), "train.epochs=1", "--run-dir"]
    trained = CliRunner().invoke(app, ["train", "din", *change, str(folder / "run")])
    assert trained.exit_code == 0 and f"warning: {expected}" in trained.stderr, trained.output
    evaluated = CliRunner().invoke(app, ["evaluate", str(folder / "run")])
    assert evaluated.exit_code == 0 and f"warning: {expected}" in evaluated.stderr, evaluated.output
