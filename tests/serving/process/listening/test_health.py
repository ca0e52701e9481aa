"""A port of health alone: in the clear, whatever the server's own port is, through floods and until the drain ends."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.half_open import CHECK, RANK, half_open

from recsys.errors import ConfigError
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

CHECKED = health_pb2.HealthCheckRequest(service="recsys.v1.Ranker")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def settings(tiny_bundle: Path, redis_url: str, **more: Any) -> Settings:
    values: dict[str, Any] = {"bundle": tiny_bundle, "port": 0, "redis_url": redis_url, "health_port": 0}
    return Settings(**values, **more)


async def test_the_drain_is_announced_on_the_port_of_health(tiny_bundle: Path, redis_url: str) -> None:
    with running_server(settings(tiny_bundle, redis_url, drain_timeout_s=0.5)) as server:
        channel = grpc.aio.insecure_channel(server.health)
        watch = health_pb2_grpc.HealthStub(channel).Watch(CHECKED)
        assert (await watch.read()).status == SERVING
        next_status = asyncio.create_task(watch.read())
    assert (await next_status).status == NOT_SERVING
    await channel.close()


def test_calls_that_send_nothing_do_not_keep_probes_out(tiny_bundle: Path, redis_url: str) -> None:
    with running_server(settings(tiny_bundle, redis_url)) as server:
        with half_open(server.health, 1_600, paths=(CHECK, RANK), connections=100):
            for _ in range(20):  # each over a connection of its own, as Kubernetes' are
                options = [("grpc.use_local_subchannel_pool", 1)]
                with grpc.insecure_channel(server.health, options=options) as channel:
                    assert health_pb2_grpc.HealthStub(channel).Check(CHECKED, timeout=5).status == SERVING


def test_a_port_that_is_taken_is_named_with_its_setting(tiny_bundle: Path, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, health_port=port)
        with pytest.raises(ConfigError, match=f"health_port {port}: 127.0.0.1:{port} cannot be listened on: .*in use"):
            with running_server(given):
                pass
