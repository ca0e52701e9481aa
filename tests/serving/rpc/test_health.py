"""The health service answers whatever its callers do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.half_open import RawConnection, message

from recsys.serving.rpc.health import Health

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WATCH = "/grpc.health.v1.Health/Watch"


@dataclass
class Served:
    """A server with the service alone."""

    health: Health
    address: str
    stub: health_pb2_grpc.HealthStub

    def check(self, name: str = "") -> int:
        answer = self.stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        return int(answer.status)


@pytest.fixture
def served() -> Iterator[Served]:
    health, server = Health(), grpc.server(ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with grpc.insecure_channel(address) as channel:
        yield Served(health, address, health_pb2_grpc.HealthStub(channel))
    server.stop(None).wait(10)


def test_a_status_is_checked_and_listed_by_name(served: Served) -> None:
    served.health.set("a", NOT_SERVING)
    assert (served.check(), served.check("a")) == (SERVING, NOT_SERVING)
    with pytest.raises(grpc.RpcError) as caught:
        served.check("b")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    listed = served.stub.List(health_pb2.HealthListRequest(), timeout=10).statuses
    assert {name: answer.status for name, answer in listed.items()} == {"": SERVING, "a": NOT_SERVING}


def test_who_watches_gets_each_change_and_the_end_of_a_drain(served: Served) -> None:
    changes = served.stub.Watch(health_pb2.HealthCheckRequest(service="a"), timeout=10)
    assert next(changes).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    served.health.set("a", SERVING)
    assert next(changes).status == SERVING
    served.health.enter_graceful_shutdown()
    served.health.set("a", SERVING)  # too late
    assert [change.status for change in changes] == [NOT_SERVING]
    assert served.check("a") == NOT_SERVING


def test_a_caller_that_watches_and_reads_nothing_holds_up_nobody(served: Served) -> None:
    connection = RawConnection(served.address, window=0)
    connection.open(WATCH, 2, body=message(b""))
    time.sleep(0.3)
    for status in 10 * (NOT_SERVING, SERVING):
        started_s = time.monotonic()
        served.health.set("", status)
        assert served.check() == status
        assert time.monotonic() - started_s < 5
    connection.close()
