"""What a server counts: nothing is lost between threads, processes, deaths and the page that shows it."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from support.paths import DOCS

from recsys.errors import ConfigError
from recsys.feature_store.item_cache import ItemCache
from recsys.serving.rpc.methods import METHODS
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.families import BOUNDS_US, families
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.metrics import counter_file
from recsys.serving.telemetry.prometheus import metrics_server
from recsys.serving.telemetry.stage_timer import STAGES
from recsys.serving.telemetry.totals import Histogram, read_totals

MONITORING = DOCS / "monitoring.md"
WRITER = """
import sys, time
from pathlib import Path
from recsys.serving.telemetry.stage_timer import STAGES
from recsys.serving.telemetry.counters import Telemetry
telemetry = Telemetry(Path(sys.argv[1]), worker=int(sys.argv[2]))
for _ in range(1000):
    telemetry.observe([100] * len(STAGES))
    telemetry.count("candidates", by=200)
print("written", flush=True)
sys.stdin.read()
"""


def every_stage(us: int) -> list[int]:
    return [us] * len(STAGES)


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return create_counter_file(tmp_path / "telemetry", workers=2, methods=["Rank", "AppendEvents"])


def test_the_bounds_are_whole_microseconds_six_to_a_factor_of_ten() -> None:
    assert BOUNDS_US[:7] == (10, 15, 20, 30, 50, 70, 100) and BOUNDS_US[-1] == 10_000_000
    assert list(BOUNDS_US) == sorted(set(BOUNDS_US)) and all(isinstance(bound, int) for bound in BOUNDS_US)


@given(st.lists(st.integers(0, 40_000_000), max_size=50))
def test_a_histogram_counts_how_many_took_at_most_each_bound(times_us: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = create_counter_file(Path(folder) / "telemetry", workers=1, methods=[])
        telemetry = Telemetry(path)
        for us in times_us:
            telemetry.observe(every_stage(us))
        histograms = read_totals(path).stages.values()
    for histogram in histograms:
        assert histogram.at_most == tuple(sum(us <= bound for us in times_us) for bound in BOUNDS_US)
        assert (histogram.count, histogram.sum_us) == (len(times_us), sum(times_us))


def test_each_stage_has_its_own_histogram(file: Path) -> None:
    Telemetry(file).observe([10 * (number + 1) for number in range(len(STAGES))])
    assert {s: h.sum_us for s, h in read_totals(file).stages.items()} == {s: 10 * (n + 1) for n, s in enumerate(STAGES)}


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_lies_in_the_bucket_of_the_true_one(share: float, file: Path) -> None:
    times_us = np.random.default_rng(0).lognormal(7, 1, size=2_000).astype(int)
    telemetry = Telemetry(file)
    for us in times_us.tolist():
        telemetry.observe(every_stage(us))
    true_us = np.quantile(times_us, share, method="inverted_cdf")
    upper = next(number for number, bound in enumerate(BOUNDS_US) if true_us <= bound)
    assert BOUNDS_US[upper - 1] <= read_totals(file).stages["total"].quantile_us(share) <= BOUNDS_US[upper]


def test_a_quantile_of_nothing_is_zero_and_of_more_than_all_bounds_the_last() -> None:
    none = (0,) * len(BOUNDS_US)
    assert Histogram(none, 0, 0).quantile_us(0.5) == 0.0
    assert Histogram(none, 3, 60_000_000).quantile_us(0.5) == BOUNDS_US[-1]


def test_threads_lose_no_count(file: Path) -> None:
    telemetry = Telemetry(file)

    def work() -> None:
        for _ in range(2_000):
            telemetry.observe(every_stage(7))
            telemetry.count("degraded", "user")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    totals = read_totals(file)
    assert totals.stages["store"].count == 8_000
    assert totals.counters["degraded", "user"] == 8_000


def test_the_page_sums_two_processes_and_keeps_what_a_killed_one_counted(file: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(file)]
    with metrics_server(file, host="127.0.0.1", port=0, model={"model": "m", "version": "v"}) as port:
        writers = [
            subprocess.Popen([*command, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for worker in (0, 1)
        ]
        try:
            for writer in writers:
                assert writer.stdout is not None and writer.stdout.readline() == b"written\n"
            writers[1].send_signal(signal.SIGKILL)
            writers[1].wait()
            found = scrape(port)
            assert found["recsys_candidates_total", ()] == 2 * 1000 * 200
            assert found["recsys_stage_seconds_count", (("stage", "total"),)] == 2_000
            assert found["recsys_stage_seconds_sum", (("stage", "total"),)] == pytest.approx(2_000 * 100e-6)
            assert found["recsys_stage_seconds_bucket", (("le", "0.0001"), ("stage", "store"))] == 2_000
            assert found["recsys_stage_seconds_bucket", (("le", "7e-05"), ("stage", "store"))] == 0
            Telemetry(file, worker=1).count("candidates")  # the one that took its place
            assert scrape(port)["recsys_candidates_total", ()] == 2 * 1000 * 200 + 1
            assert found["recsys_model_info", (("model", "m"), ("version", "v"))] == 1
        finally:
            for writer in writers:
                writer.kill()
                writer.communicate()


def test_the_page_shows_only_statuses_that_calls_ended_with_and_ok(file: Path) -> None:
    Telemetry(file).count("requests", "Rank", "UNAVAILABLE")
    with metrics_server(file, host="127.0.0.1", port=0, model={}) as port:
        shown = {
            (dict(labels)["method"], dict(labels)["code"]): value
            for (name, labels), value in scrape(port).items()
            if "requests" in name
        }
    assert shown == {("Rank", "OK"): 0.0, ("Rank", "UNAVAILABLE"): 1.0, ("AppendEvents", "OK"): 0.0}


def test_what_others_count_is_taken_over_once_and_to_the_end(file: Path) -> None:
    so_far = {"used": 2, "written": 0}
    asked = threading.Event()

    def counts() -> dict[str, int]:
        asked.set()
        return so_far.copy()

    telemetry = Telemetry(file)
    with telemetry.polling({"states": counts}, every_s=0.001):
        assert asked.wait(10)
        so_far["used"] += 3
        asked.clear()
        assert asked.wait(10)
        so_far["written"] += 1
    assert read_totals(file).counters["states", "used"] == 5
    assert read_totals(file).counters["states", "written"] == 1


def test_the_item_cache_counts_what_it_knew() -> None:
    cache = ItemCache([], max_age_s=60.0)
    keys = np.arange(10, dtype=np.int64)
    cache.read(keys)
    cache.put(keys[:4], {}, generation=cache.generation)
    cache.read(keys)
    assert cache.counts() == {"memory": 4, "store": 16}


def test_an_unknown_counter_is_a_bug_that_shows(file: Path) -> None:
    with pytest.raises(KeyError):
        Telemetry(file).count("requests", "Rank", "FINE")


def test_a_file_without_the_workers_row_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"has rows for 2 workers; worker 2 has none"):
        Telemetry(file, worker=2)


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"odd"])
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match="does not hold this program's counts"):
        Telemetry(tmp_path / "file")


def test_a_taken_port_is_an_error_that_names_it(file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics cannot be offered on 127\.0\.0\.1:{port}: .*another port"):
            with metrics_server(file, host="127.0.0.1", port=port, model={}):
                pass


@pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")
def test_the_page_takes_a_host_as_grpc_does(file: Path) -> None:
    with metrics_server(file, host="[::1]", port=0, model={}) as port:
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=10) as answer:
            assert b"recsys_candidates_total" in answer.read()


def test_the_counts_are_locked_against_those_who_tidy_up() -> None:
    with counter_file(Settings(metrics_port=0), workers=1, methods=[]) as counts:
        assert counts is not None
        folder = os.open(counts.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
    assert not counts.parent.exists()


def test_the_page_is_gone_after_the_block(file: Path) -> None:
    with metrics_server(file, host="127.0.0.1", port=0, model={}) as port:
        scrape(port)
    with pytest.raises(OSError):
        scrape(port)


def labels_of(values: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in values) or "none"


def test_the_documentation_has_every_family_label_and_stage() -> None:
    text = MONITORING.read_text()
    for family in families(tuple(METHODS.values())):
        row = re.search(rf"^\| `recsys_{family.name}_total` \| (.*?) \|", text, re.MULTILINE)
        assert row is not None and row[1] == labels_of(family.labels)
        for values in family.labels.values():
            assert all(f"`{value}`" in text for value in values), family.name
    assert all(f"| `{stage}` |" in text for stage in STAGES)
