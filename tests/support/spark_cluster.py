"""A Spark cluster on this machine: a standalone master, and workers of one core that are processes of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.paths import ROOT, TESTS

_START_S = 120.0
_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
QUICK = f"--driver-java-options '{_JVM}' pyspark-shell"
"""PYSPARK_SUBMIT_ARGS of a JVM of seconds: its best compiler costs more than it saves."""


def require_spark() -> None:
    """Skip the test where Spark cannot start."""
    pytest.importorskip("pyspark", reason="the Spark engine needs pyspark")
    if shutil.which("java") is None:
        pytest.skip("the Spark engine needs Java 17")


@contextmanager
def spark_master(folder: Path) -> Iterator[str]:
    """The address of a master without workers."""
    arguments = ["master.Master", "--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
    with _daemon(folder, "master", arguments, until=r"Starting Spark master at (spark://\S+)") as address:
        yield address


@contextmanager
def spark_worker(folder: Path, name: str, master: str, *, within: Sequence[str] = ()) -> Iterator[Path]:
    """A worker of a master; gives the folder where it keeps what its programs do.

    Args:
        folder: for its files.
        name: of it.
        master: its address.
        within: a command that starts it.
    """
    work = folder / name
    arguments = ["worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", "0"]
    arguments += ["--work-dir", str(work), master]
    with _daemon(folder, name, arguments, until=r"(Successfully registered) with master", within=within):
        yield work


@contextmanager
def _daemon(
    folder: Path, name: str, arguments: Sequence[str], *, until: str, within: Sequence[str] = ()
) -> Iterator[str]:
    from pyspark.find_spark_home import _find_spark_home

    home = _find_spark_home()
    log = folder / f"{name}.log"
    environment = {
        **os.environ,
        "SPARK_HOME": home,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": _JVM,
        "PYTHONPATH": f"{TESTS}:{ROOT}",
        "OMP_NUM_THREADS": "1",
    }
    command = [*within, f"{home}/bin/spark-class", f"org.apache.spark.deploy.{arguments[0]}", *arguments[1:]]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, process_group=0)
    try:
        deadline_s = time.monotonic() + _START_S
        while (found := re.search(until, log.read_text())) is None:
            assert process.poll() is None and time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        yield found[1]
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself: what failed says so
            os.killpg(process.pid, signal.SIGKILL)  # what it started for programs, too
        process.wait()
