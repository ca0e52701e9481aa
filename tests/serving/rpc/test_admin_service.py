"""The admin service answers while reloads are waited for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from support.redis_servers import free_port

from recsys.proto import admin_pb2, admin_pb2_grpc
from recsys.releases.status import ServerStatus
from recsys.serving.rpc.admin_service import admin_server


def test_reloads_that_are_waited_for_leave_room_to_ask_what_is_served() -> None:
    done, asked = threading.Event(), threading.Semaphore(0)

    def ask(reload: bool, timeout_s: float) -> ServerStatus:
        if reload:
            asked.release()
            assert done.wait(timeout_s)
        return ServerStatus(server="s:1", at="", revision=7)

    port = free_port()
    with (
        ThreadPoolExecutor(4) as threads,
        admin_server(port, ask, threads),
        ThreadPoolExecutor(8) as pool,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = admin_pb2_grpc.AdminStub(channel)
        reloads = [pool.submit(stub.Reload, admin_pb2.ReloadRequest(), timeout=60) for _ in range(2)]
        for _ in reloads:
            assert asked.acquire(timeout=20)
        with pytest.raises(grpc.RpcError) as error:
            stub.Reload(admin_pb2.ReloadRequest(), timeout=20)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=20).revision == 7
        done.set()
        assert [each.result(20).revision for each in reloads] == [7, 7]
        assert stub.Reload(admin_pb2.ReloadRequest(), timeout=20).revision == 7, "their places are free again"
