"""ShardedRetriever and AsyncShardedRetriever: one list of several servers, each of which searches a part of the items.

::

    with ShardedRetriever(["index-1:50051", "index-2:50051"]) as shards:
        found = shards.retrieve(user=42, top_k=100)

The servers serve one bundle, each with its ``RECSYS_ITEMS_SHARD`` (docs/operate/shards.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from recsys.client.aio import AsyncClient
from recsys.client.blocking import Client
from recsys.client.types import (
    DeadlineExceeded,
    FilterReport,
    Id,
    Overloaded,
    Retrieval,
    RpcError,
    ShardsDiffer,
    Unavailable,
)
from recsys.errors import InvalidInputError

_AWAY = (Unavailable, DeadlineExceeded, Overloaded)
"""Errors of a server that is away for now; others are the caller's, or a defect, and are raised in any case."""

_THREADS_A_SHARD = 32
_LEFT_OUT = "all items that pass were seen, or excluded"

Answer = Retrieval | RpcError


class ShardedRetriever:
    """Blocking client of all shards. Safe to share between threads.

    Args:
        addresses: of the servers, one for each shard, in any order.
        partial: answer without shards that are away, and say so: ``degraded`` has ``shards``, ``missing_shards`` says
            which. False: raise their error.
        options: of each :class:`Client`: ``timeout_s``, ``tls``, ``token``, ``token_in_clear``.

    Raises:
        InvalidInputError: no address, one twice, or an option is no good.
    """

    def __init__(self, addresses: Sequence[str], *, partial: bool = False, **options: Any) -> None:
        self._addresses, self._partial = _checked(addresses), partial
        self._clients = [Client(address, **options) for address in self._addresses]
        self._pool = ThreadPoolExecutor(_THREADS_A_SHARD * len(addresses), thread_name_prefix="recsys-shard")

    def retrieve(self, *, user: Id, top_k: int = 100, timeout_s: float | None = None, **query: Any) -> Retrieval:
        """Find the best items of all: the list that one server of all items would give.

        Args:
            user, top_k, timeout_s: as of :meth:`Client.retrieve`.
            query: its other arguments.

        Raises:
            ShardsDiffer: the answers are not of all shards of one model, or not of the same user.
            RpcError, InvalidInputError: as :meth:`Client.retrieve`.
        """
        until_s = time.monotonic() + self._clients[0]._limit_s(timeout_s, self._clients[0]._timeout_s)

        def ask(client: Client) -> Answer:
            try:  # waiting for a thread is of the call's time
                return client.retrieve(user=user, top_k=top_k, timeout_s=until_s - time.monotonic(), **query)
            except RpcError as error:
                return error

        answers = list(self._pool.map(ask, self._clients))
        return merge_shards(dict(zip(self._addresses, answers, strict=True)), top_k, partial=self._partial)

    def wait_ready(self, *, timeout_s: float = 30.0) -> None:
        """Return once all servers are ready; DeadlineExceeded if one is not after ``timeout_s``."""
        until_s = time.monotonic() + timeout_s
        for client in self._clients:
            client.wait_ready(timeout_s=max(0.001, until_s - time.monotonic()))

    def close(self) -> None:
        """Close the connections; running calls are cancelled."""
        for client in self._clients:
            client.close()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> ShardedRetriever:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncShardedRetriever:
    """:class:`ShardedRetriever` for asyncio: the same calls, awaited. Make it and use it in one event loop."""

    def __init__(self, addresses: Sequence[str], *, partial: bool = False, **options: Any) -> None:
        self._addresses, self._partial = _checked(addresses), partial
        self._clients = [AsyncClient(address, **options) for address in self._addresses]

    async def retrieve(self, *, user: Id, top_k: int = 100, timeout_s: float | None = None, **query: Any) -> Retrieval:
        """See :meth:`ShardedRetriever.retrieve`."""

        async def ask(client: AsyncClient) -> Answer:
            try:
                return await client.retrieve(user=user, top_k=top_k, timeout_s=timeout_s, **query)
            except RpcError as error:
                return error

        answers = await asyncio.gather(*map(ask, self._clients))
        return merge_shards(dict(zip(self._addresses, answers, strict=True)), top_k, partial=self._partial)

    async def wait_ready(self, *, timeout_s: float = 30.0) -> None:
        """See :meth:`ShardedRetriever.wait_ready`."""
        await asyncio.gather(*(client.wait_ready(timeout_s=timeout_s) for client in self._clients))

    async def close(self) -> None:
        """See :meth:`ShardedRetriever.close`."""
        await asyncio.gather(*(client.close() for client in self._clients))

    async def __aenter__(self) -> AsyncShardedRetriever:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def _checked(addresses: Sequence[str]) -> list[str]:
    if isinstance(addresses, str) or not addresses or len(set(addresses)) < len(addresses):
        raise InvalidInputError(
            f"addresses is {addresses!r}; allowed: a list of distinct addresses, one for each shard"
        )
    return list(addresses)


def merge_shards(answers: Mapping[str, Answer], top_k: int, *, partial: bool) -> Retrieval:
    """Make one list of those of all shards: the best by score, equal ones in the order of the items' keys.

    That is the order of one index: a shard is a range of keys, and has its own items in their order.

    Args:
        answers: of each server, or its error, by address.
        top_k: length of the list.
        partial: leave out servers that are away.

    Raises:
        ShardsDiffer: the answers are not of all shards of one model, or not of the same user.
        RpcError: of a server, unless it is away and ``partial``; or all are away.
    """
    failed = {address: answer for address, answer in answers.items() if isinstance(answer, RpcError)}
    found = {address: answer for address, answer in answers.items() if isinstance(answer, Retrieval)}
    for error in failed.values():
        if not partial or not found or not isinstance(error, _AWAY):
            raise error
    _check_same_model(found)
    missing = {address: str(error) for address, error in failed.items()}
    # Popularity is no score of the model: a server that lacked the user's history does not take part.
    best = max(_knowledge(each) for each in found.values())
    strange = {address: each for address, each in found.items() if _knowledge(each) < best}
    for address, each in strange.items():
        why = "its store was away" if each.degraded else "an event may have come between"
        missing[address] = f"knows less of the user than other shards ({why})"
        del found[address]
    if strange and not partial:
        raise ShardsDiffer("; ".join(f"{address} {missing[address]}" for address in strange) + ": ask again")
    _check_all_shards(found, len(answers))
    return _merged(sorted(found.values(), key=lambda each: each.shard or (1, 1)), top_k, missing)


def _knowledge(answer: Retrieval) -> tuple[bool, bool]:
    """Order answers by what the server knew of the user: the user, the user's segment, nothing."""
    return answer.user_known, answer.fallback == "segment"


def _check_same_model(found: Mapping[str, Retrieval]) -> None:
    models = {(each.model, each.model_version) for each in found.values()}
    if len(models) > 1:
        told = ", ".join(f"{address}: {each.model} {each.model_version}" for address, each in found.items())
        raise ShardsDiffer(
            f"scores of two models do not mix ({told}); serve one bundle on all shards, or ask again when all have "
            "switched to the new release"
        )


def _check_all_shards(found: Mapping[str, Retrieval], wanted: int) -> None:
    shards = [each.shard or (1, 1) for each in found.values()]
    if len(set(shards)) < len(shards) or any(of != wanted for _, of in shards):
        told = ", ".join(f"{address}: {'/'.join(map(str, each.shard or ('all',)))}" for address, each in found.items())
        raise ShardsDiffer(
            f"the {wanted} servers are not one for each of {wanted} shards ({told}); set RECSYS_ITEMS_SHARD to "
            f"1/{wanted}, 2/{wanted} and so on"
        )


def _merged(parts: Sequence[Retrieval], top_k: int, missing: Mapping[str, str]) -> Retrieval:
    """The list of answers in the order of their shards."""
    items, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("items", "scores"))
    order = np.argsort(-scores, kind="stable")[:top_k]
    degraded = [name for part in parts for name in part.degraded] + ["shards"] * bool(missing)
    reports = [part.filter for part in parts if part.filter is not None]
    return replace(
        parts[0],
        items=items[order],
        scores=scores[order],
        history_events=max(part.history_events for part in parts),
        degraded=tuple(dict.fromkeys(degraded)),
        timings_us={
            stage: max(part.timings_us.get(stage, 0) for part in parts) for part in parts for stage in part.timings_us
        },
        filter=_report(reports, empty=not len(order)) if reports else None,
        shard=None,
        missing_shards=dict(missing),
    )


def _report(reports: Sequence[FilterReport], *, empty: bool) -> FilterReport:
    """The outcome of one filter: each server has the values of all items, and counts them all."""
    most = max(reports, key=lambda each: each.passed)
    unknown = dict.fromkeys(value for each in reports for value in each.unknown_values)
    return replace(
        most,
        reason=most.reason if empty else "",
        detail=(_LEFT_OUT if most.reason == "left_out" else most.detail) if empty else "",
        # Unknown is what no server has seen.
        unknown_values=tuple(value for value in unknown if all(value in each.unknown_values for each in reports)),
        age_ms=max(each.age_ms for each in reports),
    )
