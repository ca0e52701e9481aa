"""LayoutGuard: a store filled with another layout is not written to (``docs/specs/redis_format.md``, Meta)."""

from __future__ import annotations

import time

from recsys.feature_store.redis.keys import check_layout, layouts, meta_key
from recsys.feature_store.redis.link.protocol import Command, Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.features.feature_set import FeatureSet

_CLAIM_EVERY_S = 1.0


class LayoutGuard:
    """Records which layouts the parts of one FeatureSet's store have, and refuses others."""

    def __init__(self, features: FeatureSet, *, link: Link) -> None:
        self._name = features.name
        self._layouts = layouts(features)
        self._link = link
        self._claimed_at_s: dict[str, float] = {}

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
            _, stored = [value_of(meta, r) for r in await self._link.round_trip(commands, timeout_s=timeout_s)]
            check_layout(self._name, part, stored.decode(), declared)
            if stored.decode() != declared[0]:
                extend: list[Command] = [(b"HSET", meta, part, declared[0])]
                value_of(meta, (await self._link.round_trip(extend, timeout_s=deadline_s - time.monotonic()))[0])
        except BaseException:
            self._claimed_at_s.pop(part, None)
            raise
        self._claimed_at_s[part] = time.monotonic()

    async def check(self, *, timeout_s: float) -> None:
        """Raise as :meth:`claim` does if any part has another layout; writes nothing."""
        meta = meta_key(self._name)
        replies = await self._link.round_trip([(b"HGETALL", meta)], timeout_s=timeout_s)
        stored = value_of(meta, replies[0])
        found = dict(zip(stored[::2], stored[1::2], strict=True))
        for part, declared in self._layouts.items():
            if part.encode() in found:
                check_layout(self._name, part, found[part.encode()].decode(), declared)
