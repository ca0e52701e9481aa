"""Logs that are odd or of no use, as a user brings them: all models that rank all items say so, or train as defined."""

from __future__ import annotations

import csv
import functools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.command_line import recsys as process
from support.tiny_run import folder_of_this_process
from typer.testing import CliRunner

from recsys.bundle import read_manifest
from recsys.cli import app
from recsys.errors import ConfigError, DataFileError, RecsysError
from recsys.recipes import OWN_LOG_RETRIEVAL

Row = tuple[object, object, int, int]

START_MS, HOUR_MS = 1_700_000_000_000, 3_600_000
USERS, MOMENTS, ITEMS = 20, 12, 25
BY_TIME = ("--validation-from", str(START_MS + 8 * HOUR_MS), "--test-from", str(START_MS + 10 * HOUR_MS))
FEATURES: dict[str, Any] = {
    "name": "shop",
    "user_id": {"name": "user_id"},
    "item_id": {"name": "item_id", "id_type": "string"},
    "item": [
        {"kind": "categorical", "name": "brand", "id_type": "string"},
        {"kind": "numeric", "name": "price", "default": 0.0},
    ],
    "history": {"recent": 10},
}


def events(item: Callable[[int, int, int], object] = lambda user, moment, drawn: f"i{drawn}") -> list[Row]:
    """A log of draws: what ``item`` makes of user, moment and the item drawn; three of four rows are positive."""
    draw = random.Random(0)
    return [
        (user, item(user, moment, drawn), START_MS + moment * HOUR_MS + user, int((drawn + user) % 4 != 0))
        for moment in range(MOMENTS)
        for user in range(USERS)
        if (drawn := draw.randrange(ITEMS)) >= 0
    ]


class Log(NamedTuple):
    """Rows of a log, attributes of items by name, options of `recsys prepare`, and FeatureSet."""

    rows: Sequence[Row]
    items: dict[str, tuple[str, str]] = {}
    options: Sequence[str] = BY_TIME
    features: dict[str, Any] = FEATURES


def attributes(of: Callable[[int], tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {f"i{number}": of(number) for number in range(ITEMS)}


def plain(number: int) -> tuple[str, str]:
    return f"b{number % 3}", str(number)


ODD = {
    "plain": Log(events(), attributes(plain)),
    "renamed": Log(
        events(lambda _, __, drawn: "new" if drawn == 3 else f"i{drawn}"),
        {"new" if name == "i3" else name: of for name, of in attributes(plain).items()},
    ),
    "all renamed": Log(events(lambda _, __, drawn: f"x{drawn}")),
    "integers": Log(
        events(lambda _, __, drawn: drawn), features={**FEATURES, "item_id": {"name": "item_id"}, "item": []}
    ),
    "negative integers": Log(
        [(-2 - int(str(user)), *row) for user, *row in events(lambda _, __, drawn: -2 - drawn)],
        features={**FEATURES, "item_id": {"name": "item_id"}, "item": []},
    ),
    "names that are numbers": Log(events(lambda _, __, drawn: drawn), features={**FEATURES, "item": []}),
    "odd names": Log(events(lambda _, __, drawn: f"ï '\"{drawn}💡"), features={**FEATURES, "item": []}),
    "most attributes missing": Log(events(), attributes(lambda number: plain(number) if number < 2 else ("", ""))),
    "no attributes": Log(events(), attributes(lambda number: ("", ""))),
    "prices that are no numbers": Log(events(), attributes(lambda n: (f"b{n % 3}", "NaN" if n % 2 else "1"))),
    "huge prices": Log(events(), attributes(lambda n: (f"b{n % 3}", "3e38" if n % 2 else "-3e38"))),
    "other features": Log(events(), features={**FEATURES, "item": FEATURES["item"][:1]}),
    "no validation part": Log(events(), options=("--test-from", str(START_MS + 10 * HOUR_MS))),
    "a user of 100,000 events": Log(
        [*events(), *((999, f"i{n % ITEMS}", START_MS + n * 340, n % 2) for n in range(100_000))], attributes(plain)
    ),
}
"""Logs that are trained on."""

NEW = Log(events(lambda user, moment, drawn: f"i{drawn if moment < 10 else ITEMS + user % 5}"))
"""In its test part are items that are nowhere else."""

EMPTY = {
    "one item": Log(events(lambda _, __, ___: "i0")),
    "one user, the same again": Log([(1, f"i{n % 2}", START_MS + n * HOUR_MS, n % 3 % 2) for n in range(MOMENTS)]),
    "one moment": Log([(user, item, START_MS, label) for user, item, _, label in events()]),
    "duplicates": Log([*[(1, "i1", START_MS, 1)] * 50, *[(1, "i0", START_MS, 0)] * 50]),
    "everyone takes the same again": Log(
        [(user, f"i{user}", START_MS + n * HOUR_MS, n % 2) for n in range(MOMENTS) for user in range(USERS)]
    ),
}  # fmt: skip
"""Logs that leave nothing to find."""


@functools.cache
def folder_of(name: str) -> Path:
    """The folder in which a log of one of the names is prepared as ``shop``, once in a process."""
    log = {**ODD, **EMPTY, "new items": NEW}[name]
    folder = folder_of_this_process() / f"bad-log-{name.replace(' ', '-').replace(',', '')}"
    done = prepare(folder, log)
    assert done.exit_code == 0, done.output
    return folder


def prepare(folder: Path, log: Log) -> Any:
    folder.mkdir(exist_ok=True)
    write(folder / "log.csv", ["user_id", "item_id", "timestamp_ms", "label"], log.rows)
    (folder / "features.json").write_text(json.dumps(log.features))
    given = ["--features", str(folder / "features.json"), "--out", str(folder / "shop"), *log.options]
    if log.items:
        write(folder / "items.csv", ["item_id", "brand", "price"], [(name, *of) for name, of in log.items.items()])
        given += ["--items", str(folder / "items.csv")]
    return CliRunner().invoke(app, ["prepare", str(folder / "log.csv"), *given])


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def train(recipe: str, log: str, run: Path, *more: str) -> dict[str, Any]:
    """Figures and notes of a run of two passes."""
    passes = [] if recipe == "linear" else ["train.epochs=2", "train.validate_every=1"]
    command = ["train", recipe, f"data.dataset={folder_of(log) / 'shop'}", "--run-dir", str(run), "--json"]
    done = CliRunner().invoke(app, [*command, *passes, *more], catch_exceptions=False)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@functools.cache
def plain_run(recipe: str) -> Path:
    """A run on the log ``plain``, to go on from."""
    run = folder_of_this_process() / f"plain-{recipe}"
    train(recipe, "plain", run)
    return run


every_model = pytest.mark.parametrize("recipe", OWN_LOG_RETRIEVAL)


@every_model
@pytest.mark.parametrize("log", EMPTY)
def test_a_log_that_leaves_nothing_to_find_is_refused_with_what_its_test_part_holds(
    recipe: str, log: str, tmp_path: Path
) -> None:
    with pytest.raises(DataFileError, match=r"nothing to find in the test part: of its \d+ samples \d+ are positives"):
        train(recipe, log, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@every_model
def test_test_pairs_of_items_that_training_had_not_are_said_to_be_in_no_list(recipe: str, tmp_path: Path) -> None:
    told = train(recipe, "new items", tmp_path / "run")
    (said,) = (note for note in told["notes"] if "in no list" in note)
    assert said.endswith(
        "test pairs are of 5 items of which nothing was learnt: they are in no list, and count as not found"
    )
    assert told["test"]["recall"] == 0.0, "there are no others to find"


@every_model
def test_lists_are_no_longer_than_there_are_items(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train.list_length is 26; allowed: at most the 25 items"):
        train(recipe, "plain", tmp_path / "run", "train.list_length=26")
    assert not (tmp_path / "run").exists()


@every_model
def test_without_a_validation_part_nothing_is_chosen_on_one(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no validation part.*; set data.validation_share above 0, or"):
        train(recipe, "no validation part", tmp_path / "run", "data.validation_share=0")
    assert not (tmp_path / "run").exists()


def test_a_renamed_item_begins_anew_and_the_others_go_on(tmp_path: Path) -> None:
    for recipe in ("mf", "two_tower"):
        told = train(recipe, "renamed", tmp_path / recipe, "--warm-start", str(plain_run(recipe)), "--since", "2h")
        (said,) = (note for note in told["notes"] if note.startswith("warm start from"))
        assert "24 of 25 items" in said or "1 ids begin anew" in said


@pytest.mark.parametrize("recipe", ["mf", "lightgcn", "ngcf", "two_tower"])
def test_a_warm_start_of_other_items_or_of_ids_of_another_type_is_refused(recipe: str, tmp_path: Path) -> None:
    for log in ("all renamed", "integers"):
        with pytest.raises(
            ConfigError, match="none of its 25 items is in the data of this run; give a run of the same"
        ):
            train(recipe, log, tmp_path / "run", "--warm-start", str(plain_run(recipe)))
    assert not (tmp_path / "run").exists()


def test_a_warm_start_of_two_towers_that_read_other_features_names_them(tmp_path: Path) -> None:
    message = (
        "its layers read brand, item.price, item_id, and the data of this run have brand, item_id; allowed: the same"
    )
    with pytest.raises(ConfigError, match=message):
        train("two_tower", "other features", tmp_path / "run", "--warm-start", str(plain_run("two_tower")))
    assert not (tmp_path / "run").exists()


def test_a_closed_form_takes_no_warm_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train.warm_start is .*, but linear is a closed form, which takes no steps"):
        train("linear", "plain", tmp_path / "run", "--warm-start", str(plain_run("mf")))


@pytest.mark.parametrize("log", ["most attributes missing", "huge prices", "prices that are no numbers"])
@pytest.mark.parametrize("recipe", ["linear", "two_tower"])
def test_models_that_read_attributes_learn_from_what_is_there_of_them(recipe: str, log: str, tmp_path: Path) -> None:
    told = train(recipe, log, tmp_path / "run")
    assert 0.0 < told["test"]["recall"] <= 1.0 and all(np.isfinite(list(told["test"].values())))


@pytest.mark.prove
@every_model
@pytest.mark.parametrize("log", ODD)
def test_an_odd_log_is_trained_on_evaluated_and_exported(recipe: str, log: str, tmp_path: Path) -> None:
    told = train(recipe, log, tmp_path / "run")
    assert 0.0 < told["test"]["recall"] <= 1.0 and all(np.isfinite(list(told["test"].values())))
    again = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["test"] == told["test"]
    if recipe == "two_tower" and log not in ("no attributes", "huge prices", "integers"):
        return  # an export of it takes long
    out = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "bundle")]
    assert CliRunner().invoke(app, out, catch_exceptions=False).exit_code == 0
    assert read_manifest(tmp_path / "bundle").certificate.requests > 0


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (Log([]), "log.csv: holds no rows, so there would be no samples to train on"),
        (Log([row for row in events() if not row[3]]), "samples of the train part have label 0, so there is nothing"),
        (Log(events(), options=("--label", "label>=4", *BY_TIME)), "look at the rule of --label"),
        (Log(events(), features={**FEATURES, "item_id": {"name": "item_id"}}), "log.csv: no row fits. 240 x 'item_id'"),
        (Log(events(), features={k: v for k, v in FEATURES.items() if k != "history"}), "declares no history"),
    ],
)  # fmt: skip
def test_a_log_that_no_model_could_learn_from_is_not_prepared(log: Log, message: str, tmp_path: Path) -> None:
    done = prepare(tmp_path, log)
    assert isinstance(done.exception, RecsysError) and message in str(done.exception)
    assert not (tmp_path / "shop").exists(), "nothing is half-written"


def test_what_is_refused_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    given = [f"data.dataset={folder_of('one moment') / 'shop'}", "--run-dir", "run"]
    done = process("train", "mf", *given, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and not (tmp_path / "run").exists()
