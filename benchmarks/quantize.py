"""Savings and costs of quantised rows: bytes, accuracy, and the time of a lookup.

The recipe is trained with tables of width 64; then each table's rows are replaced by what its quantised rows come
back as, and the test split is evaluated again. Lookups are of random rows of one table in bare ONNX Runtime, one
thread, by the graph that an export writes; float32 and the quantised kinds take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, main, parser, say, spread

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    import onnxruntime

LIBRARIES = ("torch", "onnxruntime", "numpy")
KINDS = ("fp16", "int8", "int4")
WIDTH = 64
SIZE_TARGET = {"int8": 3.5}
LOSS_TARGET = {"int8": 5e-4}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Length of the measurement, and the training run."""

    recipe: str
    table_rows: int
    rounds: int
    runs: int
    lookups: tuple[int, ...] = (200, 10_000)


SIZES = {
    "full": Size(recipe="din_movielens_1m", table_rows=1_000_000, rounds=15, runs=40),
    "quick": Size(recipe="din_synthetic", table_rows=100_000, rounds=5, runs=20),
    "tiny": Size(recipe="din_synthetic", table_rows=5_000, rounds=1, runs=2, lookups=(20, 200)),
}


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    import numpy as np

    from recsys.embeddings.quantize import quantize_rows

    size = SIZES[options.size]
    random = np.random.Generator(np.random.PCG64(0))
    rows_VD = random.normal(scale=0.1, size=(size.table_rows, WIDTH)).astype(np.float32)
    on = machine(LIBRARIES, width=WIDTH, threads=1, **asdict(size))
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as made:
        folder = Path(made)
        sessions = {}
        for kind in ("none", *KINDS):
            table = quantize_rows(rows_VD, kind)
            sessions[kind] = _session(kind, table, folder / kind)
            if kind != "none":
                yield line(
                    f"{kind}.size_ratio",
                    rows_VD.nbytes / table.size_bytes,
                    "ratio",
                    higher_is_better=True,
                    target=SIZE_TARGET.get(kind),
                    compared_with="the same rows in float32",
                    bytes_per_row=table.size_bytes // len(rows_VD),
                    on=on,
                )
        for count in size.lookups:
            yield from _lookups(sessions, count, size, on=on)
        sessions.clear()
        yield from _losses(options, size, folder)


def _session(kind: str, table: Any, folder: Path) -> onnxruntime.InferenceSession:
    """The lookup as an export writes it; the table is memory-mapped, as a bundle's are."""
    import logging

    import onnxruntime
    import torch

    from recsys.embeddings.quantize import QuantizedRows

    folder.mkdir()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            QuantizedRows(table).eval(),
            (torch.arange(5),),
            dynamo=True,
            input_names=["index"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=21,
            verbose=False,
        )
        assert program is not None
        program.save(folder / "lookup.onnx", external_data=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "lookup.onnx", options, providers=["CPUExecutionProvider"])


def _lookups(
    sessions: dict[str, onnxruntime.InferenceSession], count: int, size: Size, *, on: dict[str, Any]
) -> Iterator[Line]:
    """Microseconds of a lookup of ``count`` random rows, and each kind beside float32."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(count))
    indices = [random.integers(0, size.table_rows, size=count) for _ in range(size.runs)]
    took_us: dict[str, list[float]] = {kind: [] for kind in sessions}
    for number in range(-1, size.rounds):
        for kind, session in sessions.items():
            times = []
            for index in indices:
                started_s = time.perf_counter()
                session.run(None, {"index": index})
                times.append(time.perf_counter() - started_s)
            if number >= 0:  # the first round warms up
                took_us[kind].append(1e6 * median(times))
    for kind in KINDS:
        ratios = [ours / plain for ours, plain in zip(took_us[kind], took_us["none"], strict=True)]
        yield line(
            f"{kind}.lookup_over_float32.{count}_rows",
            median(ratios),
            "ratio",
            higher_is_better=False,
            compared_with="the same lookup of float32 rows",
            spread=spread(ratios),
            microseconds=round(median(took_us[kind]), 1),
            float32_microseconds=round(median(took_us["none"]), 1),
            on=on,
        )


def _losses(options: argparse.Namespace, size: Size, folder: Path) -> Iterator[Line]:
    """Test AUC and log loss of a trained model, minus those with quantised rows."""
    import numpy as np
    from harness.log_data import load

    from recsys.data.datasets import load_dataset
    from recsys.export.certificate import certificate_logits
    from recsys.export.quantized import rows_as_stored, stored_tables
    from recsys.recipes import recipe
    from recsys.training.loop import train
    from recsys.training.trained import evaluate_run

    config = recipe(size.recipe)
    config = dataclasses.replace(config, tables=dataclasses.replace(config.tables, dim=WIDTH, dims={}))
    if options.size == "full":
        loaded = load_dataset(
            config.data.dataset,
            recent=config.data.recent,
            work_dir=folder,
            path=options.data,
            allow_download=False,
            allow_synthetic=True,
        )
    elif options.size == "quick":
        loaded = load_dataset(config.data.dataset, recent=config.data.recent, work_dir=folder)
    else:
        loaded = load("tiny", options.data, folder)
    say(f"data: {loaded.raw.source}\ntraining {config.recipe} with tables of width {WIDTH}")
    trained = train(config, loaded.dataset, folder / "run").trained
    trained.model.eval()
    logits = certificate_logits(trained, loaded.dataset)
    full = evaluate_run(trained, loaded.dataset, "test")
    assert full is not None, "the test split is empty"
    on = machine(
        ("torch", "numpy"), data=loaded.raw.source, recipe=config.recipe, width=WIDTH, test_samples=full.samples
    )
    for kind in KINDS:
        with rows_as_stored(trained, stored_tables(trained, kind)):
            quantized = evaluate_run(trained, loaded.dataset, "test")
            difference = float(np.abs(certificate_logits(trained, loaded.dataset) - logits).max())
        assert quantized is not None
        if not difference > 0:
            raise SystemExit(f"{kind}: no logit changed: the quantised rows did not reach the model")
        for figure, loss, target in (
            ("auc_loss", full.auc - quantized.auc, LOSS_TARGET.get(kind)),
            ("log_loss_rise", quantized.log_loss - full.log_loss, None),
        ):
            yield line(
                f"{kind}.{figure}",
                loss,
                "AUC" if figure == "auc_loss" else "nats",
                higher_is_better=False,
                target=target,
                compared_with="the same model with float32 rows",
                float32=full.auc if figure == "auc_loss" else full.log_loss,
                quantized=quantized.auc if figure == "auc_loss" else quantized.log_loss,
                max_logit_difference=difference,
                on=on,
            )


if __name__ == "__main__":
    main("quantize", run, parser(__doc__ or ""))
