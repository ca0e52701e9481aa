"""LayoutGuard: a store filled with another layout is not written to (``docs/specs/redis_format.md``, Meta)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from recsys.feature_store.redis.eviction import EvictionCheck
from recsys.feature_store.redis.keys import check_layout, layouts, meta_key
from recsys.feature_store.redis.link.protocol import Command, Link, Reply
from recsys.feature_store.redis.link.replies import texts_of, value_of
from recsys.features.feature_set import FeatureSet
from recsys.rate_limited_log import RateLimitedLog

_log = logging.getLogger(__name__)

_CLAIM_EVERY_S = 1.0


class LayoutGuard:
    """Records which layouts the parts of one FeatureSet's store have, and refuses others.

    Args:
        features: the FeatureSet.
        link: its Redis.
        evictions: knows the reason if records get lost.
    """

    def __init__(self, features: FeatureSet, *, link: Link, evictions: EvictionCheck) -> None:
        self._name = features.name
        self._layouts = layouts(features)
        self._link = link
        self._evictions = evictions
        self._trouble = RateLimitedLog(_log)
        self._claimed_at_s: dict[str, float] = {}
        self._found: dict[str, str] = {}
        self.losses = 0
        """Count of records that Redis had and was found to have lost."""

    async def claim(self, part: str, *, timeout_s: float) -> None:
        """Before a write to a part: record its layout, or refuse if another is there.

        Checked again every second, as somebody may empty the Redis under a running program, and fill it anew.

        Raises:
            StoreFormatError: the part was filled with another layout, or extended by a newer program.
            StoreUnavailableError: as ``Link.round_trip``.
        """
        last_s = self._claimed_at_s.get(part)
        if last_s is not None:
            if time.monotonic() - last_s < _CLAIM_EVERY_S:
                return
            self._claimed_at_s[part] = time.monotonic()  # writes that come meanwhile need no check of their own
        meta, declared = meta_key(self._name), self._layouts[part]
        commands: list[Command] = [(b"HSETNX", meta, part, declared[0]), (b"HGET", meta, part)]
        deadline_s = time.monotonic() + timeout_s
        try:
            made, stored = [value_of(meta, r) for r in await self._link.round_trip(commands, timeout_s=timeout_s)]
            if made and last_s is not None:
                self._lost(part)
            # None: it was emptied in between; the write records the layout, too.
            layout = declared[0] if stored is None else stored.decode(errors="backslashreplace")
            check_layout(self._name, part, layout, declared)
            if layout != declared[0]:
                extend: list[Command] = [(b"HSET", meta, part, declared[0])]
                value_of(meta, (await self._link.round_trip(extend, timeout_s=deadline_s - time.monotonic()))[0])
        except BaseException:
            self._claimed_at_s.pop(part, None)
            raise
        self._claimed_at_s[part] = time.monotonic()

    def record(self, part: str) -> Command:
        """The command to send with the writes to a part: it records the layout if Redis has lost it since the claim."""
        return (b"HSETNX", meta_key(self._name), part, self._layouts[part][0])

    def recorded(self, part: str, reply: Reply) -> None:
        """Take its reply. (An error is no concern of the writes: in a cluster they may be at other nodes.)"""
        if reply == 1:
            self._lost(part)

    async def check(self, *, timeout_s: float) -> dict[str, str]:
        """Raise as :meth:`claim` does if any part has another layout; writes nothing.

        Returns:
            The records that Redis had at the last check and has lost, by part.
        """
        meta = meta_key(self._name)
        replies = await self._link.round_trip([(b"HGETALL", meta)], timeout_s=timeout_s)
        found = texts_of(meta, value_of(meta, replies[0]))
        for part, declared in self._layouts.items():
            if part in found:
                check_layout(self._name, part, found[part], declared)
        lost = {part: stored for part, stored in self._found.items() if part not in found}
        self._found = found
        for part in lost:
            self._lost(part)
        return lost

    async def restore(self, lost: Mapping[str, str], *, timeout_s: float) -> None:
        """Record again what :meth:`check` found lost."""
        meta = meta_key(self._name)
        commands: list[Command] = [(b"HSETNX", meta, part, stored) for part, stored in lost.items()]
        for reply in await self._link.round_trip(commands, timeout_s=timeout_s):
            value_of(meta, reply)
        self._found |= lost

    def _lost(self, part: str) -> None:
        self.losses += 1
        self._trouble.warning(
            part,
            "%s: Redis has lost the record of the %s part, and so what was stored: it was emptied, or drops keys "
            "(maxmemory-policy %s, %d keys so far). The next write records it again; load the rest anew: "
            "recsys materialize, recsys ingest --restart",
            meta_key(self._name).decode(),
            part,
            ", ".join(self._evictions.policies) or "unknown",
            self._evictions.dropped,
        )
