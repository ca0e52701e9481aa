"""What AutoInt paid attention to, field by field, for one sample."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import NAMESAKES, folder_of_this_process, odd_config, odd_dataset
from typer.testing import CliRunner

from recsys.cli import app
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import map_ids
from recsys.errors import ConfigError, InvalidInputError
from recsys.evaluation.evaluate import predict
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.plots import Heat, write_png
from recsys.training.explain import explain, heat_maps
from recsys.training.loop import train
from recsys.training.trained import TrainedModel, build

FIELDS = (
    *("user", "type", "size", "keys", "present"),
    *("history.item_id", "history.action"),
    *("item.item_id", "item.action", "item.type", "item.size"),
)


@cache
def explained_run() -> tuple[TrainedModel, Dataset]:
    folder = folder_of_this_process()
    dataset = odd_dataset(NAMESAKES, folder)
    config = odd_config()
    config = replace(
        config,
        model=AutoIntConfig(layers=2, attention_width=6, history="mean"),
        tables=replace(config.tables, dims={}),
    )
    return train(config, dataset, folder / "run").trained, dataset


def test_every_field_is_named_once_in_the_networks_order() -> None:
    found = explain(*explained_run(), sample=2)
    assert found.fields == FIELDS
    assert found.maps.shape == (2, 2, len(FIELDS), len(FIELDS))
    np.testing.assert_allclose(found.maps.sum(axis=-1), 1.0, atol=1e-5)


def test_a_fields_column_and_row_are_those_of_the_feature_that_has_its_name() -> None:
    """Changing what one feature holds changes the first layer's scores of that field, and of no pair without it."""
    trained, dataset = explained_run()
    before = explain(trained, dataset, sample=0)
    number = FIELDS.index("item.size")
    changed = replace(dataset, item={**dataset.item, "size": dataset.item["size"] + 3})
    after = explain(replace(trained, data_fingerprint=None), changed, sample=0)
    assert before.values[number] != after.values[number]
    others = [n for n in range(len(FIELDS)) if n != number]
    # Scores are logarithms of weights up to a constant per row: compare differences between two other fields.
    scores = [np.log(each.maps[0][:, others][:, :, others]) for each in (before, after)]
    differences = [each - each[:, :, :1] for each in scores]
    np.testing.assert_allclose(differences[0], differences[1], atol=1e-4)
    assert np.abs(before.maps[0] - after.maps[0]).max() > 1e-4


def test_the_score_is_the_models_and_values_are_the_samples() -> None:
    trained, dataset = explained_run()
    mapped = map_ids(dataset, {table: row_map.lookup for table, row_map in trained.row_maps.items()})
    chosen = dataset.split("validation")
    logits = predict(trained.model, mapped, chosen, convert=trained.convert, device=trained.device)
    for sample in range(3):
        found = explain(trained, dataset, split="validation", sample=sample)
        assert found.score == pytest.approx(1 / (1 + np.exp(-logits[sample])))
        assert found.label == dataset.samples.label[chosen[sample]]
        assert found.values[0] == str(dataset.user["user"][dataset.sample_user[chosen[sample]]])
        assert found.values[FIELDS.index("item.action")] == "not known of items"
        assert found.values[FIELDS.index("history.item_id")].startswith("mean of ")


def test_most_read_is_the_mean_over_heads_in_order() -> None:
    found = explain(*explained_run())
    names_weights = found.most_read(1, 4, count=len(FIELDS))
    expected = found.maps[1, :, 4].mean(axis=0)
    assert dict(names_weights) == pytest.approx(dict(zip(FIELDS, expected, strict=True)))
    assert [w for _, w in names_weights] == sorted(expected, reverse=True)


def test_the_sentence_names_user_item_prediction_and_the_pair_with_the_largest_weight() -> None:
    found = explain(*explained_run(), sample=1)
    shown = dict(zip(found.fields, found.values, strict=True))
    sentence = found.sentence()
    assert sentence.startswith(
        f"For user {shown['user']} and item_id {shown['item.item_id']} the model predicts {found.score:.1%}, "
        f"and the label is {found.label}. "
    )
    weights = {
        (reader, read): float(found.maps[0, :, i, j].mean())
        for i, reader in enumerate(FIELDS)
        for j, read in enumerate(FIELDS)
        if i != j
    }
    reader, read = max(weights, key=lambda pair: weights[pair])
    assert f"layer {reader} ({shown[reader]}) read {read} ({shown[read]}) most: " in sentence
    assert f"{weights[reader, read]:.1%} of all that it read, where {1 / 11:.1%} would be even." in sentence


def test_heat_maps_are_drawn_one_per_layer_and_head(tmp_path: Path) -> None:
    heats = heat_maps(explain(*explained_run()))
    assert [heat.title for heat in heats] == [f"layer {n}, head {h}" for n in (1, 2) for h in (1, 2)]
    write_png(heats[:1], tmp_path / "maps.png")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_other_labels_than_values_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="heat 'h': 2 x 3 values for 2 labels; allowed: 2 x 2"):
        Heat("h", ["a", "b"], np.zeros((2, 3)))


def test_other_models_and_samples_that_are_not_there_are_refused() -> None:
    trained, dataset = explained_run()
    last = len(dataset.split("test")) - 1
    for sample in (last + 1, -1):
        with pytest.raises(InvalidInputError, match=f"sample {sample} of test; allowed: 0 to {last}$"):
            explain(trained, dataset, sample=sample)
    with pytest.raises(ConfigError, match="model 'din' has no attention between features; allowed: runs of model 'aut"):
        explain(build(odd_config(), NAMESAKES, trained.row_maps, device=trained.device), dataset)


def test_the_command_tells_draws_and_prints_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    features = {"name": "shop", "user_id": {"name": "user"}, "item_id": {"name": "item_id", "id_type": "string"}}
    Path("features.json").write_text(json.dumps({**features, "history": {"recent": 4}}))
    lines = [
        f"{user},{'xyz'[(user + n) % 3]},{1_700_000_000_000 + 1000 * n},{(user + n) % 2}"
        for user in range(12)
        for n in range(5)
    ]
    Path("log.csv").write_text("\n".join(["user,item_id,timestamp_ms,label", *lines]) + "\n")
    command("prepare", "log.csv", "--features", "features.json", "--out", "log", "--leave-last")
    settings = ("model.kind=autoint", "data.dataset=./log", "train.epochs=1", "tables.dim=4", "rows.min_count=1")
    command("train", "din", *settings, "--run-dir", "run")
    told = command("explain", "run", "--sample", "1", "--plot", "maps.png")
    assert "test sample 1: score 0." in told and told.startswith("For user ")
    assert " layer 3 " in told and "item.item_id" in told and "even ones would be 0.500" in told
    assert max(map(len, told.splitlines())) <= 80
    assert Path("maps.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(command("explain", "run", "--sample", "1", "--json"))
    assert found["fields"] == ["user", "item.item_id"] and " ".join(told.split()).startswith(found["sentence"])
    np.testing.assert_allclose(np.sum(found["maps"], axis=-1), np.ones((3, 2, 2)), atol=1e-5)


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.stdout
