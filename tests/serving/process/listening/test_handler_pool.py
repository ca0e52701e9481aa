"""The internals of grpcio that a pool of handlers uses are those that were read."""

from __future__ import annotations

import hashlib
import importlib
import inspect

import pytest

from recsys.serving.process.listening import handler_pool

READ = (
    "_RPCState", "_possibly_finish_call", "_send_status_from_server", "_abort", "_receive_close_on_server",
    "_receive_message", "_RequestIterator", "_unary_request", "_call_behavior", "_status", "_unary_response_in_pool",
    "_stream_response_in_pool", "_is_rpc_state_active", "_handle_unary_unary", "_handle_unary_stream",
    "_handle_stream_unary", "_handle_stream_stream", "_find_method_handler", "_handle_with_method_handler",
    "_handle_call", "_on_call_completed", "_process_event_and_continue", "_stop", "_ServerState", "_start", "_serve",
    "_request_call", "_request_registered_call", "_reject_rpc", "_stop_serving", "_begin_shutdown_once", "_Server",
)  # fmt: skip


def test_grpc_is_as_it_was_read() -> None:
    server = importlib.import_module("grpc._server")
    text = "".join(inspect.getsource(getattr(server, name)) for name in READ)
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert found == "44b2b88d9ca6b717", (
        "grpcio has changed what handler_pool.py and refusing_server.py rely on: read these parts of grpc/_server.py "
        "and them again, then write the new digest here"
    )
    assert handler_pool.changed_internals() == ""


@pytest.mark.parametrize("name", sorted(handler_pool._PARAMETERS))
def test_a_change_of_grpcs_functions_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_pool._server, name, lambda other: None)
    assert handler_pool.changed_internals().startswith(f"grpc._server.{name} takes (other), not (")
    monkeypatch.delattr(handler_pool._server, name)
    assert f"'{name}'" in handler_pool.changed_internals()


def test_a_change_of_a_calls_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_pool._server, "_RPCState", object)
    assert handler_pool.changed_internals() == "grpc._server._RPCState has no callbacks"
