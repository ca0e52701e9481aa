"""The ``recsys`` command. Each command is a thin shell around one function of the package.

- ``init.py``, ``features.py``, ``prepare.py``, ``store.py``: a log of one's own, its features, the feature store;
- ``training.py``, ``retrieval_runs.py``, ``rows.py``, ``compress.py``: runs, their tables, memory against quality;
- ``evaluation.py``, ``parity.py``: evaluate, compare, results; online against offline;
- ``export.py``, ``serving.py``, ``requests/``: bundles, the server, its profile and a view of it, calls to it;
- ``explain/``: what made a score;
- ``releases/``: the store of releases, what is served, the daily loop; ``access/``: who may call a server;
- ``options.py``: options and arguments that several share.

A new command is a function in the module of its group, named in the loop below; what it needs beyond ``options.py`` it
imports inside, so that the command line starts at once.

Results go to standard output (``--json`` for scripts), progress and errors to standard error. An error is one line and
one of ``EXIT_CODES``; a traceback is a defect of ours.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from recsys import __version__
from recsys.cli import (
    access,
    compress,
    evaluation,
    export,
    features,
    init,
    parity,
    prepare,
    releases,
    rows,
    serving,
    store,
    training,
)
from recsys.cli.explain import command as explaining
from recsys.cli.options import notes
from recsys.cli.releases import pipeline as daily
from recsys.cli.requests import related, users, withdraw
from recsys.errors import (
    AccessError,
    BundleError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    OverloadedError,
    RecsysError,
    ReleaseError,
    StoreError,
)
from recsys.files import no_space
from recsys.serving.logs import json_lines, say_line

EXIT_CODES = {
    0: "done",
    1: "a defect of ours, with a traceback; a run lost a process or a host; `results --check`: the page is stale",
    2: "bad input: an option, a setting, a file, a row",
    3: "a bad bundle or release, a refused promotion, or an unknown model",
    4: "the feature store is unavailable or full, or holds what is not ours",
    5: "the server is overloaded, or a quota is used up",
    6: "the server cannot be reached, or is draining",
    7: "no answer in time",
    8: "`parity`: online and offline differ",
    9: "no space left on a disk, or not enough memory",
    10: "the server knows no such caller, or the caller lacks the role",
    130: "interrupted (Ctrl-C, SIGTERM)",
    141: "the reader of the output went away (`head`)",
}

app = typer.Typer(
    name="recsys",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
_NO_MEMORY = ("OutOfMemory", "DefaultCPUAllocator", "CUDA out of memory")
"""Of torch and DuckDB, whose errors are none of Python's."""
_TRAINING_PACKAGES = {
    "torch", "torchrec", "fbgemm_gpu", "onnx", "onnxscript", "pyarrow", "tensordict", "duckdb", "scipy",
    "sknetwork", "matplotlib",
}  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"recsys {__version__}")
        raise typer.Exit()


@app.callback(epilog="Exit codes: " + ";\n".join(f"**{code}** {what}" for code, what in EXIT_CODES.items()) + ".")
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
    explaining.explain,
    export.export,
    compress.compress,
    init.init,
    prepare.prepare,
    store.ingest,
    store.materialize,
    serving.precompute_states,
    serving.serve,
    users.rank,
    users.recommend,
    users.retrieve,
    related.similar,
    withdraw.withdraw,
    related.trending,
    related.audience,
    parity.parity,
    daily.pipeline,
    serving.profile,
    serving.top,
):
    app.command()(command)


app.command(context_settings=training.PASSED_ON)(training.torchrun)
app.add_typer(features.app, name="features")
app.add_typer(evaluation.results_app, name="results")
app.add_typer(rows.app, name="rows")
app.add_typer(releases.app, name="release")
app.add_typer(access.app, name="access")


def main() -> NoReturn:
    """Run the command line; errors that are no defect of ours become one line and an exit code."""
    # Read when torch is imported. OpenMP's threads otherwise spin while they wait for each other: beside any other busy
    # process on their cores, or under a container's CPU limit, training was 30 times slower (643, not 20,573 samples/s)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        done = app(standalone_mode=False)
        code = done if isinstance(done, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        notes.print("interrupted")
        code = 130
    except typer.Exit as ended:
        code = ended.exit_code
    except SystemExit as ended:  # Click's and rich's answer to any broken pipe
        if not _reader_is_gone():
            raise (ended.__context__ or ended) from None
        code = 141
    except Exception as error:
        if show := getattr(error, "show", None):  # click's usage errors
            show()
            code = 2
        elif answer := _answer(error):
            code = _fail(*answer)
        else:
            raise
    code = _flushed(code)
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
        ReleaseError: 3,
        StoreError: 4,
        OverloadedError: 5,
        Unavailable: 6,
        DeadlineExceeded: 7,
        NoSpaceError: 9,
        AccessError: 10,
    }


def _answer(error: Exception) -> tuple[str, int] | None:
    """The line and the exit code of an error that is not a defect of ours."""
    if isinstance(error, RecsysError):
        return str(error), next((c for kind, c in exit_codes().items() if isinstance(error, kind)), 1)
    if reason := no_space(error):
        # Writers of ours name their files; what is left is what is printed, and what libraries spill
        where = getattr(error, "filename", None) or "standard output or a temporary file"
        return f"{where}: {reason if isinstance(error, OSError) else error}", 9
    if isinstance(error, MemoryError) or any(words in f"{type(error).__name__}: {error}" for words in _NO_MEMORY):
        return f"not enough memory: {str(error).partition(chr(10))[0]}", 9
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), 2
    if isinstance(error, UnicodeDecodeError):
        return f"expected UTF-8 text: {error}", 2
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in _TRAINING_PACKAGES:
        return f"{error.name} is not installed: this command needs the training packages; see README.md", 2
    return None


def _flushed(code: int) -> int:
    """Write out what was printed. Python would do it after our last word, and end with code 120 if it cannot."""
    try:
        if sys.stdout is not None:  # None where it is closed
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or it would try, and fail, once more
        if isinstance(error, BrokenPipeError):
            return 141
        return code or _fail(f"standard output: {error.strerror}", 9 if no_space(error) else 2)
    return code


def _reader_is_gone() -> bool:
    """True if standard output is a pipe that nobody reads; rich has put the null device in its place by then."""
    if os.path.samestat(os.fstat(1), os.stat(os.devnull)):
        return True
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _fail(message: str, code: int) -> int:
    if json_lines():
        print(say_line(message, level="ERROR"), file=sys.stderr, flush=True)
        return code
    notes.print("[red]error:[/red] " + escape(message), highlight=False, soft_wrap=True)
    return code


def _interrupt(signum: int, frame: object) -> None:
    """SIGTERM ends a command the way Ctrl-C does: through every ``finally``."""
    raise KeyboardInterrupt
