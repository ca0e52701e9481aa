"""Bounds of requests: each field of each method, sent one beyond it to a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from support.paths import ROOT

from recsys.errors import InvalidInputError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.features import values
from recsys.proto import admin_pb2, feature_store_pb2, limits, ranker_pb2, related_pb2
from recsys.proto.feature_store_pb2 import AppendEventsRequest, AppendEventStreamResponse, PutEntitiesRequest
from recsys.proto.limits import BOUNDS, Bound
from recsys.proto.ranker_pb2 import Id, Ids, RankBatchRequest, RankRequest
from recsys.serving.process.server import running_server
from recsys.serving.rpc.bounds import bound_of, check_bounds
from recsys.serving.settings import Settings

FILES = (ranker_pb2, related_pb2, feature_store_pb2, admin_pb2)
METHODS = [
    method for file in FILES for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
]
STRINGS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
Path_ = tuple[FieldDescriptor, ...]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_bounded(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated) or field.type in STRINGS


def paths_of(message: Descriptor, before: Path_ = ()) -> Iterator[Path_]:
    """The ways to every string, list and map of a message."""
    for field in message.fields:
        path = (*before, field)
        if is_bounded(field):
            yield path
        inner = field.message_type
        if inner is not None and is_map(field):
            inner = inner.fields_by_name["value"].message_type
        if inner is not None:
            assert inner not in [f.message_type for f in before], f"{inner.name} holds itself: nesting has no bound"
            yield from paths_of(inner, path)


def too_much(field: FieldDescriptor, bound: Bound) -> Iterator[Any]:
    """Values of a field that are one beyond its bound: in count, and in the length of each."""
    if not field.is_repeated:
        yield "x" * (bound.most + 1)
        return
    if is_map(field):
        yield [str(n) for n in range(bound.most + 1)]
        yield ["x" * (bound.each + 1)]
    elif field.type in STRINGS:
        yield [""] * (bound.most + 1)
        yield ["", "x" * (bound.each + 1)]
    elif field.message_type is not None:
        yield [GetMessageClass(field.message_type)()] * (bound.most + 1)
    else:
        yield [1] * (bound.most + 1)


def filled(message: Message, path: Path_, value: Any) -> Message:
    """The message with that value at the end of the way."""
    part: Any = message
    for field in path[:-1]:
        part = getattr(part, field.name)
        if field.is_repeated:
            part = part["a"] if is_map(field) else part.add()
    last = path[-1]
    if is_map(last):
        plain = last.message_type.fields_by_name["value"].message_type is None
        for name in value:
            if plain:
                getattr(part, last.name)[name] = 1
            else:
                getattr(part, last.name)[name].SetInParent()
    elif last.is_repeated:
        getattr(part, last.name).extend(value)
    else:
        setattr(part, last.name, value)
    return message


CASES = [
    pytest.param(method, path, number, id=f"{method.name}-{'.'.join(f.name for f in path)}-{number}")
    for method in METHODS
    for path in paths_of(method.input_type)
    for number, _ in enumerate(too_much(path[-1], Bound(0)))
]


@pytest.fixture(scope="module")
def channel(tiny_bundle: Path, redis_server: EmbeddedRedis) -> Iterator[grpc.Channel]:
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_server.url, store_timeout_ms=5_000)
    options = [("grpc.max_send_message_length", limits.MESSAGE_BYTES)]
    with running_server(settings) as server, grpc.insecure_channel(server.address, options=options) as channel:
        yield channel


def answer_of(channel: grpc.Channel, method: Any, data: bytes) -> tuple[str, str]:
    """Status and message that a server gives for the bytes of a request."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            answer = channel.stream_unary(path)(iter([data]), timeout=30)
            (rejection,) = AppendEventStreamResponse.FromString(answer).rejections
            return "INVALID_ARGUMENT", rejection.reason
        channel.unary_unary(path)(data, timeout=30)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


@pytest.mark.parametrize(("method", "path", "number"), CASES)
def test_one_beyond_a_bound_is_refused_by_the_fields_name(
    channel: grpc.Channel, method: Any, path: Path_, number: int
) -> None:
    bound = bound_of(path[-1])
    value = list(too_much(path[-1], bound))[number]
    message = filled(GetMessageClass(method.input_type)(), path, value)
    status, details = answer_of(channel, method, message.SerializeToString())
    assert status == "INVALID_ARGUMENT"
    named = ".".join(field.name for field in path)
    told = details.replace("['a']", "").replace("[0]", "").replace("[1]", "")
    most = bound.each if number else bound.most
    assert told.startswith(f"{named}: ") and f"{most + 1:,}" in told and f"allowed: up to {most:,}" in told


def test_every_string_list_and_map_of_every_request_has_a_bound_and_no_other_field_has() -> None:
    fields = {path[-1] for method in METHODS for path in paths_of(method.input_type)}
    assert {f"{field.containing_type.name}.{field.name}" for field in fields} == set(BOUNDS)


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_at_its_bound_passes(name: str) -> None:
    message_name, field_name = name.split(".")
    descriptor = next(f.DESCRIPTOR.message_types_by_name[message_name] for f in FILES if message_name in f.__dict__)
    field, bound = descriptor.fields_by_name[field_name], BOUNDS[name]
    for value in too_much(field, Bound(bound.most - 1, bound.each - 1)):
        check_bounds(filled(GetMessageClass(descriptor)(), (field,), value))


def test_bytes_are_counted_not_characters() -> None:
    check_bounds(RankRequest(model="é" * 128))
    with pytest.raises(InvalidInputError, match="^model: got 258 bytes; allowed: up to 256$"):
        check_bounds(RankRequest(model="é" * 129))


def test_the_path_says_which_of_several_it_is() -> None:
    message = RankBatchRequest(requests=[RankRequest(), RankRequest(candidates=Ids(texts=["a", "b" * 5000]))])
    with pytest.raises(InvalidInputError, match=r"^requests\[1\].candidates.texts\[1\]: got 5,000 bytes; allowed: up"):
        check_bounds(message)
    put = PutEntitiesRequest()
    put.features["price"].texts.append("x" * 9_000)
    with pytest.raises(InvalidInputError, match=r"^features\['price'\].texts\[0\]: got 9,000 bytes"):
        check_bounds(put)


def test_a_stream_goes_on_after_a_message_beyond_its_bounds(channel: grpc.Channel) -> None:
    event = feature_store_pb2.EventColumns(items=Ids(integers=[1]), timestamps_ms=[1_700_000_000_000])
    good = AppendEventsRequest(user=Id(integer=1), events=event)
    messages = [good, AppendEventsRequest(user=Id(text="x" * 9_000), events=event), good]
    call = channel.stream_unary("/recsys.v1.FeatureStore/AppendEventStream")
    answer = AppendEventStreamResponse.FromString(call(iter(m.SerializeToString() for m in messages), timeout=30))
    assert (answer.messages, answer.rejected) == (3, 1)
    assert answer.rejections[0].message == 1 and answer.rejections[0].reason.startswith("user.text: got 9,000 bytes")


def test_the_numbers_agree_with_those_of_other_modules_and_of_the_proto_files() -> None:
    assert limits.TEXT_BYTES == values.MAX_TEXT_BYTES
    comments = (ROOT / "protos/recsys/v1/feature_store.proto").read_text()
    assert f"{limits.OFFSET_JUMP:,} (2^42)" in comments and f"up to {limits.NAME_BYTES} bytes" in comments
