"""A server with access on, for tests: its files, its tokens, and calls to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from recsys.proto.ranker_pb2 import Id, Ids, RankRequest
from recsys.serving.rpc.access.roles import ROLES
from support.access import LONG_AFTER, LONG_AGO, Issuer, bearer, jwt_entry, token_of, write_access

RANK = "/recsys.v1.Ranker/Rank"
REQUEST = RankRequest(user=Id(integer=1), candidates=Ids(integers=[1, 2])).SerializeToString()


@dataclass
class Secured:
    """A server with access on.

    Attributes:
        address: host:port.
        file: its access file.
        issuer: whose tokens it takes.
        tokens: by name: one of each role, and ``expired``.
        entries: of the tokens, by name.
    """

    folder: Path
    issuer: Issuer = field(default_factory=Issuer)
    tokens: dict[str, str] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    address: str = ""
    metrics: str = ""

    @property
    def file(self) -> Path:
        return self.folder / "access.toml"

    def add(self, name: str, *roles: str, expires: str = LONG_AFTER, more: str = "") -> str:
        """Make a token, which the file does not have yet."""
        self.tokens[name], self.entries[name] = token_of(*roles, name=name, expires=expires, more=more)
        return self.tokens[name]

    def write(self) -> None:
        """Write the file with all entries, renamed into place."""
        new = write_access(self.folder / "new.toml", *self.entries.values(), jwt_entry())
        new.replace(self.file)


def secured(folder: Path) -> Secured:
    """Files of a server that is to be started."""
    made = Secured(folder)
    made.issuer.add_rsa("first")
    made.issuer.write_jwks(folder / "jwks.json")
    for role in ROLES:
        made.add(role, role)
    made.add("expired", *ROLES, expires=LONG_AGO)
    made.write()
    return made


def status(channel: grpc.Channel, path: str, token: str | None, message: bytes = b"") -> tuple[grpc.StatusCode, str]:
    """The status of a call, and its words."""
    metadata = None if token is None else bearer(token)
    answer: Any
    try:
        if path.endswith("ServerReflectionInfo"):
            answer = channel.stream_stream(path)(iter([]), metadata=metadata, timeout=20)
            list(answer)
        elif path.endswith("AppendEventStream"):
            channel.stream_unary(path)(iter([]), metadata=metadata, timeout=20)
        elif path.endswith("Watch"):
            answer = channel.unary_stream(path)(message, metadata=metadata, timeout=20)
            next(answer)
            answer.cancel()
        else:
            channel.unary_unary(path)(message, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""
