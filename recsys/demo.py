"""``recsys demo``: from a log of ratings to recommendations over gRPC, every part real; one log, two models.

Steps: data, training, bundle, feature store, server, calls. Whatever ends it, Ctrl-C included,
the server and the private Redis end with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from recsys.arrays import Int64Array
from recsys.bundle import Manifest
from recsys.client import Client
from recsys.data.datasets import LoadedData, load_dataset
from recsys.data.interactions.pairs import Interactions
from recsys.data.interactions.positives import positive_pairs
from recsys.data.log.event_table import EventTable
from recsys.data.sources.raw_log import RawLog
from recsys.errors import InvalidInputError, RecsysError
from recsys.evaluation.baselines import baseline_values
from recsys.evaluation.predictions import read_predictions
from recsys.evaluation.report import verdict_lines
from recsys.feature_store.embedded.server import EmbeddedRedis, is_running
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.ingest.materialize import MaterializeResult, materialize
from recsys.progress import progress, progress_bar, training_progress
from recsys.recipes import RETRIEVAL_RECIPES, recipe
from recsys.training.loop import train as run_training
from recsys.training.reports import RunResult
from recsys.training.retrieval.loop import RetrievalRunResult
from recsys.training.retrieval.run import train_any
from recsys.training.settings import override

CALLS = 200
CANDIDATES = 200
RETRIEVAL_RUN, RETRIEVAL = "retrieval-run", "retrieval"
_SHOWN = 10
_SERVER_START_S = 60.0
_PR_SET_PDEATHSIG = 1
_MARKER = "made-by-recsys-demo"


def run_demo(
    folder: Path,
    *,
    overrides: Sequence[str],
    data: Path | None,
    synthetic: bool,
    allow_download: bool,
    console: Console,
    out: Console,
) -> dict[str, Any]:
    """Run all steps and print the summary; returns its figures.

    Args:
        folder: everything is left here; an earlier demo's is replaced.
        overrides: of the recipe.
        data: where MovieLens-1M is, if not in the usual places.
        synthetic: use the synthetic log.
        allow_download: whether MovieLens-1M may be downloaded.
        console: progress and headings.
        out: the summary.

    Raises:
        InvalidInputError: ``folder`` holds something that is not a demo's.
        RecsysError: as the steps do.
    """
    started_s = time.perf_counter()
    config = override(recipe("din_synthetic" if synthetic else "din_movielens_1m_demo"), overrides)
    _check_replaceable(folder)
    console.rule("1/6  data")
    with progress(console, "reading the data"):
        loaded = load_dataset(
            config.data.dataset,
            recent=config.data.recent,
            work_dir=folder.parent,
            path=data,
            allow_download=allow_download,
            allow_synthetic=True,
        )
    if loaded.is_synthetic:
        config = override(recipe("din_synthetic"), overrides)
    counts = {split: f"{len(indices):,}" for split, indices in loaded.dataset.samples.splits.items()}
    _empty(folder)
    console.print(f"{escape(loaded.raw.source)}\nsamples: {', '.join(f'{n} {split}' for split, n in counts.items())}")

    console.rule("2/6  training")
    with training_progress(console) as report:
        result = run_training(config, loaded.dataset, folder / "run", report=report)
    console.print(f"on later data: {result.test}", highlight=False)
    for line in verdict_lines(result.baselines.get("test", ())):
        console.print(line, highlight=False, markup=False)

    pairs, retrieval = _train_retrieval(config.data.dataset, loaded, folder / RETRIEVAL_RUN, console)

    console.rule("3/6  bundles")
    manifest = _export(result, loaded, folder / "run", folder / "bundle", console)
    _export_retrieval(pairs, folder, manifest.model, console)

    console.rule("4/6  feature store")
    with EmbeddedRedis(folder / "redis", restart=True) as redis:
        table = loaded.dataset.table
        with progress_bar(console, "events", total=len(table)) as advance:
            loaded_events = asyncio.run(_fill(redis.url, table, advance))
        console.print(
            f"{loaded_events.users:,} histories, {loaded_events.events:,} events "
            f"({loaded_events.events_per_s:,.0f} events/s)"
        )
        console.rule("5/6  server")
        with _server(folder, redis.url) as address, Client(address, timeout_s=10.0) as client:
            console.print(f"serving {manifest.model} on {address}")
            console.rule("6/6  calls")
            _print_ranking(client, loaded, _user_to_show(loaded), out)
            _print_recommendations(client, loaded, _user_to_show(loaded), out)
            latencies_ms = _measure(client, loaded, console)
    figures = {
        "source": loaded.raw.source,
        "synthetic": loaded.is_synthetic,
        "test": None if result.test is None else asdict(result.test),
        "retrieval_test": asdict(retrieval.test),
        "train_samples_per_s": round(result.samples_per_s),
        "parity_max_abs_logit_difference": manifest.certificate.max_abs_logit_difference,
        "events": loaded_events.events,
        "rank_p50_ms": round(float(np.percentile(latencies_ms, 50)), 3),
        "rank_p99_ms": round(float(np.percentile(latencies_ms, 99)), 3),
        "calls": CALLS,
        "candidates_per_call": CANDIDATES,
        "seconds": round(time.perf_counter() - started_s, 1),
        "folder": str(folder),
    }
    _print_summary(figures, result, folder, out)
    return figures


def _check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds something no demo made, or a demo's store that a server still uses."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / _MARKER).is_file():
        raise InvalidInputError(f"{folder} holds something that no demo made; choose another folder with --out")
    if is_running(folder / "redis"):
        raise InvalidInputError(f"a server still uses {folder / 'redis'}; stop it, or choose another folder with --out")


def _empty(folder: Path) -> None:
    """Remove what an earlier demo left. Only once the data was found: a typo must not cost the last results."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()


def _train_retrieval(
    dataset: str, loaded: LoadedData, run_dir: Path, console: Console
) -> tuple[Interactions, RetrievalRunResult]:
    """Train the model that finds candidates, on the positives of the same log."""
    config = override(RETRIEVAL_RECIPES["linear"](), [f"data.dataset={dataset}"])
    pairs = positive_pairs(loaded.dataset, config.data, source=loaded.raw.source)
    with training_progress(console) as report:
        result = train_any(config, pairs, run_dir, report=report)
    length = config.train.list_length
    console.print(f"candidates on later data, lists of {length} among all items: {result.test}", highlight=False)
    for line in verdict_lines(result.baselines.get("test", ())):
        console.print(line, highlight=False, markup=False)
    return pairs, result


def _export(result: RunResult, loaded: LoadedData, run_dir: Path, path: Path, console: Console) -> Manifest:
    from recsys.export.onnx import export_bundle  # takes seconds to import
    from recsys.training.run.record import run_date

    with progress(console, "tracing the graphs, comparing answers"):
        manifest = export_bundle(
            result.trained,
            loaded.dataset,
            path,
            name=result.trained.features.name,
            predictions=None if result.test is None else read_predictions(run_dir, "test"),
            baselines=baseline_values(result.baselines.get("test", ())),
            created_at=run_date(run_dir),
        )
    certificate = manifest.certificate
    console.print(
        f"torch and ONNX Runtime agree to {certificate.max_abs_logit_difference:.1e} "
        f"on {certificate.candidates:,} candidates of {certificate.requests} real requests"
    )
    return manifest


def _export_retrieval(pairs: Interactions, folder: Path, name: str, console: Console) -> None:
    from recsys.export.retrieval.bundle import export_retrieval_bundle

    with progress(console, "writing the tables, comparing lists"):
        certificate = export_retrieval_bundle(folder / RETRIEVAL_RUN, pairs, folder / RETRIEVAL, name=name).certificate
    console.print(
        f"and to {certificate.max_abs_logit_difference:.1e} on {certificate.requests:,} lists of the model that finds "
        "candidates"
    )


async def _fill(url: str, table: EventTable, advance: Callable[[int], None]) -> MaterializeResult:
    store = RedisFeatureStore.connect(url, table.features)
    try:
        return await materialize(store, table, progress=advance)
    finally:
        await store.close()


@contextmanager
def _server(folder: Path, redis_url: str) -> Iterator[str]:
    """A server process for the duration of the block; yields its address."""
    ready, log = folder / "server.json", folder / "server.log"
    command = [sys.executable, "-m", "recsys.cli", "serve", str(folder / "bundle"), "--port", "0"]
    command += ["--retrieval", str(folder / RETRIEVAL)]
    command += ["--redis-url", redis_url, "--ready-file", str(ready)]
    # Settings of another server, its certificates and access file among them, are none of this one's.
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("RECSYS_", "REDIS_URL"))}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            env=environment,
            preexec_fn=_end_with_parent(),
        )
    try:
        deadline_s = time.monotonic() + _SERVER_START_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RecsysError(f"the server did not start; {log} says:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)
        yield str(json.loads(ready.read_text())["address"])
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """Hook that has a child process end when this one does, even by SIGKILL (Linux)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _user_to_show(loaded: LoadedData) -> int:
    """Index of the user with the median number of events among those with test samples (else all)."""
    dataset = loaded.dataset
    test = dataset.split("test")
    users = np.unique(dataset.sample_user[test if len(test) else dataset.split("train")])
    events = np.diff(dataset.table.offsets)[users]
    return int(users[np.argsort(events, kind="stable")[len(users) // 2]])


def _print_ranking(client: Client, loaded: LoadedData, user: int, out: Console) -> None:
    """One user's newest events, and the best of everything they have not seen."""
    table, raw = loaded.dataset.table, loaded.raw
    title, genres = _titles_and_genres(raw)
    user_id = int(table.user_keys[user])
    seen_before = client.get_history(user=user_id, limit=_SHOWN)
    history = Table(
        "rated", "movie", "genres", title=f"User {user_id}: newest events in the store", title_justify="left"
    )
    rows = zip(seen_before.items, seen_before.attributes["rating"], strict=True)
    for item, rating in reversed([(int(i), int(r)) for i, r in rows]):
        history.add_row("*" * rating, escape(str(title[item])), escape(", ".join(genres[item])))
    out.print(history)
    begin, end = int(table.offsets[user]), int(table.offsets[user + 1])
    unseen: Int64Array = np.setdiff1d(_rated_items(table), table.item_keys[table.item_index[begin:end]])
    ranking = client.rank(user=user_id, candidates=unseen, top_k=_SHOWN)
    best = Table(
        "score", "movie", "genres", title=f"Top {_SHOWN} of {len(unseen):,} unseen movies", title_justify="left"
    )
    for item, score in zip(ranking.items, ranking.scores, strict=True):
        best.add_row(f"{score:.3f}", escape(str(title[int(item)])), escape(", ".join(genres[int(item)])))
    out.print(best)


def _print_recommendations(client: Client, loaded: LoadedData, user: int, out: Console) -> None:
    """The best items from the user's id alone: one model finds candidates, the other ranks them."""
    title, genres = _titles_and_genres(loaded.raw)
    user_id = int(loaded.dataset.table.user_keys[user])
    found = client.recommend(user=user_id, top_k=_SHOWN, candidates=CANDIDATES)
    best = Table("score", "movie", "genres", title=f"Recommended from the id {user_id} alone", title_justify="left")
    for item, score in zip(found.items, found.scores, strict=True):
        best.add_row(f"{score:.3f}", escape(str(title[int(item)])), escape(", ".join(genres[int(item)])))
    out.print(best)


def _titles_and_genres(raw: RawLog) -> tuple[dict[int, str], dict[int, Any]]:
    ids = [int(i) for i in raw.items["movie_id"]]
    return dict(zip(ids, raw.items["title"], strict=True)), dict(zip(ids, raw.items["genres"], strict=True))


def _rated_items(table: EventTable) -> Int64Array:
    """Keys of the items that somebody rated."""
    return np.asarray(table.item_keys[np.unique(table.item_index)], dtype=np.int64)


def _measure(client: Client, loaded: LoadedData, console: Console) -> list[float]:
    """Milliseconds of ``CALLS`` calls, one after another, of random users and candidates."""
    random = np.random.Generator(np.random.PCG64(0))
    table = loaded.dataset.table
    items = _rated_items(table)
    size = min(CANDIDATES, len(items))
    latencies_ms = []
    with progress_bar(console, "calls", total=CALLS) as advance:
        for call in range(-20, CALLS):
            user_id = int(random.choice(table.user_keys))
            candidates = random.choice(items, size=size, replace=False)
            started_s = time.perf_counter()
            client.rank(user=user_id, candidates=candidates)
            if call >= 0:
                latencies_ms.append((time.perf_counter() - started_s) * 1e3)
                advance(call + 1)
    return latencies_ms


def _print_summary(figures: dict[str, Any], result: RunResult, folder: Path, out: Console) -> None:
    lines = [
        f"data      {figures['source']}",
        f"model     DIN; on later data: {result.test}",
        f"training  {figures['train_samples_per_s']:,} samples/s",
        f"rank      p50 {figures['rank_p50_ms']:.2f} ms, p99 {figures['rank_p99_ms']:.2f} ms "
        f"over {CALLS} calls of {CANDIDATES} candidates, one at a time",
        f"all of it {figures['seconds']:.0f} s",
        "",
        f"left in {folder}: run/ and {RETRIEVAL_RUN}/ (checkpoints, metrics), bundle/ and {RETRIEVAL}/ (ONNX), "
        "redis/ (the store's data), server.log",
    ]
    out.print(Panel(escape("\n".join(lines)), title="recsys demo", title_align="left"), highlight=False)
    out.print("Try next:")
    for command in (
        f"recsys serve {folder}/bundle --retrieval {folder}/{RETRIEVAL} --redis-dir {folder}/redis",
        "recsys rank --user 1 --items 1,260,1196,2858 --top 3      (while it serves)",
        "recsys recommend --user 1 --top 10      (from the id alone)",
    ):
        out.print(f"  {command}", highlight=False, soft_wrap=True)
