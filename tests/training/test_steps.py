"""TorchRec's pipeline takes the steps of the plain loop: on CPU it overlaps nothing, but the order is the same."""

from pathlib import Path

import pytest
import torch
from support.tiny_run import NAMESAKES, odd_config, odd_dataset

from recsys.data.samples.dataset import Dataset
from recsys.training.loop import train
from recsys.training.reports import RunResult, TrainingProgress
from recsys.training.run.checkpoint import load
from recsys.training.settings import override

SETTINGS = ["train.evaluate_every=4", "train.patience=9", "train.epochs=3"]


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_network_is_the_same_function_under_the_same_names(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced as ever, but run as it is: making kernels takes many seconds.
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **options: compiled(net, backend="eager", **options))
    config = override(odd_config(), ["model.kind=dcn", "model.head=[7]", "train.epochs=1", "train.batch_size=75"])
    plain = train(config, dataset, tmp_path / "plain")
    traced = train(override(config, ["train.compile=true"]), dataset, tmp_path / "traced")
    assert plain.test is not None and traced.test is not None
    assert traced.test.log_loss == pytest.approx(plain.test.log_loss, abs=1e-5)
    assert (
        load(tmp_path / "traced" / "checkpoint.pt").dense.keys()
        == load(tmp_path / "plain" / "checkpoint.pt").dense.keys()
    )


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return odd_dataset(NAMESAKES, tmp_path_factory.mktemp("odd"))


def losses(name: str, dataset: Dataset, folder: Path) -> tuple[list[float], RunResult]:
    seen: list[float] = []
    config = override(odd_config(), [*SETTINGS, f"train.pipeline={name}"])
    return seen, train(config, dataset, folder, report=lambda p: seen.append(p.loss))


def test_the_pipeline_takes_the_same_steps(dataset: Dataset, tmp_path: Path) -> None:
    plain, by_plain = losses("plain", dataset, tmp_path / "plain")
    pipelined, by_pipeline = losses("sparse_dist", dataset, tmp_path / "pipelined")
    assert pipelined == plain and len(plain) == 15 + 4
    assert (by_pipeline.validation, by_pipeline.test) == (by_plain.validation, by_plain.test)


@pytest.mark.parametrize("call", [2, 5, 12])
def test_a_pipelined_run_goes_on_where_it_was_trained_not_where_it_was_read(
    call: int, dataset: Dataset, tmp_path: Path
) -> None:
    _, whole = losses("sparse_dist", dataset, tmp_path / "whole")
    calls = 0

    def interrupt(progress: TrainingProgress) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed

    config = override(odd_config(), [*SETTINGS, "train.pipeline=sparse_dist"])
    with pytest.raises(Killed):
        train(config, dataset, tmp_path / "run", report=interrupt)
    again = train(config, dataset, tmp_path / "run", resume=True)
    assert (again.validation, again.test) == (whole.validation, whole.test)
    ours, theirs = load(tmp_path / "run" / "checkpoint.pt"), load(tmp_path / "whole" / "checkpoint.pt")
    assert ours.loader == theirs.loader
    assert all(torch.equal(a["weights"], b["weights"]) for a, b in zip(ours.parts, theirs.parts, strict=True))
