"""Metrics of a run's predictions, its segments, and the comparison of two runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.tiny_run import PLAIN, finished, odd_config, odd_dataset
from typer.testing import CliRunner

from recsys.cli import app
from recsys.data.samples.stored import write_samples
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.evaluation.baselines import baselines_of
from recsys.evaluation.comparison import (
    SegmentPair,
    compare_predictions,
    compare_segments,
    compare_user_values,
    shared_users,
)
from recsys.evaluation.evaluate import measure, resample, segments, slices
from recsys.evaluation.predictions import (
    FILE,
    USER_FILE,
    Predictions,
    UserValues,
    predictions_of,
    read_predictions,
    read_user_values,
    write_predictions,
    write_user_values,
)
from recsys.evaluation.report import (
    beside_table,
    comparison_table,
    lists_note,
    metrics_table,
    reliability_charts,
    segment_comparison_table,
    segments_table,
)
from recsys.metrics import auc, calibration_error, gauc, log_loss, reliability
from recsys.training.config import DataConfig
from recsys.training.loop import train


def some(labels: list[int], logits: list[float], **columns: list[int]) -> Predictions:
    """Predictions with everything else 0 unless given."""
    values = {
        name: np.array(columns.get(name, [0] * len(labels)))
        for name in ("user_key", "item_key", "time_ms", "earlier_events", "user_train", "item_train")
    }
    values |= {"popularity": np.full(len(labels), 0.5), "chance": np.full(len(labels), 0.5)}
    return Predictions(label=np.array(labels, dtype=np.uint8), logit=np.array(logits, dtype=np.float32), **values)


def test_a_finished_run_keeps_the_predictions_that_its_metrics_are_of() -> None:
    run = finished()
    for split, metrics in (("validation", run.result.validation), ("test", run.result.test)):
        kept = read_predictions(run.folder, split)
        indices = run.dataset.split(split)
        assert kept.label.tolist() == run.dataset.samples.label[indices].tolist()
        assert measure(kept) == metrics
        assert metrics is not None
        probability = 1 / (1 + np.exp(-kept.logit.astype(np.float64)))
        assert metrics.auc == auc(kept.label, kept.logit)
        assert metrics.gauc == gauc(kept.label, kept.logit, kept.user_key)
        assert metrics.log_loss == log_loss(kept.label, probability)
        assert metrics.calibration_error == calibration_error(reliability(kept.label, probability))
        assert metrics.hit_rate_at_10 is None and metrics.lists == 0


def test_segment_inputs_are_counts_of_earlier_events_and_of_training_samples() -> None:
    run = finished()
    dataset, kept = run.dataset, read_predictions(run.folder, "test")
    training, indices = dataset.split("train"), dataset.split("test")
    for place in (0, len(kept) // 2, len(kept) - 1):
        sample = indices[place]
        user, item = dataset.sample_user[sample], dataset.sample_item[sample]
        events = slice(dataset.table.offsets[user], dataset.table.offsets[user + 1])
        earlier = (dataset.table.timestamp_ms[events] < dataset.sample_time_ms[sample]).sum()
        assert kept.earlier_events[place] == earlier
        assert kept.user_train[place] == (dataset.sample_user[training] == user).sum()
        assert kept.item_train[place] == (dataset.sample_item[training] == item).sum()
        assert kept.user_key[place] == dataset.table.user_keys[user]


def test_every_sample_is_in_one_segment_of_each_kind() -> None:
    kept = read_predictions(finished().folder, "test")
    masks = slices(kept)
    for kind in ("history", "user", "item"):
        assert sum(mask.astype(int) for name, mask in masks.items() if name.startswith(kind)).tolist() == [1] * len(
            kept
        )


def test_a_segment_of_one_class_has_no_auc_but_a_log_loss() -> None:
    predictions = some(
        [1, 1, 0], [0.0, 1.0, 2.0], earlier_events=[0, 0, 12], user_train=[0, 0, 3], item_train=[1, 1, 1]
    )
    by_name = {part.name: part for part in segments(predictions)}
    assert set(by_name) == {
        "history 0",
        "history 10 to 49",
        "user new",
        "user seen in training",
        "item seen in training",
    }
    alone = by_name["history 0"]
    assert (alone.auc, alone.gauc, alone.samples, alone.positives) == (None, None, 2, 2)
    assert alone.log_loss == pytest.approx(np.mean([np.log(2), np.log1p(np.exp(-1))]))
    assert by_name["item seen in training"].auc == 0.0


def test_features_without_history_have_no_history_segments() -> None:
    parts = segments(some([0, 1], [0.1, 0.2], earlier_events=[-1, -1]))
    assert [part.name for part in parts] == ["user new", "item new"]


def test_samples_with_one_positive_per_moment_are_lists_of_candidates() -> None:
    # Two moments of one user: the positive first of three, then tied for the first place of two.
    found = measure(some([1, 0, 0, 0, 1], [3.0, 1.0, 2.0, 5.0, 5.0], time_ms=[1, 1, 1, 2, 2]))
    assert (found.lists, found.shortest_list, found.longest_list) == (2, 2, 3)
    assert found.mrr == pytest.approx((1 + (1 + 1 / 2) / 2) / 2)


def test_hits_in_ten_are_only_of_lists_that_are_longer() -> None:
    # The positive last of 11 for user 1, tied for the first place of 12 for user 2, first of 2 for user 3.
    logits = [0.0, *range(1, 11), 5.0, 5.0, *[1.0] * 10, 1.0, 0.0]
    labels, users = [1, *[0] * 10, 1, *[0] * 11, 1, 0], [*[1] * 11, *[2] * 12, 3, 3]
    predictions = some(labels, logits, user_key=users)
    found = measure(predictions)
    assert (found.lists, found.long_lists, found.shortest_list, found.longest_list) == (3, 2, 2, 12)
    assert found.hit_rate_at_10 == pytest.approx((0 + 1) / 2)
    assert found.ndcg_at_10 == pytest.approx((0 + (1 + 1 / np.log2(3)) / 2) / 2)
    assert found.mrr == pytest.approx((1 / 11 + (1 + 1 / 2) / 2 + 1) / 3)
    assert (
        lists_note(found) == "MRR is of 3 lists of 2 to 12 candidates; HR@10 and NDCG@10 are of the 2 with more than 10"
    )
    drawn = resample(predictions, resamples=50)
    assert set(np.unique(drawn["hit_rate_at_10"].values_R[np.isfinite(drawn["hit_rate_at_10"].values_R)])) <= {
        weight / total for total in range(1, 4) for weight in range(total + 1)
    }
    short = measure(predictions.where(np.array(users) == 3))
    assert (short.hit_rate_at_10, short.ndcg_at_10, short.mrr) == (None, None, 1.0)
    assert lists_note(short) == (
        "HR@10 and NDCG@10 are left out: 1 list of 2 candidates, and in a list of 10 or fewer the positive is always "
        "a hit"
    )
    assert "left out: the samples are no lists of candidates" in lists_note(measure(some([0, 1, 1], [0.0, 1.0, 2.0])))


def test_intervals_enclose_the_metrics() -> None:
    kept = read_predictions(finished().folder, "test")
    metrics, drawn = measure(kept), resample(kept, resamples=100)
    assert set(drawn) == {"auc", "gauc", "log_loss"}
    for name, values in drawn.items():
        interval = values.interval()
        assert interval is not None and interval[0] < getattr(metrics, name) < interval[1]


def test_a_better_model_is_found_better_and_a_run_beside_itself_is_not() -> None:
    kept = read_predictions(finished().folder, "test")
    random = np.random.Generator(np.random.PCG64(0))
    worse = replace(kept, logit=kept.logit + random.normal(0, 2, len(kept)).astype(np.float32))
    for difference in compare_predictions(kept, worse, resamples=200):
        assert difference.verdict == "A" and difference.a_better == 1.0
        assert difference.difference == difference.a - difference.b
        assert (difference.difference > 0) == (difference.metric != "log_loss")
    for difference in compare_predictions(kept, kept, resamples=20):
        assert (difference.low, difference.high, difference.a_better, difference.verdict) == (0, 0, 0.5, "open")
    assert [pair.auc.verdict for pair in compare_segments(worse, kept, resamples=100) if pair.auc][-1] == "B"


def test_segments_of_a_comparison_are_those_of_the_first_run() -> None:
    kept = read_predictions(finished().folder, "test")
    of_fewer = replace(
        kept, user_train=np.zeros_like(kept.user_train), earlier_events=np.full_like(kept.label, -1, "i4")
    )
    for a, b, names in ((kept, of_fewer, set(slices(kept))), (of_fewer, kept, set(slices(of_fewer)))):
        pairs = compare_segments(a, b, resamples=5)
        assert {pair.a.name for pair in pairs} <= names and len(pairs) == len(segments(a))
        assert all(pair.a == pair.b for pair in pairs), "the logits are the same"


def test_a_comparison_of_retrieval_runs_is_over_users(tmp_path: Path) -> None:
    users = np.arange(50)
    a = UserValues(user_G=users, values={"recall": np.linspace(0, 1, 50), "ndcg": np.zeros(50)})
    b = UserValues(user_G=users, values={"recall": np.linspace(0, 1, 50) / 2, "ndcg": np.zeros(50)})
    recall, ndcg = compare_user_values(a, b, resamples=50)
    assert recall.difference == pytest.approx(0.25) and recall.verdict == "A" and ndcg.verdict == "open"
    with pytest.raises(InvalidInputError, match="A ranked for 50 users, B for 49, and they are not the same"):
        compare_user_values(a, UserValues(user_G=users[1:], values={}))
    for name, values in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        write_user_values(tmp_path / name, {"test": values})
    assert read_user_values(tmp_path / "a", "test").values["recall"].tolist() == a.values["recall"].tolist()
    told = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    assert json.loads(told.stdout)["recall"]["better"] == "A"
    with pytest.raises(DataFileError, match="no values of the validation split"):
        read_user_values(tmp_path / "a", "validation")
    for options, message in (
        ([str(tmp_path / "b"), "--segments"], "--segments is for click prediction"),
        ([str(finished().folder)], "allowed: two runs of one kind"),
    ):
        refused = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), *options])
        assert isinstance(refused.exception, ConfigError) and message in str(refused.exception)


def test_a_run_measured_on_a_sample_of_users_is_compared_on_these(tmp_path: Path) -> None:
    users = np.arange(50)

    def ranked(recall_G: np.ndarray, chosen_G: np.ndarray, popular: float = 0.5) -> UserValues:  # type: ignore[type-arg]
        popular_G = np.where(chosen_G % 2, popular, 1.0)
        baselines = {name: {"recall": popular_G} for name in ("popularity", "chance")}
        return UserValues(user_G=chosen_G, values={"recall": recall_G[chosen_G]}, baselines=baselines)

    a, b = ranked(np.linspace(0, 1, 50), users), ranked(np.zeros(50), users[::5])
    of_a, of_b = shared_users(a, b)
    assert of_a.user_G.tolist() == of_b.user_G.tolist() == users[::5].tolist()
    assert of_a.values["recall"].tolist() == np.linspace(0, 1, 50)[::5].tolist()
    assert of_a.baselines["chance"]["recall"].tolist() == of_b.baselines["chance"]["recall"].tolist()
    for folder, values in (("a", a), ("b", b)):
        (tmp_path / folder).mkdir()
        write_user_values(tmp_path / folder, {"validation": values})
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--split", "validation", "--bootstrap", "20"]
    told = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "measured: A on 50, B on 10 users; compared on the 10 of both" in told.stdout
    assert json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["users"] == 10
    others = ranked(np.zeros(50), users[::5], popular=0.25), ranked(np.zeros(99), np.arange(45, 60))
    for other in (*others, UserValues(user_G=users[::5], values=b.values)):
        with pytest.raises(InvalidInputError, match="they are not the same; compare runs of one data set and split"):
            shared_users(a, other)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (some([0, 1, 1], [0, 1, 2]), "A has 2 samples, B 3; compare runs of one data set, split and label"),
        (some([0, 1], [0, 1], item_key=[0, 9]), "not of the same samples: item_key differs in 1 of 2"),
        (some([1, 0], [0, 1]), "label differs in 2 of 2"),
    ],
)
def test_runs_of_other_samples_are_not_compared(other: Predictions, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        compare_predictions(some([0, 1], [0.0, 1.0]), other)


def test_compare_prints_both_runs_and_their_segments() -> None:
    folder = str(finished().folder)
    told = CliRunner().invoke(app, ["compare", folder, folder, "--bootstrap", "20", "--segments"])
    assert "A better in" in told.stdout and "history" in told.stdout
    assert {"popularity", "chance"} <= set(told.stdout.split())
    lines = told.stdout.splitlines()
    for name in "AB":  # the planted tastes are the users' own
        assert any(line.startswith(f"{name}: better than popularity by AUC") for line in lines)
    told = CliRunner().invoke(app, ["compare", folder, folder, "--bootstrap", "20", "--segments", "--json"])
    facts = json.loads(told.stdout)
    assert facts["baselines"]["a"] == facts["baselines"]["b"]
    assert facts["baselines"]["a"]["popularity"]["lead"]["auc"]["better"] == "model"
    assert (facts["auc"]["difference"], facts["auc"]["better"]) == (0, "open")
    assert {part["auc"]["better"] for part in facts["segments"] if part["auc"]} == {"open"}


def test_evaluate_gives_intervals_segments_and_a_plot_and_keeps_predictions(tmp_path: Path) -> None:
    dataset = odd_dataset(PLAIN, tmp_path / "log")
    (tmp_path / "log" / "plain").rename(tmp_path / "log" / "events")
    write_samples(dataset.samples, tmp_path / "log" / "samples")
    config = replace(odd_config(), data=DataConfig(dataset=str(tmp_path / "log"), recent=4))
    run = tmp_path / "run"
    result = train(config, dataset, run)
    (run / FILE).unlink()
    options = ["--segments", "--bootstrap", "20", "--plot", str(tmp_path / "plot.png")]
    told = CliRunner().invoke(app, ["evaluate", str(run), "--json", *options], catch_exceptions=False)
    beside = json.loads(told.stdout)["baselines"]["test"]
    assert beside["chance"]["auc"] == 0.5 and set(beside["popularity"]["lead"]) == {"auc", "gauc", "log_loss"}
    facts = json.loads(told.stdout)["test"]
    assert result.test is not None
    assert {name: facts[name] for name in asdict(result.test)} == pytest.approx(asdict(result.test), abs=1e-6)
    assert facts["intervals"]["auc"][0] < facts["auc"] < facts["intervals"]["auc"][1]
    assert {"history 10 to 49", "item seen in training"} <= {part["name"] for part in facts["segments"]}
    assert (tmp_path / "plot.png").exists() and len(read_predictions(run, "test")) == result.test.samples
    told = CliRunner().invoke(app, ["evaluate", str(run), *options, "--split", "validation"], catch_exceptions=False)
    assert "calibration error" in told.stdout and "history 10 to 49" in told.stdout
    # The labels are random: a model that learnt nothing is told so in words.
    assert "no better than popularity by" in told.stdout and "no better than chance by" in told.stdout
    assert "HR@10, NDCG@10 and MRR are left out: the samples are no lists of candidates" in told.stdout


def test_predictions_of_splits_are_kept_side_by_side(tmp_path: Path) -> None:
    dataset = finished().dataset
    indices = dataset.split("test")[:5]
    predictions = predictions_of(dataset, indices, np.arange(5, dtype=np.float32))
    write_predictions(tmp_path, {"test": predictions})
    write_predictions(tmp_path, {"train": predictions.where(predictions.logit > 2)})
    assert read_predictions(tmp_path, "test").logit.tolist() == [0, 1, 2, 3, 4]
    assert read_predictions(tmp_path, "train").logit.tolist() == [3, 4]
    with pytest.raises(DataFileError, match="no predictions of the validation split; found: test, train"):
        read_predictions(tmp_path, "validation")
    with pytest.raises(DataFileError, match="no predictions of the tset split; did you mean 'test'"):
        read_predictions(tmp_path, "tset")
    with pytest.raises(DataFileError, match="nowhere is not the folder of a run"):
        read_predictions(tmp_path / "nowhere", "test")
    (tmp_path / FILE).write_bytes(b"not a zip")
    with pytest.raises(DataFileError, match="not readable as predictions"):
        read_predictions(tmp_path, "test")


def test_a_damaged_file_of_predictions_is_written_anew(tmp_path: Path) -> None:
    for name in (FILE, USER_FILE):
        (tmp_path / name).write_bytes(b"PK torn")
    write_predictions(tmp_path, {"test": some([0, 1], [1, 2])})
    assert read_predictions(tmp_path, "test").logit.tolist() == [1, 2]
    write_user_values(tmp_path, {"test": UserValues(user_G=np.arange(2), values={"recall": np.array([0, 1.0])})})
    assert read_user_values(tmp_path, "test").values["recall"].tolist() == [0, 1]


def test_tables_fit_a_terminal_of_80_columns() -> None:
    predictions = some([0, 1, 0], [0.5, 0.2, -1], user_key=[1, 1, 2], earlier_events=[60, 60, 60])
    part = replace(segments(predictions)[0], name="user seen in training", samples=1_000_000, positives=500_000)
    difference = replace(compare_predictions(predictions, predictions, resamples=9)[0], low=-0.1, high=-0.1)
    pair = SegmentPair(a=part, b=part, auc=difference)
    tables = (
        metrics_table(
            "test", measure(predictions), baselines_of(predictions), drawn=resample(predictions, resamples=9)
        ),
        beside_table([difference], baselines_of(predictions)),
        segments_table([part]),
        comparison_table([replace(difference, metric="log_loss")]),
        segment_comparison_table([pair]),
    )
    for table in tables:
        assert Console(width=200).measure(table).maximum <= 80


def test_a_logit_beyond_float64s_exponents_is_a_probability_of_zero_or_one() -> None:
    assert some([0, 1], [-1e4, 1e4]).probability.tolist() == [0, 1]


def test_tables_and_plots_show_what_has_no_value_as_none() -> None:
    predictions = some([0, 1], [0.5, 0.2], user_key=[1, 2], earlier_events=[0, 1])
    metrics = metrics_table("test", measure(predictions))
    assert list(metrics.columns[1].cells)[:2] == ["0.0000", "none"]
    assert "none" in list(segments_table(segments(predictions)).columns[3].cells)
    curve, counts = reliability_charts(predictions, title="tiny")
    assert sum(counts.values) == 2  # type: ignore[union-attr]
    assert len(curve.series) == 2  # type: ignore[union-attr]
