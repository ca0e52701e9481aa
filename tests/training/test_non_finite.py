"""Steps that are not finite, the arithmetic of steps, and curves."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_run import NAMESAKES, odd_config, odd_dataset

import recsys.training.loop as loop
import recsys.training.start as start
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import map_ids
from recsys.data.samples.loader import BatchLoader
from recsys.embeddings.sharding.shard import table_weights
from recsys.errors import ConfigError, InvalidInputError
from recsys.training.loop import train
from recsys.training.precision import Precision
from recsys.training.reports import TrainingProgress
from recsys.training.run.checkpoint import load
from recsys.training.settings import override
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import TrainedModel, build, load_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return odd_dataset(NAMESAKES, tmp_path_factory.mktemp("odd"))


def test_a_bad_step_is_named_and_its_batch_kept(dataset: Dataset, tmp_path: Path) -> None:
    config = override(odd_config(), ["tables.optimizer=sgd", "tables.learning_rate=1e30", "train.warmup_steps=0"])
    run = tmp_path / "run"
    with pytest.raises(InvalidInputError) as refused:
        train(config, dataset, run)
    found = re.match(
        r"step (\d+): the loss is (?:nan|inf); lower the learning rates\. The first that is not finite: (.*) "
        rf"\(in [\d,]+ of [\d,]+ numbers\)\. The batch is in {run}/bad_batch\.npz",
        str(refused.value),
    )
    assert found is not None, refused.value
    step = int(found[1])
    assert found[2].startswith("the rows of table '") or found[2] == "the logits"
    mapped = map_ids(dataset, {name: m.lookup for name, m in build_row_maps(config, dataset).items()})
    loader = BatchLoader(mapped, dataset.split("train"), batch_size=30, seed=config.train.seed)
    batches = iter(loader)
    batch = [next(batches) for _ in range(step)][-1]
    with np.load(run / "bad_batch.npz") as kept:
        assert kept["sample"].tolist() == loader.samples_of_last().tolist()
        assert kept["label"].tolist() == dataset.samples.label[kept["sample"]].tolist() == batch.labels.tolist()
        # The side before the name: a feature may be called sample, or file.
        assert set(kept) >= {"user.user", "item.item_id", "history.item_id", "history_offsets", "user.present"}
    assert not (run / "checkpoint.pt").exists()
    assert str(refused.value).endswith("there was no checkpoint yet: begin a new run, in another folder")


def after_step(step: int, change: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the model spoilt between a step and what follows it."""

    def report(progress: TrainingProgress) -> None:
        if progress.step == step:
            change()

    monkeypatch.setattr(loop, "curves", lambda *_, **__: report)


@pytest.mark.parametrize(
    ("step", "message", "kept"),
    [
        (4, r"step 5: the loss is nan; .* parameter 'head\.0\.weight' of the network \(in 1 of \d+ numbers\)", 3),
        (5, r"step 5: it left weights that are not finite; .* parameter 'head\.0\.weight' of the network\. The ba", 3),
    ],
)
def test_a_network_that_is_not_finite_is_named_and_the_checkpoint_stays(
    step: int, message: str, kept: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[TrainedModel] = []

    def remembered(*args: Any, **options: Any) -> TrainedModel:
        made.append(build(*args, **options))
        return made[-1]

    monkeypatch.setattr(start, "build", remembered)

    def spoil() -> None:
        with torch.no_grad():
            made[0].model.module.net.head[0].weight[0, 0] = torch.nan

    after_step(step, spoil, monkeypatch)
    with pytest.raises(InvalidInputError, match=message):
        train(odd_config(), dataset, tmp_path / "run")
    checkpoint = load(tmp_path / "run" / "checkpoint.pt")
    assert checkpoint.step == kept and all(torch.isfinite(value).all() for value in checkpoint.dense.values())


def test_a_gradient_that_is_not_finite_changes_no_parameter(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(odd_config(), ["train.clip_norm=0", "train.checkpoint_steps=1"])
    before: dict[str, torch.Tensor] = {}
    nets = []

    def spoilt(*args: Any, **options: Any) -> TrainedModel:
        trained = build(*args, **options)
        net = trained.model.module.net
        nets.append(net)
        net.head[0].weight.register_hook(lambda grad: grad * float("nan") if before else grad)
        return trained

    monkeypatch.setattr(start, "build", spoilt)
    after_step(4, lambda: before.update({n: p.clone() for n, p in nets[0].named_parameters()}), monkeypatch)
    message = r"step 5: the gradient's norm is nan; .* the gradient of 'head\.0\.weight' \(in \d+ of \d+ numbers\)"
    with pytest.raises(InvalidInputError, match=message):
        train(config, dataset, tmp_path / "run")
    for name, parameter in nets[0].named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_bf16_trains_close_to_float32_with_float32_tables(dataset: Dataset, tmp_path: Path) -> None:
    config = override(odd_config(), ["model.dropout=0"])
    losses: dict[str, list[float]] = {"none": [], "bf16": []}
    for amp, seen in losses.items():
        result = train(
            override(config, [f"train.amp={amp}"]), dataset, tmp_path / amp, report=lambda p, s=seen: s.append(p.loss)
        )
        assert {w.dtype for w in table_weights(result.trained.model).values()} == {torch.float32}
    assert losses["bf16"] != losses["none"]
    np.testing.assert_allclose(losses["bf16"], losses["none"], rtol=0.02)


def test_fp16_is_refused_on_cpu(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train.amp is 'fp16', but training runs on CPU, .* allowed: none, bf16"):
        train(override(odd_config(), ["train.amp=fp16"]), dataset, tmp_path / "run", device=torch.device("cpu"))
    assert not (tmp_path / "run").exists()


def test_with_a_scaled_loss_tables_get_the_gradient_of_the_loss_and_none_if_it_overflows() -> None:
    precision = Precision("none", torch.device("cpu"))
    precision._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    class Tables(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = torch.nn.Parameter(torch.ones(2, 4))

        def forward(self) -> dict[str, torch.Tensor]:
            return {"user": self.rows * 1.0}

    tables = Tables()
    precision.unscale_gradients_of(tables)
    precision.scaled((3.0 * tables()["user"]).sum()).backward()
    assert tables.rows.grad is not None and torch.equal(tables.rows.grad, torch.full((2, 4), 3.0))
    tables.rows.grad = None
    precision.scaled((torch.tensor([1.0, torch.inf, 1.0, 1.0]) * tables()["user"]).sum()).backward()
    assert torch.equal(tables.rows.grad, torch.zeros(2, 4))


def test_the_gradient_is_clipped_to_its_norm() -> None:
    for clip_norm, expected in ((0.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (9.0, [3.0, 4.0])):
        net = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.zeros_(net.weight)
        net.weight.grad = torch.tensor([[3.0, 4.0]])
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        update = Precision("none", torch.device("cpu")).update(optimizer, net, clip_norm=clip_norm)
        update.step()
        assert update.grad_norm == 5.0
        assert (-net.weight).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_curves_hold_what_was_reported_and_continue_after_a_kill(dataset: Dataset, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = override(odd_config(), ["train.tensorboard=true"])
    seen: list[TrainingProgress] = []
    train(config, dataset, tmp_path / "run", report=seen.append)
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    curves.Reload()
    assert {"train/loss", "train/grad_norm", "train/samples_per_s", "rate/network", "validation/auc"} <= set(
        curves.Tags()["scalars"]
    )
    points = {event.step: event.value for event in curves.Scalars("validation/auc")}
    assert points == pytest.approx({p.step: p.validation.auc for p in seen if p.validation is not None})
    (last,) = [event for event in curves.Scalars("train/grad_norm") if event.step == 10]
    assert last.value == pytest.approx(next(p.grad_norm for p in seen if p.step == 10))
    # Curves are no part of what a run is: it goes on without them.
    train(replace(config, train=replace(config.train, tensorboard=False)), dataset, tmp_path / "run", resume=True)
    assert load_run(tmp_path / "run").config.train.tensorboard is False
