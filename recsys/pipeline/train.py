"""The models of a day.

The ranking model is trained in this process, or in those of a launcher (``python -m recsys.pipeline.train``).

In the pipeline's own process training needs no second import of torch, and is killed with the pipeline. A launcher's
processes end by themselves when the pipeline is gone: each watches its standard input.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.datasets import load_dataset
from recsys.data.interactions.pairs import Interactions
from recsys.data.interactions.positives import positive_pairs
from recsys.data.samples.dataset import Dataset
from recsys.errors import BundleError, ConfigError, DataFileError, RecsysError
from recsys.files import write_atomically
from recsys.pipeline.plan import RetrievalPlan
from recsys.training.config import RunConfig
from recsys.training.distributed.processes import end_process, first_before_others, is_first, world
from recsys.training.loop import train
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.frozen.index import open_frozen
from recsys.training.retrieval.loop import RetrievalRunResult
from recsys.training.retrieval.run import train_any
from recsys.training.run.folder import CHECKPOINT
from recsys.training.settings import from_json, override

RUN = "run"
"""Folder of the run in the step's output."""

_SPEC = "launch.json"


def train_run(
    config: RunConfig, folder: Path, *, launcher: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Train, or go on where a killed run was; facts on the run.

    Args:
        config: of the run; its dataset is the folder of a prepared log.
        folder: of the step; the run's is ``run`` in it.
        launcher: see :class:`recsys.pipeline.settings.TrainingSettings`.
        say: told in a line what a warm start took.

    Raises:
        RecsysError: as :func:`recsys.training.loop.train`; or processes that were launched failed.
    """
    run_dir = folder / RUN
    if launcher:
        _launch(config, run_dir, folder / _SPEC, launcher)
    else:
        _train_here(config, run_dir, say)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    test = metrics.get("test") or {}
    return {
        "auc": test.get("auc"),
        "log_loss": test.get("log_loss"),
        "samples_per_s": metrics.get("samples_per_s"),
    }


def train_retrieval(
    config: RetrievalRunConfig,
    dataset: Dataset,
    folder: Path,
    *,
    plan: RetrievalPlan,
    most_new_items: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train a model that ranks all items, or go on where a killed run was; facts on the run.

    Args:
        config: of a run from scratch.
        dataset: with keys.
        folder: of the step; the run's is ``run`` in it.
        plan: says which items are kept, if they fit.
        most_new_items: share of the new positives, up to which they may be of items that are not kept.
        say: told the run's notes.

    Returns:
        ``mode``: ``full``, or ``users`` trained alone; ``why``; ``index``: fingerprint of the one that is kept, or
        empty; ``not_found``: items with a positive that it has not; ``new_items``: share of the new positives that are
        of these, None where nothing could be kept; ``recall`` and ``ndcg``.

    Raises:
        RecsysError: as :func:`recsys.training.retrieval.run.train_any`.
    """
    run_dir = folder / RUN
    pairs = positive_pairs(dataset, config.data, source="the log")
    kept, facts = _kept_items(config, pairs, dataset, plan=plan, most_new_items=most_new_items)
    resume = (run_dir / CHECKPOINT).exists()
    if run_dir.exists() and not resume:
        shutil.rmtree(run_dir)

    def tell(notes: Sequence[str]) -> None:
        for note in notes:
            say(note)

    def train_in(*, resume: bool) -> RetrievalRunResult:
        return train_any(kept or config, pairs, run_dir, resume=resume, show_notes=tell)

    try:
        result = train_in(resume=resume)
    except (DataFileError, ConfigError) as error:
        if not resume:
            raise
        say(f"what a killed run left cannot be gone on with ({error}); training anew")
        shutil.rmtree(run_dir)
        result = train_in(resume=False)
    return {**facts, "recall": result.test.recall, "ndcg": result.test.ndcg}


def _kept_items(
    config: RetrievalRunConfig, pairs: Interactions, dataset: Dataset, *, plan: RetrievalPlan, most_new_items: float
) -> tuple[RetrievalRunConfig | None, dict[str, Any]]:
    """The configuration of a run that keeps a bundle's items, None if none does; and facts on it."""

    def full(why: str, **facts: Any) -> tuple[None, dict[str, Any]]:
        none = {"index": "", "not_found": 0, "new_items": None}
        return None, {"mode": "full", "why": f"from scratch: {why}", **none, **facts}

    if plan.keep is None:
        return full(plan.of)
    alone = ["train.fan_outs=[]", *(["model.start=random"] if hasattr(config.model, "start") else [])]
    kept = override(config, [*alone, f"train.freeze_items={json.dumps(str(plan.keep.absolute()))}"])
    try:
        index, _ = open_frozen(kept, pairs)
    except (BundleError, ConfigError, DataFileError) as error:
        return full(f"the items of {plan.of} cannot be kept: {error}")
    row_I = index.rows_of(dataset.table.item_keys)
    known = dataset.split("train")
    positives = known[dataset.samples.label[known] == 1]
    new = positives[dataset.sample_time_ms[positives] >= plan.since_ms]
    share = float((row_I[dataset.sample_item[new]] < 0).mean()) if len(new) else 0.0
    items = np.unique(dataset.sample_item[positives])
    not_found = int((row_I[items] < 0).sum())
    if share > most_new_items:
        return full(
            f"{share:.1%} of the new positives are of items that the index of {plan.of} has not; allowed: "
            f"{most_new_items:.1%} (retrieval.most_new_items)",
            new_items=share,
        )
    why = f"users alone, beside the items of {plan.of}, whose index stays"
    return kept, {
        "mode": "users", "why": why, "index": index.fingerprint, "not_found": not_found, "new_items": share,
    }  # fmt: skip


def _train_here(config: RunConfig, run_dir: Path, say: Callable[[str], None]) -> None:
    dataset = load_dataset(config.data.dataset, recent=config.data.recent, work_dir=run_dir).dataset
    resume = (run_dir / CHECKPOINT).exists()
    if run_dir.exists() and not resume:
        shutil.rmtree(run_dir)  # killed before its first checkpoint
    try:
        train(config, dataset, run_dir, resume=resume, show_start=lambda taken: say(str(taken)))
    except (DataFileError, ConfigError) as error:
        if not resume:
            raise
        say(f"what a killed run left cannot be gone on with ({error}); training anew")
        shutil.rmtree(run_dir)
        train(config, dataset, run_dir)


def _launch(config: RunConfig, run_dir: Path, spec: Path, launcher: Sequence[str]) -> None:
    """Train in the processes of a launcher; they share this folder."""
    write_atomically(spec, json.dumps({"config": dataclasses.asdict(config), "run_dir": str(run_dir)}).encode())
    command = [*launcher, "-m", __name__, str(spec)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr)
    except OSError as error:
        raise ConfigError(f"training.launcher: {launcher[0]} cannot be started: {error.strerror}") from error
    with process:  # closes its standard input, which is how its processes know that they are alone
        try:
            code = process.wait()
        finally:
            process.kill()
    if code:
        raise RecsysError(f"training.launcher: {' '.join(command)} ended with {code}; its output says why")


def _of_launcher(spec: Path) -> None:
    """Train as one of a launcher's processes; the first takes the steps of :func:`_train_here` for all."""
    values = json.loads(spec.read_text())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    config, run_dir = from_json(RunConfig, json.dumps(values["config"])), Path(values["run_dir"])
    from recsys.embeddings.sharding.shard import start_process_group
    from recsys.training.trained import default_device

    start_process_group(default_device())
    dataset = load_dataset(config.data.dataset, recent=config.data.recent, work_dir=run_dir).dataset

    def begin() -> None:
        if not (run_dir / CHECKPOINT).exists():
            shutil.rmtree(run_dir, ignore_errors=True)

    first_before_others(begin)
    train(config, dataset, run_dir, resume=(run_dir / CHECKPOINT).exists())
    if is_first():
        print(f"trained: {run_dir}", file=sys.stderr)


def _end_with_parent() -> None:
    """End when the pipeline does: it holds the other end of standard input, and writes nothing to it."""
    os.read(0, 1)  # not by the buffer, whose lock Python wants at its end
    os._exit(1)


if __name__ == "__main__":
    try:
        _of_launcher(Path(sys.argv[1]))
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        end_process(1)
    if world().size > 1:
        end_process(0)
