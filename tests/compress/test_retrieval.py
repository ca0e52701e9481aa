"""Memory against quality of models that rank all items: what is counted, chosen and refused."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from support.planted import ITEMS, USERS, planted

from recsys.cli.compress import _table
from recsys.compress.comparison import Choice, Comparison, CompressConfig
from recsys.compress.report import COLUMNS, baseline_cells, cells, charts, headers, to_json, to_markdown, verdict
from recsys.compress.retrieval import RetrievalTrials
from recsys.compress.sweep import compress, configure
from recsys.errors import ConfigError, InvalidInputError
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import evaluate_retrieval_run
from recsys.training.retrieval.folder import load
from recsys.training.settings import override

RECIPE = override(
    RetrievalRunConfig(recipe="tiny"),
    [
        *("model.kind=mf", "model.dim=8", "model.init_std=0.1", "train.batch_size=400", "train.epochs=8"),
        *("train.learning_rate=0.03", "train.validation_users=0", "train.list_length=5", "train.validate_every=8"),
    ],
)
SETTINGS = CompressConfig(maps=("hash", "unified", "graph"), budgets=(0.1, 0.001), seeds=1)
"""A thousandth of 120 users and 100 items is no row."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("compress")
    return out, compress(RetrievalTrials(RECIPE, planted()), out, SETTINGS)


def test_clusters_are_recommended_where_communities_share_their_taste(done: tuple[Path, Comparison]) -> None:
    chosen = done[1].recommended
    assert chosen.choice == Choice(map="graph", budget=0.1)
    assert chosen.validated("recall") > done[1].full.validated("recall") - done[1].tolerance
    full, hashed = done[1].full, done[1].rows[1]
    assert hashed.choice.map == "hash" and hashed.validated("recall") < full.validated("recall") - done[1].tolerance


def test_bytes_are_those_of_the_rows_that_were_trained(done: tuple[Path, Comparison]) -> None:
    out, found = done
    for row in found.possible:
        held = load(out / "runs" / row.runs[0].run)["model"]["rows"].values()
        assert row.runs[0].table_bytes["none"] == sum(rows.numel() * 4 for rows in held)
        assert row.runs[0].table_bytes["int8"] == sum(len(rows) * (8 + 8) for rows in held)
    assert found.full.table_bytes("none") == (USERS + ITEMS) * 8 * 4 and found.full.map_bytes == 0
    by_map = {row.choice.map: row for row in found.possible if row.choice.budget == 0.1}
    assert by_map["hash"].map_bytes == by_map["unified"].map_bytes == 0 < by_map["graph"].map_bytes


def test_figures_are_those_of_the_runs_by_recall_with_ndcg_beside(done: tuple[Path, Comparison]) -> None:
    out, found = done
    for row in found.possible:
        run = row.runs[0]
        of_run = evaluate_retrieval_run(out / "runs" / run.run, planted(), "test")
        assert (run.value("test", "recall"), run.value("test", "ndcg")) == (of_run.recall, of_run.ndcg)
    names = headers(found)
    assert names[5:11] == ("validation recall@5", "to full", "test recall@5", "to full", *names[9:11])
    assert names[9:11] == ("validation NDCG@5", "test NDCG@5")
    full = cells(found)[0]
    assert len(names) == len(full) == COLUMNS and full[7] == f"{found.full.runs[0].value('test', 'recall'):.4f}"
    assert [chart.y_label for chart in charts(found)] == ["validation recall@5", "test recall@5"]
    assert {"validation_recall", "validation_ndcg", "test_recall", "test_ndcg"} <= set(to_json(found)["rows"][0])
    assert {cell[0] for cell in baseline_cells(found)} == {"popularity", "chance", "linear"}
    assert "![Memory against recall@5](compress.png)" in to_markdown(found)
    assert "Memory is that of training: a bundle holds the final vector of each id." in to_markdown(found)
    assert any(line.startswith("better than chance by recall") for line in verdict(found))


def test_a_narrow_terminal_has_whole_cells(done: tuple[Path, Comparison]) -> None:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(_table(done[1], 80))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and "validation recall@5" in text


def test_what_cannot_be_is_said_and_what_is_done_is_not_trained_again(done: tuple[Path, Comparison]) -> None:
    out, found = done
    impossible = {row.choice.map: row.impossible for row in found.rows if row.impossible}
    assert set(impossible) == set(SETTINGS.maps)
    assert impossible["hash"] == (
        "rows.budget 0.001 leaves table 'user_id', of 120 ids, without a row; give more, or let small tables keep "
        "their ids with rows.exact_below"
    )
    trained: list[object] = []
    again = compress(
        RetrievalTrials(RECIPE, planted()),
        out,
        SETTINGS,
        report=lambda told: trained.append(told.training) if told.training else None,
    )
    assert again == found and not trained


def test_runs_differ_in_map_budget_and_seeds_alone() -> None:
    made = configure(RECIPE, Choice(map="graph", budget=0.25), seed=2)
    assert (made.rows.map, made.rows.budget, made.rows.seed, made.train.seed) == ("graph", 0.25, 2, 2028)
    assert dataclasses.replace(made, rows=RECIPE.rows, train=RECIPE.train) == RECIPE


def test_what_has_no_table_or_nothing_to_choose_by_is_refused(tmp_path: Path) -> None:
    data = planted()
    unsure = dataclasses.replace(data, validation=data.validation.where(data.validation.user_E < 0))
    closed = override(RetrievalRunConfig(recipe="r"), ["model.kind=linear"])
    frozen = override(RECIPE, ["train.freeze_items=bundle"])
    for config, parts, error, says in (
        (RECIPE, unsure, InvalidInputError, "validation part is empty.*data.validation_share=0.1"),
        (closed, data, ConfigError, "linear is a closed form without tables of ids; fewer model.ranks"),
        (frozen, data, ConfigError, "train.freeze_items keeps the items of a bundle"),
    ):
        with pytest.raises(error, match=says):
            compress(RetrievalTrials(config, parts), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_tables_of_two_towers_are_counted_with_those_of_attributes(tmp_path: Path) -> None:
    config = override(
        RetrievalRunConfig(recipe="towers"),
        [
            *("model.kind=two_tower", "model.dim=8", "model.heads=1", "model.layers=1", "rows.min_count=1"),
            *("train.loss=softmax", "train.epochs=1", "train.batch_size=256", "train.sampled_items=16"),
            *("train.list_length=5", "rows.spare_rows=0.0", "train.validate_every=1"),
        ],
    )
    found = compress(
        RetrievalTrials(config, planted()), tmp_path, CompressConfig(maps=("hash",), budgets=(0.5,), seeds=1)
    )
    full, hashed = found.possible
    assert full.table_bytes("none") > (ITEMS - 1) * 8 * 4, "a user has no row"
    assert hashed.table_bytes("none") < 0.6 * full.table_bytes("none")
