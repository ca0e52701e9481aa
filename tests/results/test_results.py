"""The tables of results: recorded runs, figures, the page, and that the repository's page is up to date."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
from support.paths import DOCS
from support.tiny_run import finished
from typer.testing import CliRunner

from recsys.cli import app
from recsys.errors import ConfigError, DataFileError
from recsys.recipes import RECIPES, RETRIEVAL_RECIPES
from recsys.results.page import stale, update
from recsys.results.protocols import TABLES, Table
from recsys.results.records import Recorded, add, configured_overrides, read_all, read_recorded, recipe_changed
from recsys.results.rows import ROWS, Row
from recsys.results.tables import figures, markdown, number, row_json
from recsys.training.settings import override

TABLE = Table(name="tiny", metrics={"auc": "AUC", "log_loss": "log loss"}, departures=("small",), intervals=True)
PUBLISHED = {"auc": 0.5, "log_loss": 0.01}
RUN = Row(
    name="run",
    table="tiny",
    model="DIN",
    recipe="din_synthetic",
    published=PUBLISHED,
    source="a paper",
    departures=("own",),
)
NOT_RUN = Row(name="later", table="tiny", model="Later", recipe="din_synthetic", overrides=("train.epochs=9",))
ONLY = Row(name="only", table="tiny", model="Other (published)", published={"auc": 0.9}, source="a board")
ROWS_HERE = (RUN, NOT_RUN, ONLY)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run under the name of a recipe that there is."""
    folder = tmp_path / "finished"
    shutil.copytree(finished().folder, folder)
    for name in ("record.json", "config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, "recipe": "din_synthetic"}))
    return folder


@pytest.fixture
def docs(tmp_path: Path, run_dir: Path) -> Path:
    """A page with a place for the table, and a recorded run of two seeds."""
    (tmp_path / "results.md").write_text("# Results\n\n<!-- table: tiny -->\nold\n<!-- end -->\n\nby hand\n")
    first = add(run_dir, ROWS_HERE, tmp_path / "results", row="run")
    values = json.loads(first.read_text())
    values["seed"] += 1
    values["metrics"]["test"]["auc"] -= 0.02
    first.with_name(f"{values['seed']}.json").write_text(json.dumps(values))
    return tmp_path


def recorded(docs: Path) -> list[Recorded]:
    return read_all(docs / "results", ROWS_HERE)["run"]


def test_the_repositorys_page_is_what_its_recorded_runs_say() -> None:
    assert stale(DOCS) == []


def test_the_commit_of_each_recorded_run_is_in_the_history() -> None:
    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(DOCS), *words], capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("a shallow clone, or none")
    commits = {str(json.loads(file.read_text())["commit"]) for file in (DOCS / "results").glob("*/*.json")}
    assert commits
    assert [each for each in sorted(commits) if git("merge-base", "--is-ancestor", each, "HEAD").returncode] == []


def test_a_figure_is_the_mean_over_seeds_with_their_standard_deviation(docs: Path) -> None:
    runs = recorded(docs)
    values = [float(each.run.metrics["test"]["auc"] or 0) for each in runs]
    found = figures(RUN, TABLE, runs)["auc"]
    assert len(values) == 2
    assert (found.mean, found.std) == pytest.approx((statistics.mean(values), 0.02 / 2**0.5))
    assert found.interval == pytest.approx(runs[0].intervals["auc"])
    assert figures(RUN, TABLE, runs[:1])["auc"].std is None


def test_a_recorded_run_can_be_repeated_from_its_file(docs: Path) -> None:
    run = recorded(docs)[0].run
    changes = shlex.split(run.command)[3:]
    assert run.command.startswith("recsys train din_synthetic ") and changes[-1] == "train.seed=2026"
    again = dataclasses.asdict(override(RECIPES["din_synthetic"](), [*changes, "train.checkpoint_steps=29"]))
    assert json.loads(json.dumps(again)) == {**recorded(docs)[0].config, "recipe": "din_synthetic"}
    assert not recipe_changed(recorded(docs)[0])
    test = finished().result.test
    assert test is not None and run.metrics["test"]["auc"] == test.auc
    low, high = recorded(docs)[0].intervals["auc"]
    assert low < test.auc < high


def test_a_row_for_programs_says_ours_published_difference_seeds_and_departures(docs: Path) -> None:
    runs = recorded(docs)
    values = row_json(RUN, TABLE, runs)
    assert values["published"] == PUBLISHED and values["seeds"] == [2026, 2027]
    assert values["difference"]["auc"] == values["ours"]["auc"]["mean"] - 0.5 > 0
    assert values["reached"] is False  # a log loss of .01 is not
    assert values["departures"] == ["small", "own"]
    empty = row_json(NOT_RUN, TABLE, [])
    assert (empty["ours"], empty["difference"], empty["seeds"], empty["train_s"]) == (None, None, [], None)


def test_the_page_is_rewritten_between_its_marks_only(docs: Path) -> None:
    assert stale(docs, tables=[TABLE], rows=ROWS_HERE) == [str(docs / "results.md"), str(docs / "results" / "tiny.png")]
    written = update(docs, tables=[TABLE], rows=ROWS_HERE)
    assert sorted(written) == sorted([str(docs / "results.md"), str(docs / "results" / "tiny.png")])
    text = (docs / "results.md").read_text()
    assert text.startswith("# Results\n\n<!-- table: tiny -->\n![") and text.endswith("<!-- end -->\n\nby hand\n")
    assert "\nold\n" not in text
    assert (docs / "results" / "tiny.png").read_bytes().startswith(b"\x89PNG")
    assert stale(docs, tables=[TABLE], rows=ROWS_HERE) == []
    assert update(docs, tables=[TABLE], rows=ROWS_HERE) == []
    (docs / "results" / "run" / "2027.json").unlink()
    assert stale(docs, tables=[TABLE], rows=ROWS_HERE) == [str(docs / "results.md")]


def test_the_table_has_a_line_for_each_row_and_says_what_was_not_run(docs: Path) -> None:
    runs = read_all(docs / "results", ROWS_HERE)
    lines = markdown(TABLE, ROWS_HERE, runs).splitlines()
    auc = figures(RUN, TABLE, runs["run"])["auc"]
    assert lines[0] == "| model | AUC | log loss | published AUC / log loss | difference | seeds | training | command |"
    assert f"| {number(auc.mean)} +- {number(auc.std or 0)} (" in lines[2]
    assert f"**+{number(auc.mean - 0.5)}** / +" in lines[2] and "2026, 2027" in lines[2]
    assert lines[3] == "| Later | not run | not run |  |  |  |  | `recsys train din_synthetic train.epochs=9` |"
    assert lines[4] == "| Other (published) |  |  | .9000 |  |  |  |  |"
    assert "- small" in lines and "- DIN: own" in lines
    assert any("Published: a board; a paper." in line and "Commit" in line for line in lines)


def test_figures_are_written_without_the_zero_before_them() -> None:
    assert (number(0.98314), number(1.0), number(-0.0012)) == (".9831", "1.0000", "-.0012")


def test_runs_of_one_row_that_differ_in_more_than_their_seed_are_refused(docs: Path) -> None:
    file = docs / "results" / "run" / "2027.json"
    values = json.loads(file.read_text())
    values["config"]["train"]["epochs"] = 9
    file.write_text(json.dumps(values))
    with pytest.raises(
        DataFileError, match="settings differ from those of the row's other runs: train.epochs=9; allow"
    ):
        recorded(docs)


def test_what_is_no_recorded_run_is_named(docs: Path) -> None:
    shutil.copytree(docs / "results" / "run", docs / "results" / "rum")
    with pytest.raises(DataFileError, match="rum/2026.json: a run of row 'run'; allowed: those of row 'rum'"):
        recorded(docs)
    with pytest.raises(DataFileError, match="unknown row 'run': did you mean 'runs'"):
        read_all(docs / "results", [dataclasses.replace(RUN, name="runs")])
    shutil.rmtree(docs / "results" / "rum")
    (docs / "results" / "run" / "1.json").write_text("{}")
    with pytest.raises(DataFileError, match=r"run/1.json: not "):
        read_recorded(docs / "results" / "run" / "1.json")


def test_a_run_is_added_to_the_row_of_its_recipe_and_overrides(tmp_path: Path, run_dir: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"overrides \['data.recent=50', 'model.attention=.*: later \(train.epochs=9\)"
    ):
        add(run_dir, [NOT_RUN], tmp_path)
    with pytest.raises(ConfigError, match="unknown row 'runn': did you mean 'run'"):
        add(run_dir, ROWS_HERE, tmp_path, row="runn")
    with pytest.raises(ConfigError, match="row 'only' is of recipe ''; the run is of 'din_synthetic'"):
        add(run_dir, ROWS_HERE, tmp_path, row="only")
    with pytest.raises(ConfigError, match=r"no row for recipe 'din_synthetic'; recipes with rows .*: other$"):
        add(run_dir, [dataclasses.replace(RUN, recipe="other"), ONLY], tmp_path)
    with pytest.raises(ConfigError, match="unknown recipe 'tiny'"):
        add(finished().folder, ROWS_HERE, tmp_path, row="run")
    config = json.loads((run_dir / "config.json").read_text())
    own_row = Row(
        name="own",
        table="tiny",
        model="DIN",
        recipe="din_synthetic",
        overrides=tuple(configured_overrides(config, "din_synthetic")),
    )
    assert add(run_dir, [RUN, own_row], tmp_path) == tmp_path / "own" / "2026.json"


def test_a_recipe_that_was_changed_since_is_told(docs: Path) -> None:
    file = docs / "results" / "run" / "2026.json"
    values = json.loads(file.read_text())
    values["overrides"] = values["overrides"][1:]
    file.write_text(json.dumps(values))
    runs = recorded(docs)
    assert recipe_changed(runs[0]) and not recipe_changed(runs[1])
    assert row_json(RUN, TABLE, runs)["recipe_changed"] is True
    assert "# the recipe has changed since" in markdown(TABLE, [RUN], {"run": runs})


def test_a_page_without_a_place_for_a_table_is_refused(docs: Path) -> None:
    other = dataclasses.replace(TABLE, name="other")
    with pytest.raises(DataFileError, match=r"places for tables \['tiny'\]; expected .* of \['other', 'tiny'\]"):
        stale(docs, tables=[TABLE, other], rows=ROWS_HERE)
    with pytest.raises(DataFileError, match="results.md is missing; run this in the repository"):
        stale(docs / "results", tables=[], rows=[])


def test_every_row_has_its_own_name_and_a_table() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.table for row in ROWS} == {table.name for table in TABLES}
    metrics = {table.name: set(table.metrics) for table in TABLES}
    for row in ROWS:
        assert set(row.published) <= metrics[row.table]
        assert bool(row.published) == bool(row.source)
        assert row.recipe in {*RECIPES, *RETRIEVAL_RECIPES, ""}


def test_the_command_prints_each_row_as_a_line_of_json() -> None:
    told = CliRunner().invoke(app, ["results", "--json", "--docs", str(DOCS)])
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    assert [row["row"] for row in rows] == [row.name for row in ROWS]
    assert {"ours", "published", "difference", "seeds", "departures"} <= set(rows[0])


def test_the_command_tells_a_stale_page_by_its_exit_code(tmp_path: Path) -> None:
    shutil.copytree(DOCS / "results", tmp_path / "results")
    text = (DOCS / "results.md").read_text()
    (tmp_path / "results.md").write_text(text)
    assert CliRunner().invoke(app, ["results", "--check", "--docs", str(tmp_path)]).exit_code == 0
    both = CliRunner().invoke(app, ["results", "--check", "--json", "--docs", str(tmp_path)])
    assert "--check and --json" in str(both.exception)
    (tmp_path / "results.md").write_text(text.replace("| --- |", "| -- |", 1))
    assert CliRunner().invoke(app, ["results", "--check", "--docs", str(tmp_path)]).exit_code == 1
