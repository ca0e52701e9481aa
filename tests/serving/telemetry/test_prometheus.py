"""The metrics page: the sum of all processes, those that died included."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.certificates import Authority, mtls
from support.tiny_workers import until

from recsys.certificates import CertificateFiles, CertificateWatch
from recsys.errors import ConfigError
from recsys.serving.rpc.statuses import NOT_THE_CALLERS
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.in_service import InService, Use
from recsys.serving.telemetry.prometheus import metrics_server

WRITER = """
import sys, time
from pathlib import Path
from recsys.serving.telemetry.stage_timer import STAGES
from recsys.serving.telemetry.counters import Telemetry
telemetry = Telemetry(Path(sys.argv[1]), worker=int(sys.argv[2]))
for _ in range(1000):
    telemetry.observe("Rank", [100] * len(STAGES))
    telemetry.count("candidates", by=200)
print("written", flush=True)
sys.stdin.read()
"""


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_page_sums_two_processes_and_keeps_what_a_killed_one_counted(file: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(file)]
    in_service = InService(file)
    in_service.set([Use(slot=0, release="r", model="m", version="v")])
    with metrics_server(file, host="127.0.0.1", port=0, in_service=in_service) as port:
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
            assert found["recsys_stage_seconds_count", (("method", "Rank"), ("stage", "total"))] == 2_000
            assert found["recsys_stage_seconds_sum", (("method", "Rank"), ("stage", "total"))] == pytest.approx(
                2_000 * 100e-6
            )
            assert (
                found["recsys_stage_seconds_bucket", (("le", "0.0001"), ("method", "Rank"), ("stage", "store"))]
                == 2_000
            )
            assert found["recsys_stage_seconds_bucket", (("le", "7e-05"), ("method", "Rank"), ("stage", "store"))] == 0
            Telemetry(file, worker=1).count("candidates")  # the one that took its place
            assert scrape(port)["recsys_candidates_total", ()] == 2 * 1000 * 200 + 1
            assert (
                found["recsys_model_info", (("model", "m"), ("release", "r"), ("role", "live"), ("version", "v"))] == 1
            )
        finally:
            for writer in writers:
                writer.kill()
                writer.communicate()


def test_the_page_shows_faults_from_the_start_and_of_others_what_calls_ended_with(file: Path) -> None:
    Telemetry(file).count("requests", "Rank", "UNAVAILABLE")
    Telemetry(file).count("requests", "Rank", "NOT_FOUND")
    faults = {code.name for code in NOT_THE_CALLERS}
    with metrics_server(file, host="127.0.0.1", port=0, in_service=InService(None)) as port:
        shown = {
            (dict(labels)["method"], dict(labels)["code"]): value
            for (name, labels), value in scrape(port).items()
            if "requests" in name
        }
    nothing = {(method, code): 0.0 for method in ("Rank", "AppendEvents") for code in {"OK", *faults}}
    assert shown == {**nothing, ("Rank", "UNAVAILABLE"): 1.0, ("Rank", "NOT_FOUND"): 1.0}


def test_a_release_shows_what_its_slot_counted_since_it_came(file: Path) -> None:
    telemetry, in_service = Telemetry(file, worker=1), InService(file)
    first = Use(slot=3, release="first", model="din", version="v1")
    second = Use(slot=3, release="second", model="din", version="v2")
    kept = Use(slot=0, release="kept", model="din", version="v0", role="kept")
    calls, score = "recsys_release_calls_total", "recsys_release_score"

    def of(release: str, **more: str) -> tuple[tuple[str, str], ...]:
        return tuple(sorted({"release": release, "model": "din", **more}.items()))

    with metrics_server(file, host="127.0.0.1", port=0, in_service=in_service) as port:
        telemetry.failed(3)  # of whatever was there before
        in_service.set([first, kept])
        telemetry.answered(3, 120, degraded=True, scores=2, score_sum=0.5)
        telemetry.failed(3)
        found = scrape(port)
        assert found[calls, of("first", outcome="answered")] == found[calls, of("first", outcome="failed")] == 1
        assert (found[f"{score}_sum", of("first")], found[f"{score}_count", of("first")]) == (0.5, 2)
        assert found["recsys_release_seconds_bucket", of("first", le="0.00015")] == 1
        assert found["recsys_release_seconds_bucket", of("first", le="0.0001")] == 0
        assert not any(name.startswith("recsys_release_shadow") for name, _ in found), "it is no shadow"
        in_service.set([first, kept])
        assert scrape(port)[calls, of("first", outcome="answered")] == 1, "it goes on"
        in_service.set([second, kept])
        telemetry.answered(3, 120, degraded=False, scores=1, score_sum=0.25)
        telemetry.shadow_offered(3)
        telemetry.shadow_scored(3, 120, candidates=4, difference_sum=0.5, overlap=0.75)
        found = scrape(port)
        assert found[calls, of("second", outcome="answered")] == 1
        assert found[f"{score}_sum", of("second")] == 0.25
        assert found["recsys_release_shadow_difference_sum", of("second")] == 0.5
        assert found["recsys_release_shadow_difference_count", of("second")] == 4
        assert found["recsys_release_shadow_overlap_sum", of("second")] == 0.75
        assert found["recsys_release_shadow_total", of("second", outcome="scored")] == 1
        assert (calls, of("first", outcome="answered")) not in found
        roles = {(dict(own)["release"], dict(own)["role"]) for name, own in found if name == "recsys_model_info"}
        assert roles == {("second", "live"), ("kept", "kept")}


def test_a_taken_port_is_an_error_that_names_it(file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics cannot be offered on 127\.0\.0\.1:{port}: .*another port"):
            with metrics_server(file, host="127.0.0.1", port=port, in_service=InService(None)):
                pass


@pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")
def test_the_page_takes_a_host_as_grpc_does(file: Path) -> None:
    with metrics_server(file, host="[::1]", port=0, in_service=InService(None)) as port:
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=10) as answer:
            assert b"recsys_candidates_total" in answer.read()


@pytest.mark.parametrize("secured", [False, True])
def test_callers_that_send_nothing_take_few_threads_and_keep_nobody_from_the_page(
    file: Path, tmp_path: Path, secured: bool
) -> None:
    secret = mtls(Authority(), tmp_path / "secret")
    files = CertificateFiles(certificate=secret / "cert", key=secret / "key")
    watch = CertificateWatch(files, log=logging.getLogger("tests"))
    trusted = ssl.create_default_context(cafile=str(secret / "ca")) if secured else None
    page = metrics_server(
        file, host="127.0.0.1", port=0, in_service=InService(None), certificates=watch, secured=secured
    )
    with page as port, contextlib.ExitStack() as stack:
        threads = threading.active_count()
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)).send(b"\x16")
        url = f"{'https' if secured else 'http'}://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10, context=trusted) as answer:
            assert answer.status == 200
        until(lambda: threading.active_count() - threads <= 32)


def test_the_page_is_gone_after_the_block(file: Path) -> None:
    with metrics_server(file, host="127.0.0.1", port=0, in_service=InService(None)) as port:
        scrape(port)
    with pytest.raises(OSError):
        scrape(port)
