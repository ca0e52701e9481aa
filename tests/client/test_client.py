"""The client, blocking and async, against a server process."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from support.tiny_bundle import Event, reference_scores, write_tiny_bundle
from support.tiny_server import ServerProcess, server_process

import recsys.client
from recsys.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    RpcError,
    StoreRefused,
    StoreUnavailable,
    Unavailable,
    UserEvents,
)
from recsys.errors import (
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    RecsysError,
    StoreError,
    StoreUnavailableError,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a Redis of its own."""
    folder = tmp_path_factory.mktemp("served")
    write_tiny_bundle(folder / "tiny")
    variables = {
        "RECSYS_BUNDLE": str(folder / "tiny"),
        "RECSYS_REDIS_DIR": str(folder / "data"),
        "RECSYS_STORE_TIMEOUT_MS": "5000",
    }
    with server_process(folder, **variables) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, timeout_s=10.0) as client:
        yield client


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_lists_and_arrays_of_any_integer_type_are_the_same(client: Client) -> None:
    from_list = client.rank(user=100, candidates=[3, 1, 2])
    for dtype in (np.int32, np.uint64, np.int64):
        from_array = client.rank(user=100, candidates=np.array([3, 1, 2], dtype=dtype))
        np.testing.assert_array_equal(from_list.scores, from_array.scores)
    np.testing.assert_allclose(from_list.scores, reference_scores(events=[], candidates=[3, 1, 2]), atol=1e-6)
    assert from_list.items == [3, 1, 2] and from_list.positions.tolist() == [0, 1, 2]
    assert from_list.scores.dtype == np.float32


def test_a_feature_may_be_one_value_several_or_none(client: Client) -> None:
    for age in (2, 2.0, np.float32(2.0), [2.0], np.array([2.0])):
        ranking = client.rank(user=100, candidates=[5], features={"age": age, "tags": ["a", "b"], "hour": None})
        np.testing.assert_allclose(ranking.scores, reference_scores(events=[], candidates=[5], age=2.0), atol=1e-6)


def test_events_appended_are_read_and_ranked_by(client: Client) -> None:
    at_ms = now_ms()
    appended = client.append_events(
        user=101, items=np.array([5, 6]), timestamps_ms=np.array([at_ms, at_ms + 1]), attributes={"rating": [3, None]}
    )
    history = client.get_history(user=101)
    ranking = client.rank(user=101, candidates=[1, 2])
    assert (appended.added, appended.stored, history.appended) == (2, 2, 2)
    assert history.items.tolist() == [5, 6] and history.attributes["rating"].tolist() == [3, -1]
    expected = reference_scores(events=[Event(5, 3), Event(6)], candidates=[1, 2])
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-6)


async def test_the_async_client_answers_as_the_blocking_one(server: ServerProcess, client: Client) -> None:
    async with AsyncClient(server.address, timeout_s=10.0) as other:
        await other.wait_ready()
        assert (await other.append_events(user=102, items=[5], timestamps_ms=[now_ms()])).added == 1
        ours, theirs = client.rank(user=102, candidates=[1, 2]), await other.rank(user=102, candidates=[1, 2])
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        assert (await other.get_history(user=102)).items.tolist() == client.get_history(user=102).items.tolist()
        with pytest.raises(NotFound, match="NOT_FOUND: model 'other'"):
            await other.rank(user=1, candidates=[1], model="other")
        with pytest.raises(DeadlineExceeded):
            # With 0, an answer within the clock's millisecond is in time.
            await other.rank(user=1, candidates=[1], timeout_s=-1.0)


def test_both_clients_have_the_same_calls() -> None:
    names = {n for n in vars(Client) if not n.startswith("_")}
    assert names == {n for n in vars(AsyncClient) if not n.startswith("_")}
    for name in names - {"append_stream"}:
        assert inspect.signature(getattr(Client, name)) == inspect.signature(getattr(AsyncClient, name))
    ours, theirs = (inspect.signature(kind.append_stream) for kind in (Client, AsyncClient))
    batches = theirs.parameters["batches"]
    assert batches.annotation == "Iterable[UserEvents] | AsyncIterable[UserEvents]"
    widened = {**ours.parameters, "batches": ours.parameters["batches"].replace(annotation=batches.annotation)}
    assert ours.replace(parameters=list(widened.values())) == theirs


def test_a_stream_of_many_users_is_appended_and_read_in_one_call(client: Client) -> None:
    at_ms = now_ms() - 1_000
    batches = [
        UserEvents(
            user=user, items=np.array([5, 6]), timestamps_ms=np.array([at_ms, at_ms + 1]), source="s", offsets=[0, 1]
        )
        for user in (301, 302, -1)
    ]
    summary = client.append_stream(batches)
    assert (summary.batches, summary.events, summary.added, summary.rejected) == (3, 6, 4, 1)
    assert summary.rejections == ((2, "user.integer is -1 or the empty text, which stand for no value; send an id"),)
    assert client.append_stream(iter(batches)).added == 0
    assert [h.items.tolist() for h in client.get_histories(users=[302, 301, 303])] == [[5, 6], [5, 6], []]
    history = client.get_history(user=301, since_ms=at_ms + 1, until_ms=at_ms + 2)
    assert history.items.tolist() == [6]


def test_an_exception_of_the_batches_ends_the_stream_and_is_raised(client: Client) -> None:
    def batches() -> Iterator[UserEvents]:
        yield UserEvents(user=304, items=[5], timestamps_ms=[now_ms()])
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        client.append_stream(batches())
    wrong: Any = UserEvents(user=304, items=[5], timestamps_ms=[now_ms()], source=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="^batch 0: source: .*; allowed: a string"):
        client.append_stream([wrong])
    assert client.get_history(user=304).items.tolist() == [5]


def test_features_are_put_and_read_by_both_clients_alike(client: Client) -> None:
    client.put_entities(entity="item", ids=[801, 802], features={"price": [1.5, None]})
    client.put_entities(entity="shop", ids=["x"], features={"brands": np.array([[4, 5]]), "city": np.array([3])})
    assert client.get_features(entity="item", ids=np.array([802, 801])).columns["price"].tolist() == [0.0, 1.5]
    columns = client.get_features(entity="shop", ids=["x", "y"]).columns
    assert columns["brands"].tolist() == [[4, 5], [-1, -1]] and columns["city"].tolist() == [3, -1]


@pytest.mark.parametrize("values", [[1, "a"], ["a", 1.5], [[1], ["a"]], 5, [object()]])
def test_features_of_mixed_or_other_types_are_refused_by_name(client: Client, values: Any) -> None:
    with pytest.raises(InvalidInputError, match="city: .*; allowed: (64-bit integers only|numbers only)"):
        client.put_entities(entity="shop", ids=["x"], features={"city": values})


def test_ranking_as_of_a_time_sees_what_came_before(client: Client) -> None:
    at_ms = now_ms() - 1_000
    times = [at_ms, at_ms + 1, at_ms + 2]
    client.append_events(user=305, items=[5, 6, 7], timestamps_ms=times, arrivals_ms=times)
    for time_ms, events in ((at_ms + 2, [5, 6]), (at_ms, []), (None, [5, 6, 7])):
        ranking = client.rank(user=305, candidates=[1, 2], time_ms=time_ms)
        expected = reference_scores(events=[Event(i) for i in events], candidates=[1, 2])
        np.testing.assert_allclose(ranking.scores, expected, atol=1e-6)
    with pytest.raises(
        InvalidArgument,
        match="time_ms is 1700000000; allowed: times from 1973.* 1970-01-20T16:13:20Z: is it in seconds",
    ):
        client.rank(user=305, candidates=[1], time_ms=1_700_000_000)


def test_ids_of_mixed_or_other_types_are_refused_before_they_are_sent(client: Client) -> None:
    for candidates in ([1, "a"], ["a", 1], [1.5], [None], [2**63]):
        with pytest.raises(InvalidInputError, match="candidates: .*allowed: 64-bit integers only, or strings only"):
            client.rank(user=1, candidates=candidates)
    with pytest.raises(InvalidInputError, match="user: .*allowed"):
        client.rank(user=1.5, candidates=[1])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="age: .*allowed"):
        client.rank(user=1, candidates=[1], features={"age": [1.0, "x"]})


@pytest.mark.parametrize("number", [-1, 1.5, 2**32, "3"])
async def test_counts_that_are_none_are_refused_by_name(client: Client, server: ServerProcess, number: object) -> None:
    wrong: Any = number
    async with AsyncClient(server.address) as other:
        with pytest.raises(InvalidInputError, match="top_k: .*; allowed: an integer, 0 or more"):
            client.rank(user=1, candidates=[1], top_k=wrong)
        for call in (client.get_history, other.get_history):
            with pytest.raises(InvalidInputError, match="limit: .*; allowed: an integer, 0 or more"):
                answer: Any = call(user=1, limit=wrong)
                await answer


def test_arguments_of_other_types_are_refused_by_name(client: Client) -> None:
    wrong: Any = 5
    wrong_time: Any = "noon"
    with pytest.raises(InvalidInputError, match="model: .*; allowed: a string"):
        client.rank(user=1, candidates=[1], model=wrong)
    with pytest.raises(InvalidInputError, match="time_ms: .*; allowed: an integer, milliseconds since 1970"):
        client.rank(user=1, candidates=[1], time_ms=1.5)  # type: ignore[arg-type]
    for name in ("since_ms", "until_ms"):
        with pytest.raises(InvalidInputError, match=f"{name}: .*; allowed: an integer, milliseconds since 1970"):
            client.get_history(user=1, **{name: wrong_time})
    with pytest.raises(InvalidInputError, match="entity: .*; allowed: a string"):
        client.get_features(entity=wrong, ids=[1])
    with pytest.raises(InvalidInputError, match="offsets: .*; allowed: 64-bit integers only"):
        client.append_events(user=1, items=[1], timestamps_ms=[now_ms()], source="s", offsets=[1.5])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="candidates: .*; allowed: "):
        client.rank(user=1, candidates=wrong)


async def test_a_server_on_this_machine_is_reached_past_a_proxy(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    port = server.facts["port"]
    for address in (f"127.0.0.1:{port}", f"localhost:{port}", f"dns:///localhost:{port}"):
        with Client(address, timeout_s=10.0) as client:
            assert client.rank(user=100, candidates=[1]).items == [1]
        async with AsyncClient(address, timeout_s=10.0) as other:
            assert (await other.rank(user=100, candidates=[1])).items == [1]


def test_errors_carry_code_and_message_and_are_ours(client: Client) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.rank(user="a", candidates=[1])
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.message == "user.text: 'user_id' is 'a'; allowed: a 64-bit integer; set user.integer"
    assert isinstance(caught.value, InvalidInputError) and isinstance(caught.value, RecsysError)
    for ours, theirs in (
        (NotFound, NotFoundError),
        (Overloaded, OverloadedError),
        (StoreUnavailable, StoreUnavailableError),
        (StoreUnavailable, Unavailable),
        (StoreRefused, StoreError),
        (DeadlineExceeded, TimeoutError),
    ):
        assert issubclass(ours, theirs) and issubclass(ours, RpcError)


def test_a_server_that_is_not_there_is_unavailable_and_not_ready() -> None:
    with Client("127.0.0.1:1", timeout_s=5.0) as client:
        assert not client.is_ready()
        with pytest.raises(Unavailable) as caught:
            client.rank(user=1, candidates=[1])
        assert not isinstance(caught.value, StoreError), "of the store nothing is known"
        with pytest.raises(DeadlineExceeded, match="the server is not ready"):
            client.wait_ready(timeout_s=0.2)


def test_a_ready_server_is_ready(client: Client) -> None:
    client.wait_ready(timeout_s=10.0)
    assert client.is_ready()


@pytest.mark.parametrize(
    ("code", "calls", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, 3, Unavailable),
        (grpc.StatusCode.CANCELLED, 3, Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1, Overloaded),
        (grpc.StatusCode.INTERNAL, 1, RpcError),
    ],
)
def test_only_what_a_server_that_is_away_or_begins_to_drain_has_ended_is_tried_again(
    code: grpc.StatusCode, calls: int, error: type[RpcError]
) -> None:
    seen = []

    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(request)
        context.abort(code, "come back later")
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(1))
    handlers = {"Rank": grpc.unary_unary_rpc_method_handler(refuse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("recsys.v1.Ranker", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}", timeout_s=10.0) as client, pytest.raises(error, match="come back later"):
        client.rank(user=1, candidates=[1])
    server.stop(None).wait()
    assert len(seen) == calls


def test_every_name_that_the_client_lists_is_there() -> None:
    assert [name for name in recsys.client.__all__ if not hasattr(recsys.client, name)] == []
