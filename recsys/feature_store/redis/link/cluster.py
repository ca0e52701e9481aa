"""ClusterLink: a Redis Cluster, each command sent to the node that has its key.

A RedisLink to each node gives every node its own connections, deadline and back-off, and calls go to
all nodes at once. redis-py's own cluster client gives none of these: it sleeps between retries, closes all
connections after one failure, those in use included, and raises when its pool is empty.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from recsys.errors import StoreUnavailableError
from recsys.feature_store.redis.link.breaker import Breaker
from recsys.feature_store.redis.link.protocol import Changed, Command, Link, Reply
from recsys.feature_store.redis.link.server import RedisLink, first_answer
from recsys.feature_store.redis.link.slots import SLOTS, Part, join, single_keys, split
from recsys.feature_store.redis.link.url import Address, parse_redis_url
from recsys.masking import mask_url

_WATCH_S = 10.0
_MAX_SENDS = 6
"""Of one command: slots that move at all move once or twice."""
_TRY_AGAIN_S = 0.01
_TOPOLOGY_NODES = 3
"""So many nodes are asked for the topology at once; the first answer counts."""


class ClusterLink:
    """At most ``max_connections`` connections to each node of the cluster at ``url``.

    The topology is asked for at the first call and after trouble: a moved slot, a lost connection, a
    time-out, a cluster that is down. While it stays the same, it is asked for ever more rarely (Breaker).

    Raises:
        ConfigError: the URL is not one.
    """

    def __init__(self, url: str, *, max_connections: int = 16) -> None:
        self.name = mask_url(url)
        self._url = parse_redis_url(url)
        self._max_connections = max_connections
        self._nodes: dict[Address, RedisLink] = {}
        self._owners: list[Address | None] = []
        """By slot; empty before the topology is known."""
        self._stale = True
        self._refreshing = asyncio.Lock()
        self._breaker = Breaker()

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        """Send commands together, each to its node, and return their replies in order.

        A reply is a StoreUnavailableError where its node, or one of an MGET's or MSET's, did not answer but
        others did. An MSET is atomic for each slot only.

        Raises:
            StoreUnavailableError: no node that was needed is reachable, or answered in ``timeout_s``.
        """
        deadline_s = time.monotonic() + timeout_s
        await self._refresh(deadline_s)
        parts = [split(command) for command in commands]
        everything = [part for of_one in parts for part in of_one]
        await self._run(everything, deadline_s)
        lost = [part.reply for part in everything if isinstance(part.reply, StoreUnavailableError)]
        if lost and len(lost) == len(everything):
            raise lost[0]
        if not lost:
            self._breaker.succeeded()
        return [join(command, of_one) for command, of_one in zip(commands, parts, strict=True)]

    async def watch(self, prefix: bytes, changed: Changed) -> None:
        """As ``Link.watch``, at every node that has slots; ends when the topology changes, too."""
        watched = await self.servers(timeout_s=_WATCH_S)
        owners = self._owners
        tasks = [asyncio.create_task(node.watch(prefix, changed)) for node in watched]
        try:
            while owners == self._owners:
                done, _ = await asyncio.wait(tasks, timeout=_WATCH_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except StoreUnavailableError:
            self._stale = True
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise StoreUnavailableError(f"{self.name}: slots have moved")

    async def servers(self, *, timeout_s: float) -> list[Link]:
        """As ``Link.servers``: a link to each node that has slots."""
        await self._refresh(time.monotonic() + timeout_s)
        return [self._node(address) for address in {*self._owners} if address is not None]

    async def close(self) -> None:
        """Close the connections."""
        for node in self._nodes.values():
            await node.close()

    async def _run(self, parts: list[Part], deadline_s: float) -> None:
        """Fill in the replies."""
        for _ in range(_MAX_SENDS):
            by_node: dict[Address, list[Part]] = {}
            for part in parts:
                if (address := part.asking or self._owners[part.slot]) is not None:
                    by_node.setdefault(address, []).append(part)
                else:
                    part.reply = StoreUnavailableError(f"{self.name}: no node has slot {part.slot}")
                    self._stale = True
            sent = [self._send(address, of_node, deadline_s) for address, of_node in by_node.items()]
            # One node is the usual case of all calls but Rank's, and needs no task of its own.
            found = [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent)
            again = [part for of_node in found for part in of_node]
            if self._stale and any(isinstance(part.reply, StoreUnavailableError) for part in parts):
                again += await self._reassigned([part for part in parts if part not in again], deadline_s)
            if not again:
                return
            parts = again

    async def _reassigned(self, parts: list[Part], deadline_s: float) -> list[Part]:
        """Of the parts whose nodes did not answer those that have a new node."""
        failed = [part for part in parts if isinstance(part.reply, StoreUnavailableError)]
        before = [self._owners[part.slot] for part in failed]
        if failed and time.monotonic() < deadline_s:
            await self._refresh(deadline_s)
        return [p for p, owner in zip(failed, before, strict=True) if self._owners[p.slot] not in (owner, None)]

    async def _send(self, address: Address, parts: list[Part], deadline_s: float) -> list[Part]:
        """Send parts to one node; those that are to be sent again."""
        node = self._node(address)
        commands: list[Command] = []
        for part in parts:
            if part.asking:
                commands.append((b"ASKING",))
            commands.append(part.command)
        tried = not node.circuit_open
        try:
            replies = iter(await node.round_trip(commands, timeout_s=deadline_s - time.monotonic()))
        except StoreUnavailableError as error:
            self._stale |= tried
            for part in parts:
                part.reply, part.asking = error, None
            return []
        again: list[Part] = []
        for part in parts:
            if part.asking:
                next(replies)
            part.reply, part.asking = next(replies), None
            if isinstance(part.reply, ResponseError) and await self._redirected(part, address, deadline_s):
                again.append(part)
        return again

    async def _redirected(self, part: Part, node: Address, deadline_s: float) -> bool:
        """Decide on a part that got an error: True to send it again."""
        error = part.reply
        if isinstance(error, AskError):
            part.asking = _address(error.host, error.port, node)
        elif isinstance(error, MovedError):
            self._owners[part.slot] = _address(error.host, error.port, node)
            self._stale = True
        elif isinstance(error, TryAgainError) and (singles := single_keys(part)):
            # Of the keys some have moved to the other node: each by itself is with one of the two.
            await self._run(singles, deadline_s)
            part.reply = join(part.command, singles)
            return False
        elif isinstance(error, TryAgainError):
            await asyncio.sleep(min(_TRY_AGAIN_S, max(deadline_s - time.monotonic(), 0.0)))
        else:
            self._stale |= isinstance(error, ClusterDownError)
            return False
        # Unless sending it again succeeds, this is what becomes of it.
        part.reply = StoreUnavailableError(f"{self.name}: slot {part.slot} is on the move: {error}")
        return True

    def _node(self, address: Address) -> RedisLink:
        if address not in self._nodes:
            self._nodes[address] = RedisLink(self._url.server(address), max_connections=self._max_connections)
        return self._nodes[address]

    async def _refresh(self, deadline_s: float) -> None:
        """Fetch the topology, if it is unknown or may be stale."""
        if self._owners and (not self._stale or self._breaker.is_open):
            return
        # Half of the time is for what was to be done.
        timeout_s = max(deadline_s - time.monotonic(), 0.0) / 2
        try:
            async with asyncio.timeout(timeout_s):
                async with self._refreshing:
                    if not self._owners or self._stale:  # else another caller did meanwhile
                        await self._fetch_topology(timeout_s)
        except TimeoutError:
            if not self._owners:
                reason = f"{self.name}: no node answered within {timeout_s * 1000:.0f} ms"
                raise StoreUnavailableError(reason) from None
        except StoreUnavailableError:
            if not self._owners:
                raise

    async def _fetch_topology(self, timeout_s: float) -> None:
        self._breaker.check()
        addresses = list({*self._url.hosts, *self._nodes})
        awake = [address for address in addresses if not self._node(address).circuit_open] or addresses
        some = random.sample(awake, min(_TOPOLOGY_NODES, len(awake)))
        try:
            owners = await first_answer([self._topology_by(a, timeout_s) for a in some], timeout_s=timeout_s)
        except StoreUnavailableError as error:
            self._breaker.failed(str(error))
            raise
        self._stale = False
        if owners == self._owners:
            self._breaker.failed(f"{self.name}: the topology is the same")
            return
        self._owners = owners
        for address in self._nodes.keys() - {*owners, *self._url.hosts}:
            await self._nodes.pop(address).close()

    async def _topology_by(self, address: Address, timeout_s: float) -> list[Address | None]:
        """Ask one node for the node of every slot."""
        node = self._node(address)
        (reply,) = await node.round_trip([(b"CLUSTER", b"SLOTS")], timeout_s=timeout_s)
        if isinstance(reply, ResponseError):
            raise StoreUnavailableError(
                f"{node.name}: no topology of a cluster: {reply}; a single Redis has a redis:// URL, and a user "
                "of a cluster needs +cluster|slots"
            )
        owners: list[Address | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in reply:
            name = (host or b"").decode()
            owner = _address("" if name == "?" else name, port, address)
            owners[first : last + 1] = [owner] * (last + 1 - first)
        return owners


def _address(host: str, port: int, node: Address) -> Address:
    """The address in a node's answer; without a host, that of the node."""
    return host or node[0], port
