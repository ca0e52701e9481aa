"""Spark as a cluster: which master, what keeps it from working, in words; the bytes of two workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nasty_log import NASTY, content, nasty_inputs, prepare_nasty
from support.paths import ROOT
from support.redis_servers import free_port
from support.spark_cluster import QUICK, require_spark, spark_master, spark_worker

from recsys.data.log.engines import spark
from recsys.data.log.engines.cluster import reach_master, wait_s
from recsys.data.log.engines.cluster import spark_master as named_master
from recsys.data.log.engines.open import open_engine
from recsys.errors import ConfigError
from recsys.rows.contract import ReadOptions, event_rows
from recsys.rows.encode import RowReader, Told
from recsys.rows.files import find_files

pytestmark = pytest.mark.timeout(900)
"""Of what waits for six JVMs on two cores."""


def test_the_master_is_the_one_that_is_named_or_this_machine() -> None:
    assert named_master({}, None) == named_master({"SPARK_MASTER": ""}, None) == "local[*]"
    assert named_master({}, 3) == "local[3]"
    for name in ("local", "local[4]", "local-cluster[2,1,1024]", "spark://a:7077,b:7077", "yarn", "k8s://host:443"):
        assert named_master({"SPARK_MASTER": name, "PYSPARK_SUBMIT_ARGS": "--master x"}, None) == name
    assert wait_s({}) == wait_s({"RECSYS_SPARK_WAIT_S": ""}) == 120
    assert wait_s({"RECSYS_SPARK_WAIT_S": "1.5"}) == 1.5


@pytest.mark.parametrize(
    ("environment", "threads", "message"),
    [
        ({"SPARK_MASTER": "sprak://a:7077"}, None, "SPARK_MASTER is 'sprak://a:7077'; allowed: local, local"),
        ({"SPARK_MASTER": "spark://a:7077"}, 2, "threads is 2, and SPARK_MASTER is 'spark://a:7077'"),
        ({"PYSPARK_SUBMIT_ARGS": "--master yarn x"}, None, "PYSPARK_SUBMIT_ARGS has --master; allowed: SPARK_MASTER"),
        ({"SPARK_REMOTE": "sc://a"}, None, "SPARK_REMOTE is set .Spark Connect.; allowed: SPARK_MASTER"),
    ],
)
def test_what_would_be_passed_over_is_refused(environment: dict[str, str], threads: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named_master(environment, threads)


@pytest.mark.parametrize("given", ["soon", "-1", "1e9", "nan"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=f"RECSYS_SPARK_WAIT_S is '{given}'; allowed: seconds, such as 600"):
        wait_s({"RECSYS_SPARK_WAIT_S": given})


def test_a_master_that_is_not_there_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyspark", reason="the Spark engine needs pyspark")
    master = f"spark://127.0.0.1:{free_port()}"
    monkeypatch.setenv("SPARK_MASTER", master)
    with pytest.raises(
        ConfigError, match=rf"SPARK_MASTER is '{master}', and no Spark master answers there \(.*refused"
    ):
        prepare_nasty(tmp_path, "csv", engine="spark")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="'nowhere' is no HOST:PORT"):
        reach_master("spark://nowhere")


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    require_spark()
    with spark_master(tmp_path_factory.mktemp("master")) as address:
        yield address


def prepare(
    folder: Path, master: str, *, python: str = sys.executable, wait_s: int = 120
) -> subprocess.CompletedProcess[str]:
    """``recsys prepare`` on the cluster, of the nasty log in formats of all kinds, to ``folder/out``."""
    formats = {"item": "jsonl", "labels": "parquet"}
    inputs = nasty_inputs(folder, "csv", seed=5, labels=True, formats=formats)
    (folder / "features.json").write_text(NASTY.to_json())
    given = ["--features", folder / "features.json", "--out", folder / "out", "--labels", *inputs.labels]
    given += [option for name, file in inputs.entities.items() for option in ("--entity", f"{name}={file}")]
    return subprocess.run(
        [sys.executable, "-m", "recsys.cli", "prepare", *inputs.log, *map(str, given), "--engine", "spark"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYSPARK_PYTHON": python,
            "PYSPARK_SUBMIT_ARGS": f"--conf spark.sql.shuffle.partitions=4 {QUICK}",
            "RECSYS_SPARK_WAIT_S": str(wait_s),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_MASTER": master,
        },
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )  # fmt: skip


@pytest.mark.prove
def test_two_workers_write_the_bytes_that_duckdb_writes(master: str, tmp_path: Path) -> None:
    with spark_worker(tmp_path, "one", master) as one, spark_worker(tmp_path, "two", master) as two:
        done = prepare(tmp_path, master)
        assert done.returncode == 0, done.stderr
        assert [len(list(worker.glob("app-*"))) for worker in (one, two)] == [1, 1]
    expected = content(prepare_nasty(tmp_path, "parquet", out="duckdb", labels=True))
    got = content(tmp_path / "out")
    assert got.keys() == expected.keys() and len(expected) > 20
    assert [name for name in expected if got[name] != expected[name]] == []


@pytest.mark.prove
def test_a_master_without_workers_is_waited_for_no_longer_than_allowed(master: str, tmp_path: Path) -> None:
    done = prepare(tmp_path, master, wait_s=2)
    assert done.returncode != 0 and not (tmp_path / "out").exists()
    assert f"no worker of '{master}' took a task within 2 s: it has none, or none with a free core" in done.stderr


@pytest.mark.prove
def test_a_worker_without_this_package_is_said(master: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "kept = [one for one in os.environ['PYTHONPATH'].split(':') if one.endswith(('.zip', '.jar'))]\n"
        "os.environ['PYTHONPATH'] = ':'.join(kept)\n"
        f"os.execv({sys._base_executable!r}, ['python3', '-S', *sys.argv[1:]])\n"
    )
    python.chmod(0o755)
    with spark_worker(tmp_path, "one", master):
        done = prepare(tmp_path, master, python=str(python))
    assert done.returncode != 0 and not (tmp_path / "out").exists()
    assert "No module named" in done.stderr and "install this package there (PYSPARK_PYTHON" in done.stderr


@pytest.mark.prove
def test_a_worker_that_writes_where_nobody_sees_it_loses_nothing_in_silence(
    master: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("a file system of a worker's own needs unshare, as root")
    for name in ("work", "unseen"):
        (tmp_path / name).mkdir()
    unseen = tmp_path / "unseen"
    mounted = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{unseen}" && exec "$@"', "sh"]
    with spark_worker(tmp_path / "work", "one", master, within=mounted):
        done = prepare(unseen, master)
        assert done.returncode != 0 and not (unseen / "out").exists()
        assert "every worker shares with this process" in done.stderr
        monkeypatch.setenv("SPARK_MASTER", master)
        monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
        monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", QUICK)
        monkeypatch.setattr(spark, "check_workers", lambda *_: None)
        with pytest.raises(ConfigError, match=r"workers wrote \d+ files below .*did not arrive here"):
            prepare_nasty(tmp_path, "csv", engine="spark", work_dir=unseen)


@pytest.mark.prove
def test_rows_that_go_between_reading_and_sorting_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_spark()
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", QUICK)
    files, _ = find_files(nasty_inputs(tmp_path, "csv").log)
    reader = RowReader(contract=event_rows(NASTY, ReadOptions()))

    def lose(columns: object, read: int) -> None:
        first = min((tmp_path / "work").glob("spark-*/sort-1/encoded/part-*.parquet"))
        if not lost:
            first.unlink()
            lost.append(first)

    lost: list[Path] = []
    told = Told(rejected=lambda rejection: None, rows=lose)
    with open_engine("spark", work_dir=tmp_path / "work", threads=1) as engine:
        with pytest.raises(ConfigError, match=r"workers wrote [\d,]+ sorted rows below .*did not arrive here"):
            list(engine.sorted_rows(files, reader, told, by=("user", "timestamp_ms")))
    assert lost
