"""Memory against quality: what is trained, what is kept, and what is recommended."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.tiny_run import CONFIG, tiny_dataset

from recsys.cli.compress import _table
from recsys.cli.compress import compress as compress_command
from recsys.compress.comparison import Choice, Comparison, CompressConfig, Measurement, Row, compare, pareto_front
from recsys.compress.ranking import RankingTrials
from recsys.compress.report import (
    baseline_cells,
    cells,
    charts,
    summary,
    to_json,
    to_markdown,
    verdict,
    write_report,
)
from recsys.compress.sweep import SweepProgress, compress, configure, run_name
from recsys.data.samples.dataset import Dataset
from recsys.embeddings.sharding.shard import table_weights
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.files import locked
from recsys.training.config import MapName, RowConfig
from recsys.training.run.folder import load_row_maps
from recsys.training.trained import load_run

RECIPE = replace(
    CONFIG,
    rows=RowConfig(exact_below=50),
    train=replace(CONFIG.train, epochs=1, batch_size=256, checkpoint_steps=10),
)
"""Of its tables, only those of 150 users and 60 movies have so many ids that a budget applies."""

SETTINGS = CompressConfig(maps=("hash",), budgets=(0.5, 0.005), seeds=2)
"""Half a percent of 60 movies is no row."""


class Recorder:
    """Remembers what it was told; raises once at a given step of a given run."""

    def __init__(self, *, stop_in_run: int = 0, stop_at_step: int = 0) -> None:
        self.told: list[SweepProgress] = []
        self.stop = (stop_in_run, stop_at_step)

    def __call__(self, progress: SweepProgress) -> None:
        self.told.append(progress)
        if progress.training is not None and (progress.number, progress.training.step) == self.stop:
            raise KeyboardInterrupt

    @property
    def measured(self) -> list[tuple[Choice, int]]:
        return [(p.choice, p.seed) for p in self.told if p.measured is not None]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return tiny_dataset()


@pytest.fixture(scope="module")
def done(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Comparison]]:
    """A comparison that was never stopped; a test that changes the folder copies it."""
    out = tmp_path_factory.mktemp("compress")
    yield out, run_compress(dataset, out, SETTINGS)


def run_compress(dataset: Dataset, out: Path, settings: CompressConfig, **report: Any) -> Comparison:
    return compress(RankingTrials(RECIPE, dataset), out, settings, **report)


def row(name: MapName, budget: float | None, *, size: int, validation: list[float], test: float | None = None) -> Row:
    def run(auc: float) -> Measurement:
        def metrics(value: float) -> dict[str, float | None]:
            return {"auc": value, "gauc": None, "log_loss": 0.5}

        return Measurement(
            run="0" * 16,
            validation=metrics(auc),
            test=None if test is None else metrics(test),
            table_bytes={"none": size, "fp16": size // 2, "int8": size // 4, "int4": size // 8},
            map_bytes=10,
            train_s=1.0,
        )

    return Row(choice=Choice(map=name, budget=budget), runs=tuple(run(auc) for auc in validation))


def comparison(*rows: Row, **settings: Any) -> Comparison:
    chosen = CompressConfig(maps=("hash",), budgets=(0.5,), **settings)
    return compare("tiny", chosen, rows, fingerprint="0" * 16, shown=RankingTrials.shown)


def test_the_full_vocabulary_comes_first_and_each_map_has_each_budget(done: tuple[Path, Comparison]) -> None:
    assert [r.choice for r in done[1].rows] == [
        Choice(map="vocabulary", budget=None),
        Choice(map="hash", budget=0.5),
        Choice(map="hash", budget=0.005),
    ]
    assert [len(r.runs) for r in done[1].rows] == [2, 2, 0]


def test_a_budget_that_a_map_cannot_meet_is_told_and_stops_nothing(done: tuple[Path, Comparison]) -> None:
    impossible = done[1].rows[2]
    assert impossible.impossible is not None and "rows.budget 0.005 leaves table" in impossible.impossible
    assert impossible not in done[1].possible
    assert cells(done[1])[2] == ("hash", "0.005", f"not possible: {impossible.impossible}")
    assert "not possible: rows.budget 0.005" in to_markdown(done[1])
    assert to_json(done[1])["rows"][2] == {"map": "hash", "budget": 0.005, "impossible": impossible.impossible}


def test_bytes_are_those_of_the_tables_and_maps_that_were_trained(done: tuple[Path, Comparison]) -> None:
    out, found = done
    for each in found.possible:
        folder = out / "runs" / each.runs[0].run
        weights = table_weights(load_run(folder).model).values()
        assert each.runs[0].table_bytes["none"] == sum(w.numel() * 4 for w in weights)
        # A code a number, then scale and bias.
        assert each.runs[0].table_bytes["int8"] == sum(len(w) * (w.shape[1] + 8) for w in weights)
        assert each.runs[0].map_bytes == sum(m.size_bytes for m in load_row_maps(folder / "row_maps.npz").values())
    assert found.rows[1].size_bytes("none") < found.full.size_bytes("none")


def test_runs_differ_in_map_budget_and_seeds_and_in_nothing_else() -> None:
    made = configure(RECIPE, Choice(map="unified", budget=0.25), seed=3)
    assert (made.rows.map, made.rows.budget, made.rows.exact_below) == ("unified", 0.25, 50)
    assert (made.rows.seed, made.train.seed) == (RECIPE.rows.seed + 3, RECIPE.train.seed + 3)
    assert replace(made, rows=RECIPE.rows, train=replace(made.train, seed=RECIPE.train.seed)) == RECIPE


def test_what_a_vocabulary_does_not_read_makes_no_other_full_model() -> None:
    full = Choice(map="vocabulary", budget=None)
    others = replace(RECIPE.rows, chunks=2, chunks_of={"user_id": 3}, widths=(4,), resolution=2.0, frequent=0.1)
    own = replace(RECIPE.rows, min_count=3, unknown_rows=7, spare_rows=0.5)
    found = [configure(replace(RECIPE, rows=rows), full, seed=1) for rows in (RECIPE.rows, others, own)]
    assert found[0] == found[1]
    assert (found[2].rows.min_count, found[2].rows.unknown_rows, found[2].rows.spare_rows) == (3, 7, 0.5)
    assert found[2].rows.seed == RECIPE.rows.seed + 1


def test_a_run_is_found_by_configuration_and_data() -> None:
    names = {
        run_name(configure(config, choice, seed=seed), data)
        for config in (RECIPE, replace(RECIPE, recipe="other"))
        for choice in (Choice(map="vocabulary", budget=None), Choice(map="hash", budget=0.5))
        for seed in (0, 1)
        for data in ("a", "b")
    }
    assert len(names) == 16
    assert run_name(RECIPE, "a") == run_name(replace(RECIPE), "a")


def test_what_was_trained_is_not_trained_again(done: tuple[Path, Comparison], dataset: Dataset) -> None:
    recorder = Recorder()
    again = run_compress(dataset, done[0], SETTINGS, report=recorder)
    assert again == done[1]
    assert {p.choice.budget for p in recorder.told} == {0.005}
    assert not recorder.measured


def test_another_seed_and_another_map_train_only_themselves(
    done: tuple[Path, Comparison], dataset: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(done[0], tmp_path / "copy")
    recorder = Recorder()
    wider = replace(SETTINGS, maps=("double_hash", "hash"), budgets=(0.5,), seeds=3)
    found = run_compress(dataset, tmp_path / "copy", wider, report=recorder)
    full, hashed, double = (
        Choice(map="vocabulary", budget=None),
        Choice(map="hash", budget=0.5),
        Choice(map="double_hash", budget=0.5),
    )
    assert recorder.measured == [(double, 0), (double, 1), (full, 2), (double, 2), (hashed, 2)]
    assert found.full.runs[:2] == done[1].full.runs


def test_a_comparison_killed_within_a_run_goes_on_there_and_finds_the_same(
    done: tuple[Path, Comparison], dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_compress(dataset, tmp_path, SETTINGS, report=Recorder(stop_in_run=2, stop_at_step=25))
    recorder = Recorder()
    found = run_compress(dataset, tmp_path, SETTINGS, report=recorder)

    first = recorder.told[0]
    assert (first.choice, first.seed) == (Choice(map="hash", budget=0.5), 0)
    assert first.training is not None
    assert first.training.step == 21, "the last checkpoint was written after step 20"

    def without_times(comparison: Comparison) -> list[Row]:
        return [replace(r, runs=tuple(replace(run, train_s=None) for run in r.runs)) for r in comparison.rows]

    assert without_times(found) == without_times(done[1])
    assert found.recommended.choice == done[1].recommended.choice


def test_a_damaged_result_is_refused(done: tuple[Path, Comparison], dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(done[0], tmp_path / "copy")
    (tmp_path / "copy" / "runs" / done[1].full.runs[0].run / "result.json").write_text("{")
    with pytest.raises(DataFileError, match="not readable as a result.*delete"):
        run_compress(dataset, tmp_path / "copy", SETTINGS)


def test_data_without_validation_samples_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    splits = {**dataset.samples.splits, "validation": dataset.split("validation")[:0]}
    empty = replace(dataset, samples=replace(dataset.samples, splits=splits))
    with pytest.raises(InvalidInputError, match="validation split is empty"):
        run_compress(empty, tmp_path, SETTINGS)


def test_several_processes_are_refused(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process, but there are 2"):
        run_compress(dataset, tmp_path, SETTINGS)


def test_a_folder_that_cannot_be_written_is_no_fault_of_a_configuration(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="/proc/nowhere"):
        run_compress(dataset, Path("/proc/nowhere"), SETTINGS)


def test_the_recommendation_follows_validation_not_test() -> None:
    full = row("vocabulary", None, size=1000, validation=[0.8], test=0.5)
    bad_on_test = row("hash", 0.5, size=500, validation=[0.7995], test=0.1)
    bad_on_validation = row("hash", 0.1, size=100, validation=[0.7], test=0.9)
    assert comparison(full, bad_on_test, bad_on_validation).recommended is bad_on_test


def test_the_least_memory_within_the_tolerance_is_recommended() -> None:
    full = row("vocabulary", None, size=1000, validation=[0.80])
    half = row("hash", 0.5, size=500, validation=[0.79])
    tenth = row("hash", 0.1, size=100, validation=[0.75])
    assert comparison(full, half, tenth).recommended is full
    assert comparison(full, half, tenth, tolerance=0.02).recommended is half
    assert comparison(full, half, tenth, tolerance=0.1).recommended is tenth


def test_of_configurations_of_one_size_the_better_is_recommended() -> None:
    full = row("vocabulary", None, size=1000, validation=[0.80])
    good, better = (row(name, 0.5, size=500, validation=[auc]) for name, auc in (("hash", 0.81), ("unified", 0.82)))
    assert comparison(full, good, better).recommended is better


def test_the_tolerance_is_one_standard_error_of_the_full_model_and_0_001_at_least() -> None:
    aucs = [0.78, 0.80, 0.85]
    assert comparison(row("vocabulary", None, size=1, validation=aucs)).tolerance == pytest.approx(
        statistics.stdev(aucs) / math.sqrt(3)
    )
    assert comparison(row("vocabulary", None, size=1, validation=[0.8, 0.8001])).tolerance == 0.001
    assert comparison(row("vocabulary", None, size=1, validation=[0.8])).tolerance == 0.001


def test_memory_is_counted_in_the_form_that_tables_are_stored_in() -> None:
    """Maps keep their size: at int8 they decide."""
    full = row("vocabulary", None, size=10_000, validation=[0.8])
    large_map = row("graph", 0.1, size=1_000, validation=[0.8])
    large_map = replace(large_map, runs=(replace(large_map.runs[0], map_bytes=1_500),))
    large_table = row("hash", 0.5, size=4_000, validation=[0.8])
    assert comparison(full, large_map, large_table).recommended is large_map
    assert comparison(full, large_map, large_table, quantize="int8").recommended is large_table
    assert "tables counted as int8" in summary(comparison(full, large_table, quantize="int8"))


def test_error_bars_are_the_sample_standard_deviation() -> None:
    aucs = [0.1, 0.2, 0.6]
    found = comparison(row("vocabulary", None, size=1, validation=aucs))
    deviation = math.sqrt(sum((auc - 0.3) ** 2 for auc in aucs) / 2)
    drawn = next(s for s in charts(found)[0].series if s.name == "full vocabulary")
    assert drawn.y == [pytest.approx(0.3)]
    assert drawn.error == [pytest.approx(deviation)]
    assert to_json(found)["rows"][0]["validation_auc"] == {"mean": pytest.approx(0.3), "std": pytest.approx(deviation)}


def test_one_seed_has_no_deviation() -> None:
    found = comparison(row("vocabulary", None, size=1, validation=[0.5]), seeds=1)
    assert to_json(found)["rows"][0]["validation_auc"] == {"mean": 0.5, "std": None}
    assert "±" not in cells(found)[0][5]
    assert "±" not in to_markdown(found)


def test_the_pareto_front_is_the_points_that_no_other_dominates() -> None:
    chance = random.Random(7)
    for _ in range(300):
        points = list({(chance.randint(0, 9), chance.randint(0, 9)) for _ in range(chance.randint(1, 15))})
        expected = [
            (size, quality)
            for size, quality in points
            if not any(s <= size and q >= quality and (s, q) != (size, quality) for s, q in points)
        ]
        front = pareto_front([size for size, _ in points], [quality for _, quality in points])
        assert [points[i] for i in front] == sorted(expected)


def test_the_line_in_the_picture_is_the_best_that_so_much_memory_buys() -> None:
    full = row("vocabulary", None, size=990, validation=[0.7])
    small, good, beaten = (
        row("hash", 0.1, size=90, validation=[0.6]),
        row("unified", 0.5, size=490, validation=[0.8]),
        row("hash", 0.5, size=690, validation=[0.75]),
    )
    line = next(s for s in charts(comparison(full, small, good, beaten))[0].series if s.line)
    stairs = [(100, 0.6), (500, 0.6), (500, 0.8), (1000, 0.8)]
    assert list(zip(line.x, line.y, strict=True)) == stairs


def test_the_written_json_is_valid_and_says_all(done: tuple[Path, Comparison], tmp_path: Path) -> None:
    write_report(done[1], tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads((tmp_path / "compress.json").read_text(), parse_constant=refuse)
    assert values["recommended"]["map"] == done[1].recommended.choice.map
    assert [(r["map"], r["budget"]) for r in values["rows"]] == [(r.choice.map, r.choice.budget) for r in done[1].rows]
    full = values["rows"][0]
    assert full["test_auc"]["mean"] == pytest.approx(
        statistics.fmean(r.test["auc"] for r in done[1].full.runs if r.test)
    )
    assert len(full["runs"]) == 2
    assert (tmp_path / "compress.png").read_bytes().startswith(b"\x89PNG")


def test_each_line_of_the_written_table_has_a_cell_for_each_heading(done: tuple[Path, Comparison]) -> None:
    lines = [line for line in to_markdown(done[1]).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(done[1].rows) + 2, "popularity and chance come last"
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_on_the_terminal_has_whole_cells_and_the_reasons(width: int, done: tuple[Path, Comparison]) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(_table(done[1], width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert cells(done[1])[1][5] in text
    assert "rows.budget 0.005 leaves table" in " ".join(text.split())
    assert ("test log loss" in text) == (width > 80)


def test_popularity_and_chance_stand_beside_every_configuration(done: tuple[Path, Comparison], tmp_path: Path) -> None:
    out, found = done
    run = out / "runs" / found.full.runs[0].run
    expected = json.loads((run / "metrics.json").read_text())["baselines"]
    popular, chance = baseline_cells(found)
    assert popular[0] == "popularity" and chance[0] == "chance"
    assert popular[5] == f"{expected['validation']['popularity']['auc']:.4f}" and chance[5] == "0.5000"
    assert popular[6] == f"{expected['validation']['popularity']['auc'] - found.full.validated('auc'):+.4f}"
    assert popular[10] == f"{expected['test']['popularity']['log_loss']:.4f}"
    values = to_json(found)["baselines"]
    assert values["test"]["chance"]["log_loss"] == expected["test"]["chance"]["log_loss"]
    lines = verdict(found)
    assert any(line.startswith(("better than chance by AUC", "no better than chance by AUC")) for line in lines)
    assert all(line in to_markdown(found) for line in lines)


def test_a_recommendation_that_no_seed_tells_from_popularity_says_so() -> None:
    def beside(better: str) -> dict[str, Any]:
        lead = {"auc": {"difference": -0.01, "low": -0.02, "high": 0.0, "better": better}}
        return {"validation": {name: {"auc": 0.5, "lead": lead} for name in ("popularity", "chance")}}

    full = row("vocabulary", None, size=1, validation=[0.5, 0.5, 0.5])
    told = ("popularity", "open", "model")
    runs = tuple(replace(run, baselines=beside(better)) for run, better in zip(full.runs, told, strict=True))
    assert verdict(comparison(replace(full, runs=runs), seeds=3))[0] == (
        "no better than popularity by AUC in 2 of 3 seeds on the validation split: difference -0.0100, -0.0100, -0.0100"
    )
    assert verdict(comparison(full)) == [], "runs of an older version did not measure it"


def test_without_a_test_split_only_validation_is_drawn_and_told() -> None:
    found = comparison(row("vocabulary", None, size=1, validation=[0.5]))
    assert [chart.y_label for chart in charts(found)] == ["validation AUC"]
    assert cells(found)[0][7] == "none"
    assert to_json(found)["rows"][0]["test_auc"] is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"maps": ("hesh",)}, "map 'hesh': did you mean 'hash'"),
        ({"maps": ("vocabulary",)}, "the full vocabulary is always compared"),
        ({"maps": ()}, r"maps are \[\]; allowed: one or more"),
        ({"maps": ("hash", "hash")}, "each once"),
        ({"budgets": ()}, r"budgets are \[\]; allowed: one or more"),
        ({"budgets": (0.0,)}, "budget 0.0; allowed: above 0"),
        ({"budgets": (math.nan,)}, "budget nan; allowed: above 0"),
        ({"seeds": 0}, "0 seeds; allowed: 1 or more"),
        ({"tolerance": -0.1}, "tolerance -0.1; allowed: 0 or more"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CompressConfig(**{"maps": ("hash",), "budgets": (0.5,), **settings})


def test_the_command_refuses_budgets_that_are_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--budgets is 'half'; expected numbers"):
        compress_command("din_synthetic", budgets="half", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_comparisons_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another comparison is writing to it; wait for it"):
        run_compress(tiny_dataset(), tmp_path, SETTINGS)
