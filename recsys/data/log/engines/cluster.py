"""The Spark master that SPARK_MASTER names, and what its workers lack, before any work is given to them.

Spark itself waits for ever for a master without workers, and what a worker wrote where nobody else sees it is missing
in silence.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys import __version__
from recsys.errors import ConfigError

MASTER, WAIT = "SPARK_MASTER", "RECSYS_SPARK_WAIT_S"
WAIT_S = 120.0
"""Time for a cluster to take the first task; clusters that start workers on demand take minutes."""

_CONNECT_S = 5.0
_ALLOWED = "local, local[CORES], spark://HOST:PORT, yarn, or k8s://HOST:PORT"
_FORMS = re.compile(r"local(\[[^\]]+\])?|local-cluster\[[^\]]+\]|spark://.+|yarn|k8s://.+")


def spark_master(environment: Mapping[str, str], threads: int | None) -> str:
    """The master: what SPARK_MASTER says, else this machine's cores.

    Raises:
        ConfigError: it is none, or something else that names a master or its cores would be passed over.
    """
    master = environment.get(MASTER, "")
    if "SPARK_REMOTE" in environment:
        raise ConfigError(f"engine 'spark': SPARK_REMOTE is set (Spark Connect); allowed: {MASTER}, one of {_ALLOWED}")
    if not master:
        if "--master" in environment.get("PYSPARK_SUBMIT_ARGS", ""):
            raise ConfigError(f"engine 'spark': PYSPARK_SUBMIT_ARGS has --master; allowed: {MASTER}, which names it")
        return f"local[{threads or '*'}]"
    if not _FORMS.fullmatch(master):
        raise ConfigError(f"{MASTER} is {master!r}; allowed: {_ALLOWED}")
    if threads is not None:
        raise ConfigError(f"threads is {threads}, and {MASTER} is {master!r}, which has its own; allowed: one of them")
    return master


def is_local(master: str) -> bool:
    """True if all of Spark runs within the one JVM that this process starts."""
    return master == "local" or master.startswith("local[")


def wait_s(environment: Mapping[str, str]) -> float:
    """Seconds to wait for workers.

    Raises:
        ConfigError: RECSYS_SPARK_WAIT_S is no number of seconds.
    """
    given = environment.get(WAIT, "") or str(WAIT_S)
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", given):
        raise ConfigError(f"{WAIT} is {given!r}; allowed: seconds, such as 600")
    return float(given)


def reach_master(master: str) -> None:
    """Connect to a standalone master, or to one of several; others are left to Spark.

    Raises:
        ConfigError: none answers.
    """
    if not master.startswith("spark://"):
        return
    problems = []
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"{MASTER} is {master!r}: {address!r} is no HOST:PORT; allowed: {_ALLOWED}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
            return
        except (OSError, OverflowError) as error:
            problems.append(f"{address}: {error}")
    raise ConfigError(f"{MASTER} is {master!r}, and no Spark master answers there ({'; '.join(problems)})")


def check_workers(session: Any, master: str, folder: Path, limit_s: float) -> None:
    """Give workers a first task: import this package, and write to the folder that all share.

    Args:
        session: a Spark session.
        master: where it runs, for messages.
        folder: of temporary files.
        limit_s: how long to wait for the answers.

    Raises:
        ConfigError: no worker takes the task in time, or one lacks something.
    """
    context = session.sparkContext
    answers: list[tuple[str, str]] = []
    failed: list[BaseException] = []

    look = _look_around(str(folder), __version__)

    def ask() -> None:
        tasks = context.defaultParallelism
        try:
            answers.extend(context.parallelize(range(tasks), tasks).mapPartitions(look).collect())
        except Exception as error:  # of Spark's several kinds
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(limit_s)
    if asking.is_alive():
        context.cancelAllJobs()
        raise ConfigError(
            f"engine 'spark': no worker of {master!r} took a task within {limit_s:g} s: it has none, or none with a "
            f"free core and enough memory (spark.executor.memory); {WAIT} allows longer"
        )
    if failed:
        raise ConfigError(f"engine 'spark': workers of {master!r} cannot start: {spark_words(failed[0])}")
    for path, problem in answers:
        if problem:
            raise ConfigError(f"engine 'spark': a worker of {master!r}: {problem}")
        if not os.path.exists(path):
            raise ConfigError(f"engine 'spark': a worker of {master!r} wrote {path}, {UNSHARED}")


UNSHARED = (
    "and it did not arrive here; allowed: a folder of temporary files (--temp-dir, or the one around --out) that every "
    "worker shares with this process"
)


def _look_around(folder: str, version: str) -> Callable[[Iterator[int]], Iterator[tuple[str, str]]]:
    def look(_: Iterator[int]) -> Iterator[tuple[str, str]]:  # sent by value: a worker may have no recsys
        import os
        import socket
        import sys
        import uuid

        host = socket.gethostname()
        path = os.path.join(folder, f"worker-{uuid.uuid4().hex}")
        try:
            import recsys.data.log.row_batches
        except ImportError as error:
            yield "", f"{sys.executable} of {host}: {error}; install this package there (PYSPARK_PYTHON names a Python)"
            return
        if recsys.__version__ != version:
            yield "", f"{host} has recsys {recsys.__version__}; allowed: {version}, as here"
            return
        try:
            with open(path, "x"):
                pass
        except OSError as error:
            problem = f"{host} cannot write to {folder} ({error.strerror}); allowed: a folder (--temp-dir, or the one "
            yield "", problem + "around --out) that every worker shares with this process, and may write to"
            return
        yield path, ""

    return look


def spark_words(error: BaseException) -> str:
    """The line that says it, of the pages that Spark gives."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"(Caused by: )?([\w$]+\.)*\w*(Error|Exception)\b.*: ", line)]
    python = [line for line in said if not line.startswith(("Caused by: ", "org.", "java.", "py4j."))]
    return (python or said or lines or [repr(error)])[-1]
