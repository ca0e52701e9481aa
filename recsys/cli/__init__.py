"""The ``recsys`` command. Each command is a thin shell around one function of the package.

- ``features.py``, ``prepare.py``, ``store.py``: features, a log of one's own, the feature store;
- ``training.py``, ``retrieval_runs.py``, ``rows.py``, ``compress.py``: runs, their tables, memory against quality;
- ``evaluation.py``, ``parity.py``: evaluate, compare, explain, results; online against offline;
- ``export.py``, ``serving.py``, ``requests.py``: bundles, the server and its profile, calls to it;
- ``options.py``: options and arguments that several share.

A new command is a function in the module of its group, named in the loop below; what it needs beyond ``options.py`` it
imports inside, so that the command line starts at once.

Results go to standard output (``--json`` for scripts), progress and errors to standard error.
Exit codes: 0 done, 1 unexpected, 2 bad input, 3 bad bundle or unknown model, 4 feature store
unavailable or foreign, 5 overloaded, 6 server unreachable or draining, 7 no answer in time,
8 online and offline differ (`parity`), 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from recsys import __version__
from recsys.cli import (
    compress,
    evaluation,
    export,
    features,
    parity,
    prepare,
    requests,
    rows,
    serving,
    store,
    training,
)
from recsys.cli.options import notes
from recsys.errors import (
    BundleError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    RecsysError,
    StoreError,
)

app = typer.Typer(
    name="recsys",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
_TRAINING_PACKAGES = {
    "torch", "torchrec", "fbgemm_gpu", "onnx", "onnxscript", "pyarrow", "tensordict", "ibis", "duckdb", "scipy",
    "sknetwork", "matplotlib",
}  # fmt: skip


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


for command in (
    training.demo,
    training.recipes,
    training.train,
    evaluation.evaluate,
    evaluation.compare,
    evaluation.explain,
    export.export,
    compress.compress,
    prepare.prepare,
    store.ingest,
    store.materialize,
    serving.precompute_states,
    serving.serve,
    requests.rank,
    requests.recommend,
    requests.retrieve,
    parity.parity,
    serving.profile,
):
    app.command()(command)


app.add_typer(features.app, name="features")
app.add_typer(evaluation.results_app, name="results")
app.add_typer(rows.app, name="rows")


def main() -> NoReturn:
    """Run the command line; errors of ours, and the system's about files, become one line and an exit code."""
    # Read when torch is imported. OpenMP's threads otherwise spin while they wait for each other: beside any other busy
    # process on their cores, or under a container's CPU limit, training was 30 times slower (643, not 20,573 samples/s)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
    except RecsysError as error:
        code = _fail(str(error), next((c for kind, c in exit_codes().items() if isinstance(error, kind)), 1))
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
    code = code if isinstance(code, int) else 0
    if "TORCHELASTIC_RUN_ID" in os.environ and "torch" in sys.modules:  # one of several processes
        from recsys.training.distributed.processes import end_process

        end_process(code)
    sys.exit(code)


def exit_codes() -> dict[type[RecsysError], int]:
    """Exit codes by kind of error; of several that fit the first counts."""
    from recsys.client.types import DeadlineExceeded, Unavailable  # here: gRPC takes longer to load than the rest

    return {
        InvalidInputError: 2,
        BundleError: 3,
        NotFoundError: 3,
        StoreError: 4,
        OverloadedError: 5,
        Unavailable: 6,
        DeadlineExceeded: 7,
    }


def _fail(message: str, code: int) -> int:
    notes.print("[red]error:[/red] " + escape(message), highlight=False, soft_wrap=True)
    return code


def _interrupt(signum: int, frame: object) -> None:
    """SIGTERM ends a command the way Ctrl-C does: through every ``finally``."""
    raise KeyboardInterrupt
