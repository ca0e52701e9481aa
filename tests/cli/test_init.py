"""`recsys init`: from a log to a ranked list, as a user types it; the README's lines are typed as they stand there."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command_line import recsys
from support.paths import ROOT, TESTS

from recsys.data.log.event_table import EventTable, open_event_table
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import MISSING

MOST_COMMANDS = 6


@pytest.fixture(scope="module")
def first_list() -> ModuleType:
    """``benchmarks/entry/first_list.py``."""
    spec = importlib.util.spec_from_file_location("first_list", ROOT / "benchmarks" / "entry" / "first_list.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["first_list"] = module
    spec.loader.exec_module(module)
    return module


def readme_lines() -> list[str]:
    """The README's way from a log to a ranked list."""
    block = (ROOT / "README.md").read_text().partition("    recsys init ")[2].partition("\n\n")[0]
    return [re.sub(r"\s+#.*$", "", line.strip()) for line in f"recsys init {block}".splitlines()]


def ranked(typed: Any) -> list[str]:
    """Items of a ranked list, best first; the answer had all it needed."""
    assert "not degraded" in typed.err
    return [line.split()[1] for line in typed.out.splitlines() if re.match(r"\s*[0-9]+ ", line)]


def missing(table: EventTable, side: str, name: str) -> float:
    """Share of entities that have no value of a feature."""
    column = (table.users if side == "user" else table.items)[name]
    nothing = np.isnan(column) if column.dtype.kind == "f" else column == MISSING
    return float((nothing.all(axis=1) if nothing.ndim == 2 else nothing).mean())


@pytest.mark.prove
def test_the_lines_of_the_readme_lead_from_a_csv_to_a_ranked_list(first_list: ModuleType, tmp_path: Path) -> None:
    first_list.write_log(tmp_path / "log.csv", 60, 30)
    lines = readme_lines()
    assert len(lines) <= MOST_COMMANDS
    typed = first_list.type_commands(lines, tmp_path)
    assert first_list.printed_commands(typed[0].out) == lines[1:], "init prints what the README says"
    assert sorted(ranked(typed[-1])) == ["10", "20", "30"]
    assert "30 events of history" in typed[-1].err
    table = open_event_table(tmp_path / "shop" / "events")
    assert len(table) == 60 * 30 and missing(table, "user", "gender") == missing(table, "item", "genres") == 0
    page = (tmp_path / "shop.md").read_text()
    assert all(line in page for line in lines[1:])
    ingest = first_list.type_commands([next(n for n in first_list.printed_commands(page) if " ingest " in n)], tmp_path)
    assert "1,800 events, 0 of them new" in ingest[0].out, "what was materialized is what ingest reads"


@pytest.mark.prove
def test_the_lines_of_the_readme_lead_from_movielens_to_a_ranked_list(first_list: ModuleType, tmp_path: Path) -> None:
    write_movielens(tmp_path / "log.csv", rows=30_000)
    typed = first_list.type_commands(readme_lines(), tmp_path)
    assert first_list.printed_commands(typed[0].out)[:-1] == readme_lines()[1:-1]
    assert sorted(ranked(typed[-1])) == ["10", "20", "30"]
    table = open_event_table(tmp_path / "shop" / "events")
    assert len(table) == 30_000 and missing(table, "user", "gender") == missing(table, "item", "genres") == 0


@pytest.mark.prove
def test_what_init_prints_leads_from_app_usage_with_context_to_a_ranked_list(
    first_list: ModuleType, tmp_path: Path
) -> None:
    write_frappe(tmp_path / "log.csv", rows=20_000)
    typed = first_list.type_commands(["recsys init log.csv --name apps"], tmp_path)
    lines = first_list.printed_commands(typed[0].out)
    assert 1 + len(lines) <= MOST_COMMANDS
    assert "--negatives 4" in lines[0] and "--ignore cnt" in lines[0] and "--feature daytime=" in lines[-1]
    typed = first_list.type_commands(lines, tmp_path)
    assert len(ranked(typed[-1])) == 3
    features = FeatureSet.from_json((tmp_path / "apps.json").read_text())
    assert {f.name for f in features.context} == {
        "daytime", "weekday", "isweekend", "homework", "weather", "country", "city",
    }  # fmt: skip
    assert missing(open_event_table(tmp_path / "apps" / "events"), "item", "cost") == 0


def data_folder(name: str) -> Path:
    """Folder of a data set; the test is skipped where there is none."""
    for place in filter(None, (os.environ.get("RECSYS_DATA_DIR"), str(ROOT.parent / "shared" / "data"))):
        if (Path(place) / name).is_dir():
            return Path(place) / name
    pytest.skip(f"no {name} in RECSYS_DATA_DIR")


def write_movielens(path: Path, *, rows: int) -> None:
    """Ratings of the first users, with the gender of the user and the genres of the movie in every row."""
    folder = data_folder("movielens_1m")
    users = dict(_parts(folder / "users.dat.gz", 0, 1))
    genres = dict(_parts(folder / "movies.dat.gz", 0, 2))
    with gzip.open(folder / "ratings_chrono.csv.gz", "rt") as ratings:
        found = [row for row, _ in zip(csv.DictReader(ratings), range(rows), strict=False)]
    columns = ("user_id", "movie_id", "rating", "timestamp")
    table = [[*(row[c] for c in columns), users[row["user_id"]], genres[row["movie_id"]]] for row in found]
    _write(path, ["userId", "movieId", "rating", "timestamp", "gender", "genres"], table)


def write_frappe(path: Path, *, rows: int) -> None:
    """App usage with context. It has no times: a minute for each row stands for them."""
    with gzip.open(data_folder("frappe") / "frappe.tsv.gz", "rt") as stream:
        header, *found = [line.rstrip("\n").split("\t") for line, _ in zip(stream, range(rows + 1), strict=False)]
    _write(path, [*header, "time"], [[*row, str(1_600_000_000 + 60 * n)] for n, row in enumerate(found)])


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


def _parts(path: Path, key: int, value: int) -> Iterator[tuple[str, str]]:
    with gzip.open(path, "rt", encoding="latin-1") as stream:
        for line in stream:
            found = line.rstrip("\n").split("::")
            yield found[key], found[value]


LOG = "user,item,when,brand,stars\n" + "".join(
    f"{n % 7},{n % 5},{1_600_000_000 + n},brand {n % 5 % 3},{1 + n % 5}\n" for n in range(200)
)


def test_files_that_are_there_are_replaced_only_when_told(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    assert recsys("init", "log.csv", "--out", "a.json", cwd=tmp_path).returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == {"log.csv", "a.json", "a.md", "a.items.jsonl"}
    (tmp_path / "a.json").write_text("mine")
    refused = recsys("init", "log.csv", "--out", "a.json", cwd=tmp_path)
    assert refused.returncode == 2 and "a.json, a.md, a.items.jsonl: exists; --overwrite replaces" in refused.stderr
    assert (tmp_path / "a.json").read_text() == "mine"
    done = recsys("init", "log.csv", "--out", "a.json", "--overwrite", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["rows"] == 200 and facts["features"] == "a.json" and facts["refused"] == 0
    assert facts["commands"][0].startswith("recsys prepare log.csv --features a.json --out ./log --label 'stars>=4'")
    assert FeatureSet.from_json((tmp_path / "a.json").read_text()).name == "log"


def test_an_earlier_file_of_attributes_does_not_outlive_the_log_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    assert recsys("init", "log.csv", cwd=tmp_path).returncode == 0
    assert (tmp_path / "log.items.jsonl").exists()
    done = recsys("init", "log.csv", "--as", "brand=ignored", "--overwrite", cwd=tmp_path)
    assert done.returncode == 0 and not (tmp_path / "log.items.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--user", "who"), "--user who: no such column"),
        (("--out", "a.txt"), "--out a.txt: expected a name that ends with .json"),
        (("--as", "brand"), "--as 'brand': expected COLUMN=ROLE"),
        (("--as", "brand=items"), "--as brand=items: did you mean 'item'"),
        (("--as", "band=item"), "--as band=item: no such column; did you mean 'brand'"),
        (("--label", "star>=4"), "--label star>=4: column 'star' is missing; did you mean 'stars'"),
        (("--timestamp", "brand"), "--timestamp brand: 'brand [0-2]' is no plausible time"),
        (("--name", "My Shop"), "--name 'My Shop': expected letters"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_writes_nothing(
    options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    done = recsys("init", "log.csv", *options, cwd=tmp_path)
    assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


def test_serve_refuses_to_load_a_log_of_other_features_than_the_bundles(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    assert recsys("init", "log.csv", "--name", "other", cwd=tmp_path).returncode == 0
    given = ("--timestamp", "when", "--time-unit", "s", "--label", "stars>=4", "--items", "other.items.jsonl")
    done = recsys("prepare", "log.csv", "--features", "other.json", "--out", "./other", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = str(TESTS / "golden" / "compatibility" / "din")
    for folder, message in (("./other", "declares other"), (".", "expected a bundle .* or a prepared log")):
        refused = recsys("serve", bundle, "--materialize", folder, cwd=tmp_path)
        assert refused.returncode == 2 and re.search(message, refused.stderr), refused.stderr


def odd_rows() -> list[dict[str, Any]]:
    """Rows with what logs have: an index without a name, a name of two words, digits that are text, gaps, lists."""
    return [
        {
            "": n,
            "Customer": f"{n % 30:04}",
            "sku": f"{10**6 + n * 7 % 25}",
            "page view": n % 3,
            "seen at": None,
            "when": f"2026-01-{1 + n % 28:02}T{n % 24:02}:00:{n % 60:02}+02:00",
            "tags": None if n % 5 == 0 else ["new", "red"][: 1 + n * 7 % 25 % 2],
            "price": 0.5 + n * 7 % 25,
            "device": ("phone", "desk, top")[n * n % 7 % 2],
        }
        for n in range(400)
    ]


ITEMS_OF_ODD = {
    "csv": "1000000,1000007,1000014",
    "jsonl": '"1000000","1000007","1000014"',
    "parquet": '"1000000","1000007","1000014"',
}
"""Digits are numbers in CSV, which knows nothing but text; elsewhere a text is a text."""


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_init_prints_prepares_an_odd_log_of_every_format_without_a_reject(ending: str, tmp_path: Path) -> None:
    rows, file = odd_rows(), tmp_path / f"log.{ending}"
    if ending == "csv":
        table = [["|".join(v) if isinstance(v, list) else "" if v is None else v for v in row.values()] for row in rows]
        _write(file, list(rows[0]), table)
    elif ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    looked = recsys("init", file.name, "--name", "odd", "--json", cwd=tmp_path)
    assert looked.returncode == 0, looked.stderr
    commands = [shlex.split(line)[1:] for line in json.loads(looked.stdout)["commands"]]
    done = recsys(*commands[0], "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["events"] + summary["repeated"], summary["rejected"]) == (400, 0)
    table = open_event_table(tmp_path / "odd" / "events")
    assert missing(table, "item", "price") == 0 and missing(table, "item", "tags") < 0.5
    assert (
        commands[-1][:5] == ["rank", "--user", '"0000"', "--items", ITEMS_OF_ODD[ending]]
        and table.features.context[0].name == "device"
    )
