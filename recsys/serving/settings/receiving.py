"""ReceivingSettings: how long a server waits for callers, and how many calls of one connection it takes."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.serving.settings.field import setting


@dataclass(frozen=True, kw_only=True)
class ReceivingSettings:
    """Settings of calls that come in."""

    receive_timeout_s: float = setting(
        5.0,
        "time in which a call's message must arrive; a call that is opened and sends none is ended then",
        kind=float,
        low=0.05,
        high=600.0,
    )
    stream_idle_timeout_s: float = setting(
        60.0,
        "longest time between two messages of a stream, and before the first",
        kind=float,
        low=0.05,
        high=86_400.0,
    )
    keepalive_s: float = setting(
        60.0,
        "a connection on which nothing has come for so long is asked whether the caller is still there; 0: never",
        kind=float,
        low=0.0,
        high=86_400.0,
    )
    keepalive_timeout_s: float = setting(
        20.0,
        "time to answer that; a connection whose caller does not is closed, and its calls end",
        kind=float,
        low=0.05,
        high=600.0,
    )
    connection_calls: int = setting(
        256,
        "calls that one connection may have open at a time; a client's next ones wait in the client",
        kind=int,
        low=1,
        high=100_000,
    )
