"""Wire: how a measuring process reaches a server; in the clear or by mTLS, with a token or without."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.workers import RANK

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True, kw_only=True)
class Wire:
    """Way to a server: what a connection and its calls bring.

    Attributes:
        secret: folder of certificate, key and CA (``cert``, ``key``, ``ca``), for mTLS; None: in the clear.
        token: that each call brings; None: none.
    """

    secret: Path | None = None
    token: str | None = None

    def channel(self, address: str) -> grpc.aio.Channel:
        """A connection of its own, as a caller on another machine would have."""
        import grpc

        options = [("grpc.use_local_subchannel_pool", 1)]
        if self.secret is None:
            return grpc.aio.insecure_channel(address, options=options)
        ca, key, chain = ((self.secret / name).read_bytes() for name in ("ca", "key", "cert"))
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, key, chain), options=options)

    def rank(self, channel: grpc.aio.Channel) -> Callable[..., Awaitable[bytes]]:
        """Rank over such a connection: a serialised request in, with ``timeout`` in seconds; the answer's bytes out."""
        call: Callable[..., Awaitable[bytes]] = channel.unary_unary(RANK)
        if self.token is None:
            return call
        return functools.partial(call, metadata=(("authorization", f"Bearer {self.token}"),))
