"""The server around the calls: start, health, reflection, trouble with its Redis and its port, drain."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.tiny_bundle import FEATURES, write_tiny_bundle
from support.tiny_server import server_process, stalled, start_server_process

from recsys.bundle import open_bundle
from recsys.client import AsyncClient, Client, RpcError, StoreRefused, StoreUnavailable, Unavailable
from recsys.errors import BundleError, ConfigError, InvalidInputError, StoreFormatError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.keys import history_keys, meta_key
from recsys.features.hot_ids import HOT_IDS, HotIds, write_hot_ids
from recsys.serving.inference.memory import larger_than_memory
from recsys.serving.process.serve import serve
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings


async def test_health_and_reflection_answer(tiny_bundle: Path, redis_url: str) -> None:
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url)
    with running_server(settings) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "recsys.v1.Ranker", "recsys.v1.FeatureStore"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            names = {s.name for s in (await call.read()).list_services_response.service}
            assert names >= {"recsys.v1.Ranker", "recsys.v1.FeatureStore", "grpc.health.v1.Health"}


async def test_a_port_in_use_is_refused_by_its_name(tiny_bundle: Path, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = Settings(bundle=tiny_bundle, port=port, redis_url=redis_url)
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            with running_server(settings):
                pass


async def test_a_second_server_cannot_share_the_port(tiny_bundle: Path, redis_url: str) -> None:
    with running_server(Settings(bundle=tiny_bundle, port=0, redis_url=redis_url)) as first:
        with pytest.raises(ConfigError, match="Address already in use"):
            with running_server(Settings(bundle=tiny_bundle, port=first.port, redis_url=redis_url)):
                pass


async def test_without_a_whole_bundle_the_server_does_not_start(tmp_path: Path, redis_url: str) -> None:
    with pytest.raises(ConfigError, match="bundle is not set.*RECSYS_BUNDLE"):
        with running_server(Settings(redis_url=redis_url)):
            pass
    with pytest.raises(BundleError, match="not a bundle"):
        with running_server(Settings(bundle=tmp_path, redis_url=redis_url)):
            pass


async def test_a_store_filled_for_another_layout_stops_the_start(
    tiny_bundle: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    redis_admin.hset(meta_key(FEATURES.name), "history", "another layout")
    with pytest.raises(StoreFormatError, match="another layout"):
        with running_server(Settings(bundle=tiny_bundle, port=0, redis_url=redis_url)):
            pass


async def test_without_redis_it_starts_degraded_and_recovers_by_itself(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=f"unix://{tmp_path}/redis.sock")
    with running_server(settings) as server:
        async with AsyncClient(server.address, timeout_s=10.0) as client:
            assert set((await client.rank(user=1, candidates=[1])).degraded) == {"user", "items"}
            with pytest.raises(StoreUnavailable):
                await client.append_events(user=1, items=[1], timestamps_ms=[time.time_ns() // 1_000_000])
            with EmbeddedRedis(tmp_path):
                deadline_s = time.monotonic() + 15
                while (await client.rank(user=1, candidates=[1])).degraded:
                    assert time.monotonic() < deadline_s
                    await asyncio.sleep(0.05)
                await client.append_events(user=1, items=[1], timestamps_ms=[time.time_ns() // 1_000_000])
                assert (await client.rank(user=1, candidates=[1])).history_events == 1
    assert "answers are degraded" in caplog.text


async def test_foreign_bytes_in_the_store_are_not_the_callers_fault(
    tiny_bundle: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    redis_admin.set(history_keys(FEATURES.name, 1).open, b"junk")
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url)
    with running_server(settings) as server:
        async with AsyncClient(server.address, timeout_s=10.0) as client:
            with pytest.raises(StoreRefused, match="FAILED_PRECONDITION: .*not a history"):
                await client.get_history(user=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_start_up_ends_it(tiny_bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "ready.json").write_text("what a killed server left behind")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as loading:  # a Redis that takes minutes to load
        loading.bind(str(tmp_path / "redis.sock"))
        loading.listen()
        loading.settimeout(20)
        variables = {"RECSYS_BUNDLE": str(tiny_bundle), "RECSYS_REDIS_DIR": str(tmp_path)}
        with start_server_process(tmp_path, **variables) as process:
            try:
                loading.accept()[0].close()
                assert not (tmp_path / "ready.json").exists()
                process.send_signal(number)
                assert process.wait(10) == 130
            finally:
                process.kill()
            assert process.stderr is not None
            said = process.stderr.read().splitlines()
            assert [line for line in said if not line.startswith("recsys: unsecured: ")] == ["recsys: stopped"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_of_a_bundle_drains_at_sighup_and_under_nohup_goes_on(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, workers: str
) -> None:
    variables = {"RECSYS_BUNDLE": str(tiny_bundle), "REDIS_URL": redis_url, "RECSYS_WORKERS": workers}
    with server_process(tmp_path, **variables) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(20) == 0, "as at SIGTERM: what runs is finished"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a child has it, too: so does nohup
    try:
        with server_process(tmp_path, **variables) as server, Client(server.address) as client:
            server.process.send_signal(signal.SIGHUP)
            assert client.rank(user=1, candidates=[1], timeout_s=20.0).model == "tiny"
            assert server.process.poll() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_ready_file_goes_with_the_server_unless_it_is_another_ones(
    tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    ready_file = tmp_path / "ready.json"
    for successor in (False, True):
        with server_process(tmp_path, RECSYS_BUNDLE=str(tiny_bundle), REDIS_URL=redis_url) as server:
            assert json.loads(ready_file.read_text())["pid"] == server.process.pid
            if successor:
                ready_file.write_text(json.dumps({"pid": 1}))
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0
            assert ready_file.exists() == successor


def test_a_ready_file_that_cannot_be_replaced_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"ready file '{tmp_path}' cannot be replaced: .*choose another"):
        serve(Settings(bundle=tmp_path, ready_file=tmp_path))
    nowhere = tmp_path / "none" / "ready.json"
    with pytest.raises(ConfigError, match=f"ready file '{nowhere}' cannot be replaced: No such file.*choose another"):
        serve(Settings(bundle=tmp_path, ready_file=nowhere))


async def test_draining_is_announced_to_those_who_watch(tiny_bundle: Path, redis_url: str) -> None:
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, drain_timeout_s=0.5)
    with running_server(settings) as server:
        channel = grpc.aio.insecure_channel(server.address)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="recsys.v1.Ranker"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        next_status = asyncio.create_task(watch.read())
    assert (await next_status).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await channel.close()


def test_sigterm_lets_a_running_request_finish(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    variables = {"RECSYS_BUNDLE": str(tiny_bundle), "REDIS_URL": redis_url, "RECSYS_STORE_TIMEOUT_MS": "5000"}
    with server_process(tmp_path, **variables) as server, Client(server.address, timeout_s=10.0) as client:
        assert server.facts["model"] == "tiny" and server.facts["pid"] == server.process.pid
        client.wait_ready()
        with ThreadPoolExecutor(1) as pool, stalled(redis_admin) as go_on:
            running = pool.submit(client.rank, user=1, candidates=[1])
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with Client(server.address) as late, pytest.raises(Unavailable):
                late.rank(user=1, candidates=[1])
            go_on()
            assert running.result().degraded == ()
        assert server.process.wait(5) == 0
        assert server.process.stderr is not None
        log = server.process.stderr.read()
        assert f"serving tiny {server.facts['model_version']} on {server.address}" in log
        assert "draining" in log and "stopped" in log


def test_a_request_that_outlasts_the_drain_is_cut_off(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    variables = {
        "RECSYS_BUNDLE": str(tiny_bundle),
        "REDIS_URL": redis_url,
        "RECSYS_STORE_TIMEOUT_MS": "20000",
        "RECSYS_DRAIN_TIMEOUT_S": "0.2",
    }
    with server_process(tmp_path, **variables) as server, Client(server.address, timeout_s=60.0) as client:
        client.wait_ready()
        with ThreadPoolExecutor(1) as pool, stalled(redis_admin):
            running = pool.submit(client.rank, user=1, candidates=[1])
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(5) == 0
            with pytest.raises(RpcError):
                running.result(timeout=10)


async def test_hot_ids_are_read_into_memory_before_the_port_answers(
    tiny_bundle: Path, redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "hot.npz"
    write_hot_ids(file, HotIds(users=np.arange(3), items=np.arange(40)))
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, read_ahead_ids=file, table_reads="random")
    with caplog.at_level(logging.INFO, logger="recsys.serving"):
        with running_server(settings) as server:
            async with AsyncClient(server.address) as client:
                log = caplog.text
                assert len((await client.rank(user=1, candidates=[1, 2])).items) == 2
    assert "rows of 3 users and 40 items read ahead in" in log
    assert "tables are read at random" in log


async def test_tables_that_are_in_memory_are_not_read_ahead(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    write_hot_ids(tmp_path / "bundle" / HOT_IDS, HotIds(users=np.arange(3), items=np.arange(40)))
    for resident in (True, False):
        caplog.clear()
        monkeypatch.setattr("recsys.serving.process.startup.in_memory", lambda bundle, resident=resident: resident)
        with caplog.at_level(logging.INFO, logger="recsys.serving"):
            with running_server(Settings(bundle=tmp_path / "bundle", port=0, redis_url=redis_url)):
                assert ("read ahead" in caplog.text) != resident


async def test_reading_ahead_can_be_left_out(
    tiny_bundle: Path, redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        bundle=tiny_bundle, port=0, redis_url=redis_url, read_ahead_ids=tmp_path / "none", read_ahead_s=0.0
    )
    with caplog.at_level(logging.INFO, logger="recsys.serving"):
        with running_server(settings):
            assert "read ahead" not in caplog.text
    with pytest.raises(InvalidInputError, match="hot ids .*none: .*No such file"):
        with running_server(dataclasses.replace(settings, read_ahead_s=1.0)):
            pass


def test_tables_are_larger_than_memory_when_they_need_more_than_is_available(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(tiny_bundle)
    size = sum(size for name, (size, _) in bundle.manifest.files.items() if name.startswith("tables/"))
    assert not larger_than_memory(bundle)
    for limit in ("_available_bytes", "group_limit_bytes"):
        with monkeypatch.context() as patched:
            patched.setattr(f"recsys.serving.inference.memory.{limit}", lambda: size - 1)
            assert larger_than_memory(bundle)
