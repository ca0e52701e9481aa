"""The page of the gRPC calls: every service, call, message and field, with the comment that it has in ``protos/``."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from generate_protos import compile_protos
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from docs.table import generated, table
from recsys.serving.telemetry.families import CODES

_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
"""Numbers of fields of ``FileDescriptorProto``, of which the places of comments are made."""
_FIELDS, _NESTED, _METHODS, _VALUES = 2, 3, 2, 2
"""The same of ``DescriptorProto`` and ``ServiceDescriptorProto``."""


def calls_page() -> str:
    """The text of ``docs/reference/grpc.md``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "descriptors"
        compile_protos(["--include_source_info", f"--descriptor_set_out={path}"])
        found = FileDescriptorSet.FromString(path.read_bytes())
    lines = generated(
        "gRPC calls",
        "The services of [the protos](../../protos/recsys/v1/), package `recsys.v1`: every call, message and field.",
        "[Python](client.md) has a client; any other language generates one from the protos.",
        "[JSON over HTTP](../operate/json.md) takes the same messages at the paths shown.",
    )
    files = [file for file in found.file if file.package == "recsys.v1"]
    for file in files:
        lines += _services(file)
    lines += ["## Messages", ""]
    for file in files:
        lines += _messages(file)
    return "\n".join(lines).rstrip() + "\n"


def _comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Comments by place: those above a declaration."""
    return {
        tuple(place.path): " ".join(place.leading_comments.split())
        for place in file.source_code_info.location
        if place.leading_comments
    }


def _services(file: FileDescriptorProto) -> list[str]:
    comments, lines = _comments(file), []
    for i, service in enumerate(file.service):
        lines += [f"## {service.name}", "", _plain(comments.get((_SERVICES, i), "")), ""]
        for j, method in enumerate(service.method):
            rule = method.options.Extensions[annotations_pb2.http]
            stream = "stream " if method.client_streaming else ""
            answers = "stream " if method.server_streaming else ""
            lines += [
                f"### {service.name}.{method.name}",
                "",
                f"{stream}{_link(method.input_type)} → {answers}{_link(method.output_type)}"
                + (f"; JSON: `POST {rule.post}`" if rule.post else ""),
                "",
                _plain(comments.get((_SERVICES, i, _METHODS, j), "")).replace(" Errors: ", "\n\nErrors: "),
                "",
            ]
    return lines


def _messages(file: FileDescriptorProto) -> list[str]:
    comments, lines = _comments(file), []
    for i, message in enumerate(file.message_type):
        lines += _message(message, comments, (_MESSAGES, i), message.name)
    for i, enum in enumerate(file.enum_type):
        lines += _enum(enum, comments, (_ENUMS, i), enum.name)
    return lines


def _message(message: Any, comments: dict[tuple[int, ...], str], place: tuple[int, ...], name: str) -> list[str]:
    lines = [f"### {name}", ""]
    if text := comments.get(place):
        lines += [_plain(text), ""]
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    rows = []
    for i, field in enumerate(message.field):
        text = comments.get((*place, _FIELDS, i), "")
        rows.append((f"`{field.name}`", str(field.number), _type(field, maps, message), _plain(text)))
    lines += table(("field", "number", "type", "meaning"), rows) if rows else ["No fields.", ""]
    for i, nested in enumerate(message.nested_type):
        if nested.name not in maps:
            lines += _message(nested, comments, (*place, _NESTED, i), f"{name}.{nested.name}")
    for i, enum in enumerate(message.enum_type):
        lines += _enum(enum, comments, (*place, 4, i), f"{name}.{enum.name}")
    return lines


def _enum(enum: Any, comments: dict[tuple[int, ...], str], place: tuple[int, ...], name: str) -> list[str]:
    lines = [f"### {name}", ""]
    if text := comments.get(place):
        lines += [_plain(text), ""]
    rows = [
        (f"`{value.name}`", str(value.number), _plain(comments.get((*place, _VALUES, i), "")))
        for i, value in enumerate(enum.value)
    ]
    return lines + table(("value", "number", "meaning"), rows)


def _type(field: FieldDescriptorProto, maps: dict[str, Any], message: Any) -> str:
    if field.type_name and (entry := maps.get(field.type_name.rpartition(".")[2])):
        key, value = entry.field
        return f"map of {_scalar(key)} to {_scalar(value)}"
    several = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    optional = "optional " if field.proto3_optional else ""
    one_of = ""
    if field.HasField("oneof_index") and not field.proto3_optional:
        one_of = f" (one of `{message.oneof_decl[field.oneof_index].name}`)"
    return f"{several}{optional}{_scalar(field)}{one_of}"


def _scalar(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return _link(field.type_name)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(type_name: str) -> str:
    name = type_name.removeprefix(".recsys.v1.")
    return f"[{name}](#{re.sub(r'[^a-z0-9]', '', name.lower())})"


def _plain(text: str) -> str:
    """Text in which nothing is taken for Markdown: names with underscores and statuses are code."""
    text = text.replace("<", "&lt;").replace("*", "\\*")
    return re.sub(rf"(?<![\w`./])({'|'.join(CODES)}|[A-Za-z]+(?:_[A-Za-z]+)+)(?![\w`])", r"`\1`", text)
