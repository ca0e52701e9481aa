"""Bounds: a request's strings, lists and maps are held to ``recsys/proto/limits.py`` before anything looks at them.

What comes after (conversion, hints at the nearest name, error messages that quote a value) costs time in proportion to
what it looks at; here only lengths are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from recsys.errors import InvalidInputError
from recsys.proto.limits import BOUNDS, DEFAULT_BOUND, Bound
from recsys.serving.rpc.methods import METHODS
from recsys.serving.rpc.statuses import truncate

_STRINGS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


class _Field(NamedTuple):
    """A field to look at.

    Attributes:
        name: of the field.
        kind: ``string``, ``list``, ``texts``, ``map``, ``message`` or ``messages``.
        bound: its bound; of a message none.
        inner: message type of its values, if they are messages.
    """

    name: str
    kind: str
    bound: Bound
    inner: Descriptor | None


def check_bounds(message: Message, path: str = "") -> None:
    """Check the lengths of everything in a message.

    Args:
        message: a request, or a part of one.
        path: of the part, with a dot at its end.

    Raises:
        InvalidInputError: names the first field beyond its bound, what arrived, and what is allowed.
    """
    for name, kind, bound, inner in _fields_of(message.DESCRIPTOR):
        value = getattr(message, name)
        if kind == "message":
            if message.HasField(name):
                check_bounds(value, f"{path}{name}.")
        elif kind == "string":
            _check_bytes(f"{path}{name}", value, bound.most)
        elif len(value):
            if len(value) > bound.most:
                raise InvalidInputError(f"{path}{name}: got {len(value):,}; allowed: up to {bound.most:,}")
            if kind == "texts":
                _check_texts(f"{path}{name}", value, bound.each)
            elif kind == "messages":
                for place, part in enumerate(value):
                    check_bounds(part, f"{path}{name}[{place}].")
            elif kind == "map":
                for key in value:
                    _check_bytes(f"{path}{name}: a name", key, bound.each)
                if inner is not None:
                    for key, part in value.items():
                        check_bounds(part, f"{path}{name}[{key!r}].")


def bound_of(field: FieldDescriptor) -> Bound:
    """The bound of a string, a list or a map."""
    message = "" if field.containing_type is None else field.containing_type.name
    found = BOUNDS.get(f"{message}.{field.name}")
    if found is None:
        found = DEFAULT_BOUND if field.is_repeated else Bound(DEFAULT_BOUND.each)
    return found


class BoundsCheck(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuse a message beyond its bounds as INVALID_ARGUMENT. Those of a stream are refused one by one, where each is
    converted."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See ``grpc.ServerInterceptor``."""
        handler = continuation(details)
        if details.method not in METHODS or handler is None or handler.request_deserializer is None:
            return handler  # an inner interceptor may refuse a call before its message is decoded
        if handler.request_streaming:
            return handler
        before, wrapped = self._wrapped.get(details.method, (None, None))
        if before is not handler:
            wrapped = _checked(handler)
            self._wrapped[details.method] = handler, wrapped
        return wrapped


def _checked(handler: Any) -> Any:
    serve = handler.unary_unary

    def served(message: Any, context: Any) -> Any:
        try:
            check_bounds(message)
        except InvalidInputError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, truncate(str(error)))
        return serve(message, context)

    return grpc.unary_unary_rpc_method_handler(served, handler.request_deserializer, handler.response_serializer)


@lru_cache(maxsize=256)
def _fields_of(descriptor: Descriptor) -> tuple[_Field, ...]:
    """The fields of a message type that have a length, or parts that have."""
    found = []
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            values = inner.fields_by_name["value"].message_type
            found.append(_Field(field.name, "map", bound_of(field), values))
        elif inner is not None:
            kind = "messages" if field.is_repeated else "message"
            found.append(_Field(field.name, kind, bound_of(field) if field.is_repeated else Bound(0), inner))
        elif field.is_repeated:
            found.append(_Field(field.name, "texts" if field.type in _STRINGS else "list", bound_of(field), None))
        elif field.type in _STRINGS:
            found.append(_Field(field.name, "string", bound_of(field), None))
    return tuple(found)


def _check_texts(path: str, texts: Iterable[str], most: int) -> None:
    if 4 * max(map(len, texts)) > most:
        for place, text in enumerate(texts):
            _check_bytes(f"{path}[{place}]", text, most)


def _check_bytes(path: str, text: Any, most: int) -> None:
    # A character has up to four bytes of UTF-8.
    if not isinstance(text, str) or 4 * len(text) <= most:
        return
    if (size_bytes := len(text.encode())) > most:
        raise InvalidInputError(f"{path}: got {size_bytes:,} bytes; allowed: up to {most:,}")
