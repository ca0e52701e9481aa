"""`recsys rows`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.cli import app, exit_codes
from recsys.errors import DataFileError, InvalidInputError


class Ended:
    """What a command printed, and the error it ended with."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        with contextlib.chdir(cwd):
            result = CliRunner().invoke(app, list(arguments))
        self.stdout, self.stderr, self.error = result.stdout, result.stderr, result.exception

    def well(self) -> Ended:
        if self.error is not None:
            raise self.error
        return self


recsys = Ended
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 20 users, of whom those seen rarely have no row, and of 3 items."""
    path = tmp_path_factory.mktemp("rows")
    features = {"name": "shop", "user_id": {"name": "user"}, "item_id": {"name": "item_id", "id_type": "string"}}
    (path / "features.json").write_text(json.dumps({**features, "history": {"recent": 4}}))
    for log, first in (("log", 0), ("new", 15)):
        lines = [
            f"{user},{'xyz'[(user + n) % 3]},{1_700_000_000_000 + 1000 * n},{(user // 2 + n) % 2}"
            for user in range(first, first + 20)
            for n in range(4 + user % 10)
        ]
        (path / f"{log}.csv").write_text("\n".join(["user,item_id,timestamp_ms,label", *lines]) + "\n")
        given = ("--features", "features.json", "--out", log, "--leave-last")
        recsys("prepare", f"{log}.csv", *given, cwd=path).well()
    settings = ("data.dataset=./log", "rows.spare_rows=0.2", "rows.min_count=5", "train.epochs=1", "tables.dim=4")
    recsys("train", "din", *settings, "--run-dir", "run", cwd=path).well()
    return path


def test_report_prints_every_table_and_draws_a_picture(folder: Path) -> None:
    shown = recsys("rows", "report", "run", "--png", "rows.png", cwd=folder).well()
    for part in ("rows of", "ids of", "user", "  item_id: ", "Rows used", "Length of used rows"):
        assert part in shown.stdout, part
    (hottest,) = (line for line in shown.stdout.splitlines() if line.startswith("  item_id: "))
    assert sorted(re.findall(r"([a-z]) \(", hottest)) == ["x", "y", "z"], "the texts that ids are of"
    assert (folder / "rows.png").read_bytes().startswith(PNG)
    found = json.loads(recsys("rows", "report", "run", "--json", cwd=folder).well().stdout)
    assert {each["table"] for each in found["ids"]} == {each["name"] for each in found["rows"]} == {"user", "item_id"}
    assert next(each for each in found["ids"] if each["table"] == "item_id")["ids"] == 3


def test_columns_of_zeros_are_left_out_and_named(folder: Path) -> None:
    shown = recsys("rows", "report", "run", cwd=folder).well().stdout
    found = json.loads(recsys("rows", "report", "run", "--json", cwd=folder).well().stdout)
    (named,) = (line for line in shown.splitlines() if line.startswith("all zeros, and left out: of "))
    of_rows, of_ids = (part.split(": ")[-1].split(", ") for part in named.split("; of ids: "))
    for heading, values in (
        ("spare", [each["spare"] for each in found["rows"]]),
        ("unused", [each["unused"] for each in found["rows"]]),
        ("used", [each["used"] for each in found["rows"]]),
    ):
        assert (heading in of_rows) == (not any(values)), heading
    for heading, values in (
        ("unknown", [each["unknown_ids"] for each in found["ids"]]),
        ("collide", [each["colliding_ids"] for each in found["ids"]]),
        ("meet others", [each["meeting_ids"] for each in found["ids"]]),
        ("known", [each["known_ids"] for each in found["ids"]]),
    ):
        assert (heading in of_ids) == (not any(values)), heading
    assert {"unknown", "spare"}.isdisjoint((*of_rows, *of_ids)) and "meet others" in of_ids
    tables = shown[: shown.index(named)]
    assert "spare" in tables and "unknown" in tables and "meet others" not in tables


def test_grow_writes_a_run_that_evaluates_and_says_what_found_no_room(folder: Path) -> None:
    given = ("rows", "grow", "run", "--log", "./new")
    grown = recsys(*given, "--out", "grown", "--admit", "1", "--json", cwd=folder).well()
    tables = {each["table"]: each for each in json.loads(grown.stdout)["tables"]}
    assert tables["user"]["admitted"] > 0 and tables["user"]["no_room"] > 0 and tables["user"]["room"] == 0
    metrics = [recsys("evaluate", run, "--json", cwd=folder).well().stdout for run in ("run", "grown")]
    assert json.loads(metrics[0]) == json.loads(metrics[1])
    shown = recsys(*given, "--out", "shown", "--admit", "1", cwd=folder).well()
    assert "admitted" in shown.stdout and "Next: recsys export shown" in shown.stdout
    assert f"{tables['user']['no_room']} ids found no room and stay unknown: reserve more with" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("report", "nowhere"), "nowhere/config.json is missing; `recsys train` writes a run"),
        (("grow", "nowhere", "--log", "./new", "--out", "x"), "nowhere/config.json is missing"),
        (("grow", "run", "--log", "./new", "--out", "run"), "run exists already: choose another folder"),
        (("grow", "run", "--log", "./new", "--out", "x", "--evict", "unsen"), "did you mean 'unseen'?"),
        (("grow", "run", "--log", "./new", "--out", "x", "--admit", "0"), "admit_count is 0; allowed: 1 or more"),
        (("grow", "run", "--log", "./none", "--out", "x"), "none"),
        (("grow", "run", "--log", "synthetic", "--out", "x"), "other features than run was trained on"),
    ],
)
def test_bad_input_is_an_error_that_ends_with_code_2(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    error = recsys("rows", *arguments, cwd=folder).error
    assert isinstance(error, InvalidInputError) and exit_codes()[InvalidInputError] == 2
    assert says in str(error)
    assert not (folder / "x").exists()


def test_a_damaged_run_is_told(folder: Path) -> None:
    shutil.copytree(folder / "run", folder / "damaged")
    (folder / "damaged" / "row_maps.npz").write_bytes(b"nothing")
    error = recsys("rows", "report", "damaged", cwd=folder).error
    assert isinstance(error, DataFileError) and "row_maps.npz: not readable as row maps" in str(error)


@pytest.mark.parametrize(
    ("command", "options"), [("report", ("--png", "--json")), ("grow", ("--log", "--admit", "--evict", "--recluster"))]
)
def test_each_command_explains_its_options(command: str, options: tuple[str, ...], tmp_path: Path) -> None:
    told = recsys("rows", command, "--help", cwd=tmp_path).stdout
    assert all(option in told for option in options)
