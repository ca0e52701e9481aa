"""`recsys parity`: compare the model inputs of serving with those of training."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from recsys.cli.options import WORK_DIR, DataOption, JsonOption, WorkOption, notes, output
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.data.samples.dataset import Dataset
    from recsys.parity.report import ParityReport

DIFFERENT = 8
"""Exit code when the two sides differ."""


def parity(
    source: Annotated[str, typer.Argument(help="The offline side: a folder of `recsys prepare`, or movielens_1m.")],
    log: Annotated[
        list[str] | None,
        typer.Option("--log", help="Raw events to replay: Parquet, CSV or JSON lines. Default: the offline events."),
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", help="Compare a request log (`recsys serve --log-requests`) instead of a replay."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Samples to compare, drawn at random; 0 for all.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the draw.")] = 0,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Compare the model inputs that the online store gives with the offline samples, value by value.

    Events are replayed into a Redis of its own in the order in which they arrived; at every sample's moment
    the store is read and encoded as in serving. Exit code 0 if everything is equal, 8 if not: then the first
    differing feature is named with both values.
    """
    from recsys.data.datasets import load_dataset

    dataset = load_dataset(source, work_dir=work_dir, path=data).dataset
    if requests is not None:
        from recsys.parity.requests import request_parity

        files = request_log_files(requests)
        from recsys.progress import progress

        with progress(notes, "comparing requests"):
            report = request_parity(dataset.table, files)
    else:
        report = _replay(dataset, log or [], samples, seed)
    if not report.samples:
        raise ConfigError(
            f"nothing could be compared: {report.skipped:,} requests were of users that {source} lacks, or degraded"
        )
    if as_json:
        print(json.dumps(parity_facts(report)))
    else:
        _show(report)
    if not report.equal:
        raise typer.Exit(DIFFERENT)


def request_log_files(path: Path) -> list[Path]:
    """The files of a request log, which is a folder or a file.

    Raises:
        ConfigError: there are none.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path}: no *.parquet here; `recsys serve --log-requests 0.01` writes some")
    return files


def _replay(dataset: Dataset, log: list[str], samples: int, seed: int) -> ParityReport:
    from recsys.feature_store.embedded.server import EmbeddedRedis
    from recsys.feature_store.redis.store import RedisFeatureStore
    from recsys.parity.deliveries import log_deliveries, table_deliveries
    from recsys.parity.replay import replay_parity
    from recsys.progress import progress_bar

    if not len(dataset):
        raise ConfigError("there are no samples to compare: prepare the log with labels (`recsys prepare --label ...`)")
    chosen = np.arange(len(dataset))
    if samples and samples < len(chosen):
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, samples, replace=False))
    users = np.unique(dataset.sample_user[chosen]).astype(np.int64)
    table = dataset.table
    deliveries = log_deliveries(table, users, log) if log else table_deliveries(table, users)
    if deliveries.rejected.total:
        notes.print(f"{deliveries.rejected.total:,} rows of the log do not fit, and were left out:", highlight=False)
        for line in deliveries.rejected.lines():
            notes.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder)) as redis,
        progress_bar(notes, "samples", total=len(chosen)) as advance,
    ):

        async def run() -> ParityReport:
            store = RedisFeatureStore.connect(redis.url, table.features)
            try:
                return await replay_parity(store, dataset, deliveries, chosen, progress=advance)
            finally:
                await store.close()

        return asyncio.run(run())


def parity_facts(report: ParityReport) -> dict[str, object]:
    """A report for ``--json``."""
    return {
        "equal": report.equal,
        "samples": report.samples,
        "values": report.values,
        "skipped": report.skipped,
        "unknown_items": report.unknown_items,
        "different": report.different,
        "features": dict(report.features),
        "differences": [dataclasses.asdict(difference) for difference in report.differences],
        "elapsed_s": round(report.elapsed_s, 3),
    }


def _show(report: ParityReport) -> None:
    skipped = f", {report.skipped:,} skipped (store degraded, or user unknown offline)" if report.skipped else ""
    skipped += f", {report.unknown_items:,} candidates unknown offline" if report.unknown_items else ""
    compared = f"{report.samples:,} samples, {report.values:,} values compared in {report.elapsed_s:.1f} s{skipped}"
    if report.equal:
        output.print(f"equal: {compared}", highlight=False)
        return
    output.print(f"[red]different[/red]: {report.different:,} of {compared}\n", highlight=False)
    table = Table("first feature that differs", "samples", box=None)
    for feature, count in report.features.most_common():
        table.add_row(feature, f"{count:,}")
    output.print(table)
    output.print()
    for difference in report.differences:
        output.print(str(difference), markup=False, highlight=False, soft_wrap=True)
