"""Minibatch training of models that rank all items: what it learns, how it stops and resumes, what it refuses."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.planted import ITEMS, USERS, planted, popularity_metrics

from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.evaluation.predictions import read_user_values
from recsys.models.registry import CLOSED_FORMS
from recsys.recipes import RETRIEVAL_RECIPES
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import evaluate_retrieval_run
from recsys.training.retrieval.loop import RetrievalProgress, train_retrieval_run
from recsys.training.retrieval.pairs.negatives import NegativeSampler
from recsys.training.retrieval.ranking import metric_values
from recsys.training.run.folder import is_retrieval_run, read_run
from recsys.training.schedules import decayed
from recsys.training.settings import from_json, override, to_json

SMALL = override(
    RetrievalRunConfig(recipe="small"),
    [
        *("model.dim=8", "train.batch_size=400", "train.epochs=16", "train.learning_rate=0.03"),
        *("train.validation_users=0", "train.list_length=5", "train.validate_every=4", "train.checkpoint_epochs=3"),
    ],
)
KINDS = {
    "mf": ["model.kind=mf", "model.init_std=0.1"],
    "lightgcn": ["model.kind=lightgcn", "model.layers=2"],
    "ngcf": ["model.kind=ngcf", "model.layers=2", "model.init_std=0.1"],
    "ngcf as in its code": ["model.kind=ngcf", "model.layers=2", "model.init_std=0.1", "model.variant=code"],
    "sampled lightgcn": ["model.kind=lightgcn", "model.layers=2", "train.fan_outs=[4,3]"],
    "hardest negatives": ["model.kind=lightgcn", "model.layers=2", "train.negatives=4"],
    "sampled, hardest negatives": ["model.kind=lightgcn", "model.layers=1", "train.negatives=2", "train.fan_outs=[4]"],
    "softmax": ["model.kind=mf", "model.init_std=0.1", "train.loss=softmax"],
    "sampled lightgcn, softmax": [
        "model.layers=1",
        "train.fan_outs=[4]",
        "train.loss=softmax",
        "train.sampled_items=32",
    ],
    "cosine contrastive": ["model.layers=2", "train.loss=cosine_contrastive"],
    "sampled ngcf": ["model.kind=ngcf", "model.layers=2", "model.init_std=0.1", "train.fan_outs=[4,3]"],
}


def small(kind: str, *more: str) -> RetrievalRunConfig:
    return override(SMALL, [*KINDS[kind], "model.dim=8", *more])


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_finds_planted_communities(kind: str, tmp_path: Path) -> None:
    data = planted()
    result = train_retrieval_run(small(kind), data, tmp_path / "run")
    popular = popularity_metrics(data)
    assert result.test.ndcg > 2.5 * popular.ndcg and result.test.recall > 2.5 * popular.recall
    assert result.test.users == USERS
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["test"] == metric_values(result.test)
    assert evaluate_retrieval_run(tmp_path / "run", data, "test") == result.test
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["metrics"]["test"]["recall"] == result.test.recall and record["seed"] == SMALL.train.seed


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["ngcf", "sampled ngcf"])
def test_a_killed_run_goes_on_to_the_same_last_digit(kind: str, tmp_path: Path) -> None:
    data = planted()
    config = small(kind, "train.epochs=8", "train.patience=3", "train.schedule=cosine", "model.node_dropout=0.1")
    whole = train_retrieval_run(config, data, tmp_path / "whole")

    def kill(progress: RetrievalProgress) -> None:
        if progress.step == 14 and progress.validation is None:  # in epoch 5 of 3 steps each; checkpoints: 3, 6, 8
            raise Killed

    with pytest.raises(Killed):
        train_retrieval_run(config, data, tmp_path / "part", report=kill)
    evaluate_retrieval_run(tmp_path / "part", data, "validation")
    seen: list[RetrievalProgress] = []
    torch.manual_seed(5)  # the caller's own random numbers have no part in it
    state = torch.get_rng_state()
    resumed = train_retrieval_run(config, data, tmp_path / "part", resume=True, report=seen.append)
    assert torch.equal(state, torch.get_rng_state())
    assert seen[0].epoch == 4
    assert resumed.test == whole.test and resumed.validation == whole.validation
    assert torch.equal(resumed.users_ND, whole.users_ND) and torch.equal(resumed.items_MD, whole.items_MD)
    again = train_retrieval_run(config, data, tmp_path / "part", resume=True)  # of a finished run: measured once more
    assert again.test == whole.test
    with pytest.raises(DataFileError, match="no values of the validation split; found: test"):
        read_user_values(tmp_path / "part", "validation")  # they were of weights that are no more


def test_patience_ends_a_run_with_its_best_weights(tmp_path: Path) -> None:
    data = planted()
    config = small("mf", "train.epochs=300", "train.validate_every=2", "train.patience=3")
    seen: list[RetrievalProgress] = []
    result = train_retrieval_run(config, data, tmp_path / "long", report=seen.append)
    recalls = {p.epoch: p.validation.recall for p in seen if p.validation is not None}
    assert result.best_epoch == max(recalls, key=lambda epoch: recalls[epoch])  # the first of the best
    assert result.epochs == result.best_epoch + 6 < 300
    until_best = override(config, [f"train.epochs={result.best_epoch}", "train.patience=0"])
    same = train_retrieval_run(until_best, data, tmp_path / "short")
    assert torch.equal(same.users_ND, result.users_ND) and same.test == result.test
    assert evaluate_retrieval_run(tmp_path / "long", data, "validation").recall == recalls[result.best_epoch]
    # Also if it stops between checkpoints.
    again = train_retrieval_run(override(config, ["train.checkpoint_epochs=300"]), data, tmp_path / "again")
    assert evaluate_retrieval_run(tmp_path / "again", data, "test") == again.test == result.test


def test_runs_stop_early_by_default_but_those_of_papers_that_train_on_all_pairs() -> None:
    assert RetrievalRunConfig(recipe="r").train.patience > 0
    recipes = [make() for make in RETRIEVAL_RECIPES.values() if make().model.kind not in CLOSED_FORMS]
    without = {config.recipe for config in recipes if not config.train.patience}
    assert without == {config.recipe for config in recipes if not config.data.validation_share} != set()
    assert override(RetrievalRunConfig(recipe="r"), ["model.kind=linear", "train.patience=0"]).train.patience == 0
    with pytest.raises(ConfigError, match="train.patience is 7, but linear is a closed form, which takes no steps"):
        override(RetrievalRunConfig(recipe="r"), ["model.kind=linear", "train.patience=7"])


def test_without_a_validation_part_the_last_weights_are_tested(tmp_path: Path) -> None:
    data = planted()
    empty = make_pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    refit = dataclasses.replace(data, validation=empty)
    result = train_retrieval_run(small("mf", "train.epochs=2", "train.patience=0"), refit, tmp_path / "run")
    assert result.validation is None and result.best_epoch is None and result.epochs == 2
    none_held_out = "train.patience is 2, but there is no validation part; set data.validation_share above 0, or train"
    with pytest.raises(ConfigError, match=none_held_out):
        train_retrieval_run(small("mf", "train.patience=2", "data.validation_share=0"), refit, tmp_path / "other")
    with pytest.raises(ConfigError, match="no user has a pair to spare for data.validation_share 0.1; set train.pati"):
        train_retrieval_run(small("mf"), refit, tmp_path / "other")
    with pytest.raises(InvalidInputError, match="the train part is empty"):
        train_retrieval_run(small("mf"), dataclasses.replace(data, train=empty), tmp_path / "other")


def test_a_run_that_its_data_refuses_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = planted()
    everything = make_pairs(np.zeros(ITEMS, dtype=np.int64), np.arange(ITEMS))
    with pytest.raises(InvalidInputError, match=f"every user of the training pairs took all {ITEMS} items"):
        train_retrieval_run(small("mf"), dataclasses.replace(data, train=everything), tmp_path / "run")
    with pytest.raises(ConfigError, match=f"train.list_length is 999; allowed: at most the {ITEMS} items"):
        train_retrieval_run(small("mf", "train.list_length=999"), data, tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="the recipe small, which ranks all items, runs in one process, but "):
        train_retrieval_run(small("mf"), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_vectors_that_are_not_finite_are_no_checkpoint(tmp_path: Path) -> None:
    config = small("lightgcn", "train.learning_rate=3e38", "train.checkpoint_epochs=1", "train.batch_size=0")
    with pytest.raises(InvalidInputError, match="epoch 1: it left vectors that are not finite.* There was no checkp"):
        train_retrieval_run(config, planted(), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_the_test_masks_validation_pairs_only_if_asked(tmp_path: Path) -> None:
    data = planted()
    masked = train_retrieval_run(small("lightgcn"), data, tmp_path / "masked")
    bare = train_retrieval_run(small("lightgcn", "data.mask_validation=false"), data, tmp_path / "bare")
    assert torch.equal(masked.users_ND, bare.users_ND)
    assert bare.test.recall < masked.test.recall  # validation items stand in the way


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_its_last_checkpoint(tmp_path: Path) -> None:
    config = small("lightgcn", "train.learning_rate=1e30", "train.checkpoint_epochs=1", "train.batch_size=0")
    with pytest.raises(InvalidInputError, match=r"epoch \d+, step 1 of 1: the loss is (nan|inf); lower train.learning"):
        train_retrieval_run(config, planted(), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.pt").exists() and not (tmp_path / "run" / "metrics.json").exists()


def test_a_folder_with_another_run_or_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    data, config, run = planted(), small("mf", "train.epochs=1"), tmp_path / "run"
    train_retrieval_run(config, data, run)
    assert is_retrieval_run(run) and not is_retrieval_run(tmp_path)
    with pytest.raises(DataFileError, match="run holds a run of a model that ranks all items; expected one of a ran"):
        read_run(run)
    with pytest.raises(ConfigError, match="holds a run already"):
        train_retrieval_run(config, data, run)
    with pytest.raises(ConfigError, match='run of another configuration: model.kind was "mf", is "lightgcn"$'):
        train_retrieval_run(small("lightgcn", "train.epochs=1"), data, run, resume=True)
    with pytest.raises(ConfigError, match="was trained on other data"):
        train_retrieval_run(config, planted(seed=1), run, resume=True)
    train_retrieval_run(small("lightgcn", "train.epochs=1"), data, tmp_path / "graph")
    train_retrieval_run(small("ngcf", "train.epochs=1"), data, tmp_path / "ngcf")
    (tmp_path / "ngcf" / "checkpoint.pt").write_bytes((tmp_path / "graph" / "checkpoint.pt").read_bytes())
    with pytest.raises(DataFileError, match="the checkpoint is of another model"):
        evaluate_retrieval_run(tmp_path / "ngcf", data, "test")
    (run / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(DataFileError, match="not a readable checkpoint"):
        evaluate_retrieval_run(run, data, "test")
    with pytest.raises(ConfigError, match="split is 'train'; allowed for a model that ranks all items"):
        evaluate_retrieval_run(run, data, "train")


def test_negatives_are_never_taken_items_and_every_other_one_as_often() -> None:
    taken = {0: [0, 1, 2, 4], 1: [5], 3: [1, 3, 5]}  # user 2 took nothing
    user_E = torch.tensor([user for user, items in taken.items() for _ in items])
    item_E = torch.tensor([item for items in taken.values() for item in items])
    sampler = NegativeSampler(user_E, item_E, num_users=4, num_items=6)
    draws = 6000
    for drawn in (
        sampler.draw(torch.arange(4).repeat_interleave(draws), torch.Generator().manual_seed(0)),
        sampler.draw(torch.arange(4), torch.Generator().manual_seed(0), draws=draws),
    ):
        check_draws(drawn.view(4, draws), taken)


def check_draws(drawn: torch.Tensor, taken: dict[int, list[int]]) -> None:
    for user, own in enumerate(drawn):
        left = [item for item in range(6) if item not in taken.get(user, [])]
        share = torch.bincount(own, minlength=6) / len(own)
        torch.testing.assert_close(share[left], torch.full((len(left),), 1 / len(left)), atol=0.03, rtol=0.0)
        assert share[taken.get(user, [])].sum() == 0


def test_schedules_scale_the_rate() -> None:
    own = {"decay": 0.1, "decay_epochs": 3}
    assert decayed(SMALL.train.schedule, epoch=7, done=0.9, **own) == 1.0
    assert decayed("cosine", epoch=0, done=0.5, **own) == pytest.approx(0.5)
    assert [decayed("step", epoch=e, done=0.0, **own) for e in (2, 3, 6)] == pytest.approx([1.0, 0.1, 0.01])


def test_a_configuration_survives_json_and_names_what_is_wrong() -> None:
    assert from_json(RetrievalRunConfig, to_json(small("sampled ngcf"))) == small("sampled ngcf")
    for change, message in {
        "model.kind=ngfc": "did you mean 'ngcf'",
        "train.epoch=3": "did you mean 'train.epochs'",
        "model.variant=paper": "model.variant is 'paper'",
        "model.dim=6": "a multiple of 4",
        "train.fan_outs=[3]": "train.fan_outs has 1 values for 3 layers",
        "train.learning_rate=-1": "train.learning_rate is -1.0; allowed: 0 or more",
        "data.dataset=gowala": "did you mean 'gowalla'",
        "data.validation_share=1.0": "data.validation_share is 1.0; allowed: 0 or more, below 1",
        "train.epochs": "expected path=value",
    }.items():
        kind = ["model.kind=ngcf"] if "variant" in change else []
        with pytest.raises(ConfigError, match=message):
            override(RetrievalRunConfig(recipe="r"), [*kind, change])


def test_one_epoch_of_batches_covers_every_pair(tmp_path: Path) -> None:
    seen: list[RetrievalProgress] = []
    data: Interactions = planted()
    train_retrieval_run(small("mf", "train.epochs=2"), data, tmp_path / "run", report=seen.append)
    steps = -(-len(data.train) // 400)
    assert [p.step for p in seen if p.validation is None] == list(range(1, 2 * steps + 1))
    assert seen[-1].eta_s == 0.0 and data.num_items == ITEMS
