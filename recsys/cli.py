"""The ``recsys`` command. Each command is a thin shell around one function of the package.

Results go to standard output (``--json`` for scripts), progress and errors to standard error.
Exit codes: 0 done, 1 unexpected, 2 bad input, 3 bad bundle or unknown model, 4 feature store
unavailable or foreign, 5 overloaded, 6 server unreachable or draining, 7 no answer in time,
130 interrupted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys import __version__
from recsys.client_types import DeadlineExceeded, Unavailable
from recsys.errors import (
    BundleError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    RecsysError,
    StoreError,
)

EXIT_CODES: dict[type[RecsysError], int] = {
    InvalidInputError: 2,
    BundleError: 3,
    NotFoundError: 3,
    StoreError: 4,
    OverloadedError: 5,
    Unavailable: 6,
    DeadlineExceeded: 7,
}

app = typer.Typer(
    name="recsys",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
notes = Console(stderr=True)
output = Console()

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder or zip of the raw data: an original ml-1m, or a folder that holds one. Default: "
        "RECSYS_DATA_DIR, then ../shared/data, then a download.",
    ),
]
WorkOption = Annotated[Path, typer.Option("--work-dir", help="Where downloads and prepared data are kept.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        envvar="REDIS_URL",
        help="The feature store's Redis: redis://, rediss:// or unix://. Default: a private one in --redis-dir.",
    ),
]
RedisDirOption = Annotated[
    Path, typer.Option("--redis-dir", envvar="RECSYS_REDIS_DIR", help="Folder of the private Redis.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe, for example train.epochs=3 model.softmax=true.")
]
_TRAINING_PACKAGES = {"torch", "torchrec", "fbgemm_gpu", "onnx", "onnxscript", "pyarrow", "tensordict"}
_WORK = Path("runs")
_REDIS_DIR = Path("runs/redis")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"recsys {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """An open recommender serving stack: feature store, training, ONNX bundles, gRPC ranking."""


@app.command()
def demo(
    overrides: OverridesArgument = None,
    data: DataOption = None,
    folder: Annotated[Path, typer.Option("--out", help="Where everything is left.")] = Path("runs/demo"),
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Use the built-in synthetic log: seconds.")] = False,
    download: Annotated[bool, typer.Option(help="Whether MovieLens-1M may be downloaded.")] = True,
    as_json: JsonOption = False,
) -> None:
    """The whole way on real data: train DIN on MovieLens-1M, export, ingest, serve, rank. About 2 minutes."""
    from recsys.demo import run_demo

    figures = run_demo(
        folder,
        overrides=overrides or [],
        data=data,
        synthetic=synthetic,
        allow_download=download,
        console=notes,
        out=notes if as_json else output,
    )
    if as_json:
        print(json.dumps(figures))


@app.command()
def recipes(as_json: JsonOption = False) -> None:
    """List the recipes that `train` knows."""
    from recsys.recipes import RECIPES

    about = {name: (make.__doc__ or "").strip() for name, make in RECIPES.items()}
    if as_json:
        print(json.dumps(about))
        return
    table = Table("recipe", "what it is", box=None)
    for name, text in about.items():
        table.add_row(name, text)
    output.print(table)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `recsys recipes` lists them.")],
    overrides: OverridesArgument = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the run. Default: runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    data: DataOption = None,
    work_dir: WorkOption = _WORK,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe, evaluate it, and leave checkpoint and metrics in the run's folder."""
    from recsys.recipes import recipe as find_recipe
    from recsys.training.config import override, to_json

    config = override(find_recipe(recipe), overrides or [])
    if show:
        print(to_json(config))
        return
    from recsys.data.datasets import load_dataset
    from recsys.progress import training_progress
    from recsys.training.loop import train as run_training

    run_dir = run_dir or Path("runs") / config.recipe
    loaded = load_dataset(config.data.dataset, recent=config.data.recent, work_dir=work_dir, path=data)
    notes.print(f"data: {loaded.raw.source}", markup=False)
    with training_progress(notes) as report:
        result = run_training(config, loaded.dataset, run_dir, resume=resume, report=report)
    figures = _metric_values(test=result.test, validation=result.validation)
    if as_json:
        print(json.dumps({"run_dir": str(run_dir), **figures, "samples_per_s": round(result.samples_per_s)}))
        return
    _print_metrics(figures)
    output.print(f"\nNext: recsys export {run_dir} --out {run_dir}/bundle")


@app.command()
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    split: Annotated[str, typer.Option("--split", help="validation, test or train.")] = "test",
    data: DataOption = None,
    work_dir: WorkOption = _WORK,
    as_json: JsonOption = False,
) -> None:
    """Metrics of a run's model: AUC, per-user AUC (GAUC), log loss."""
    from recsys.data.datasets import load_dataset
    from recsys.training.loop import evaluate_run, load_run

    trained = load_run(run_dir)
    settings = trained.config.data
    loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
    figures = _metric_values(**{split: evaluate_run(trained, loaded.dataset, split)})
    if as_json:
        print(json.dumps(figures))
    else:
        _print_metrics(figures)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle to write.")],
    name: Annotated[str | None, typer.Option("--name", help="Model name. Default: the recipe's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    data: DataOption = None,
    work_dir: WorkOption = _WORK,
    as_json: JsonOption = False,
) -> None:
    """Write a run's model as an ONNX bundle, with a certificate that it answers as the trained model does."""
    from recsys.data.datasets import load_dataset
    from recsys.export.onnx import export_bundle
    from recsys.training.loop import evaluate_run, load_run

    trained = load_run(run_dir)
    settings = trained.config.data
    loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
    with notes.status("exporting: tracing the graphs, comparing answers"):
        metrics = evaluate_run(trained, loaded.dataset, "test")
        manifest = export_bundle(
            trained,
            loaded.dataset,
            out,
            name=name or trained.config.recipe,
            metrics=metrics,
            overwrite=overwrite,
        )
    parity = manifest.parity
    if as_json:
        facts = {"bundle": str(out), "model": manifest.model, "version": manifest.version}
        print(json.dumps({**facts, "parity": dataclasses.asdict(parity)}))
        return
    output.print(
        f"{out}: model {manifest.model}, version {manifest.version}\n"
        f"parity: largest logit difference {parity.max_abs_logit_difference:.1e} on {parity.candidates:,} candidates "
        f"of {parity.requests} requests (allowed {parity.tolerance:.0e}; {parity.compared})\n"
        f"\nNext: recsys serve {out}"
    )


@app.command()
def ingest(
    dataset: Annotated[str, typer.Argument(help="movielens_1m or synthetic.")] = "movielens_1m",
    data: DataOption = None,
    redis_url: RedisOption = None,
    redis_dir: RedisDirOption = _REDIS_DIR,
    work_dir: WorkOption = _WORK,
    as_json: JsonOption = False,
) -> None:
    """Load a data set's users, items and histories into the feature store. Running it again changes nothing."""
    from recsys.bulk_load import ingest_table
    from recsys.data.datasets import load_dataset
    from recsys.feature_store.open_redis import redis_or_embedded
    from recsys.progress import progress_bar

    table = load_dataset(dataset, recent=1, work_dir=work_dir, path=data).dataset.table
    with redis_or_embedded(redis_url, redis_dir) as url, progress_bar(notes, "events", total=len(table)) as advance:
        result = asyncio.run(ingest_table(url, table, progress=advance))
    if as_json:
        print(json.dumps({**dataclasses.asdict(result), "events_per_s": round(result.events_per_s)}))
        return
    output.print(
        f"{result.users:,} histories, {result.events:,} events, {result.added:,} of them new, "
        f"in {result.elapsed_s:.1f} s ({result.events_per_s:,.0f} events/s)"
    )


@app.command()
def serve(
    bundle: Annotated[Path | None, typer.Argument(help="Folder of a bundle. Default: RECSYS_BUNDLE.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one. Default 50051.")] = None,
    redis_url: RedisOption = None,
    redis_dir: Annotated[Path | None, typer.Option("--redis-dir", help="Folder of the private Redis.")] = None,
    max_candidates: Annotated[int | None, typer.Option(help="Most candidates per request. Default 10,000.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Gets one JSON line once the server answers.")] = None,
    settings: Annotated[bool, typer.Option("--settings", help="Print every setting and stop.")] = False,
) -> None:
    """Serve a bundle over gRPC until SIGTERM. RECSYS_* environment variables set what options do not."""
    from recsys.serving.settings import read_settings

    read = read_settings(
        os.environ,
        bundle=bundle,
        host=host,
        port=port,
        redis_url=redis_url,
        redis_dir=redis_dir,
        max_candidates=max_candidates,
        ready_file=ready_file,
    )
    if settings:
        _print_settings(read)
        return
    from recsys.serving.server import serve as run_server

    raise typer.Exit(run_server(read))


@app.command()
def rank(
    user: Annotated[str, typer.Option("--user", help="User id.")],
    items: Annotated[str, typer.Option("--items", help="Item ids, comma-separated; - reads them from stdin.")],
    top: Annotated[int, typer.Option("--top", help="Only the best so many; 0 for all, in the given order.")] = 10,
    model: Annotated[str, typer.Option("--model", help="Model name; default: the server's.")] = "",
    address: Annotated[str, typer.Option("--address", help="host:port of the server.")] = "127.0.0.1:50051",
    text_ids: Annotated[
        bool, typer.Option("--text-ids", help="Ids are strings, even if they look like numbers.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server to rank items for a user."""
    from recsys.client import Client

    given = sys.stdin.read().replace("\n", ",") if items == "-" else items
    texts = [text.strip() for text in given.split(",") if text.strip()]
    ids: list[Any] = texts if text_ids else [_id(text) for text in texts]
    if not text_ids and len({type(i) for i in ids}) > 1:
        ids = texts
    with Client(address, timeout_s=timeout_s) as client:
        ranking = client.rank(user=user if text_ids else _id(user), candidates=ids, top_k=top, model=model)
    if as_json:
        facts: dict[str, Any] = {"model": ranking.model, "model_version": ranking.model_version}
        facts |= {"history_events": ranking.history_events, "degraded": list(ranking.degraded)}
        scored = [{"item": i, "score": float(s)} for i, s in zip(ranking.items, ranking.scores, strict=True)]
        print(json.dumps({**facts, "ranking": scored}))
        return
    table = Table("rank" if top else "position", "item", "score", box=None)
    for number, (item, score) in enumerate(zip(ranking.items, ranking.scores, strict=True), start=1):
        table.add_row(str(number), str(item), f"{score:.4f}")
    output.print(table)
    degraded = f"; degraded: {', '.join(ranking.degraded)}" if ranking.degraded else ""
    notes.print(f"{ranking.model} {ranking.model_version}, {ranking.history_events} events of history{degraded}")


def main() -> NoReturn:
    """Run the command line; errors of ours, and the system's about files, become one line and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
    except RecsysError as error:
        code = _fail(str(error), next((c for kind, c in EXIT_CODES.items() if isinstance(error, kind)), 1))
    except (KeyboardInterrupt, typer.Abort):
        notes.print("interrupted")
        code = 130
    except typer.Exit as done:
        code = done.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        code = _fail(f"{error.filename}: {error.strerror}", 2)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _TRAINING_PACKAGES:
            raise
        code = _fail(f"{error.name} is not installed: this command needs the training packages; see README.md", 2)
    except Exception as error:
        show = getattr(error, "show", None)  # click's usage errors
        if show is None:
            raise
        show()
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    notes.print("[red]error:[/red] " + escape(message), highlight=False, soft_wrap=True)
    return code


def _interrupt(signum: int, frame: object) -> None:
    """SIGTERM ends a command the way Ctrl-C does: through every ``finally``."""
    raise KeyboardInterrupt


def _id(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _metric_values(**splits: Any) -> dict[str, dict[str, Any]]:
    return {split: dataclasses.asdict(m) for split, m in splits.items() if m is not None}


def _print_metrics(figures: dict[str, dict[str, Any]]) -> None:
    table = Table("split", "AUC", "GAUC", "log loss", "samples", "positives", box=None)
    for split, m in figures.items():
        counts = (f"{m['samples']:,}", f"{m['positives']:,}")
        gauc = "none" if m["gauc"] is None else f"{m['gauc']:.4f}"
        table.add_row(split, f"{m['auc']:.4f}", gauc, f"{m['log_loss']:.4f}", *counts)
    output.print(table)


def _print_settings(read: Any) -> None:
    from recsys.serving.settings import settings_lines

    for line in settings_lines(read):
        print(line)


if __name__ == "__main__":
    main()
