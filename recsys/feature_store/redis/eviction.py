"""EvictionCheck: a Redis that drops keys when it is full is a cache, and the feature store is none."""

from __future__ import annotations

import logging
import time

from recsys.feature_store.redis.link.protocol import Command, Link, Reply

_log = logging.getLogger(__name__)

_QUESTIONS: list[Command] = [(b"INFO", b"memory"), (b"INFO", b"stats")]
_KEEPS = "noeviction"


class EvictionCheck:
    """Asks the servers behind a link for their maxmemory-policy, and warns of any but ``noeviction``."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._warned: dict[str, str] = {}
        self.policies: tuple[str, ...] = ()
        """As last told, each once; none where no server tells."""
        self.dropped = 0
        """Keys that the servers have dropped so far, as last told."""
        self.warnings = 0
        """Count of answers that were a reason to warn, logged or not."""

    async def check(self, *, timeout_s: float) -> None:
        """Ask, and log a warning that names the policy; the same one is logged once.

        Raises:
            StoreUnavailableError: as ``Link.round_trip``.
        """
        deadline_s = time.monotonic() + timeout_s
        policies, dropped = set[str](), 0
        for server in await self._link.servers(timeout_s=timeout_s):
            replies = await server.round_trip(_QUESTIONS, timeout_s=deadline_s - time.monotonic())
            facts: dict[str, str] = {}
            for reply in replies:
                if isinstance(reply, bytes):
                    facts |= _facts(reply)
            policy = facts.get("maxmemory_policy")
            if policy is None:
                self._warn(server.name, _unknown(replies))
                continue
            policies.add(policy)
            dropped += int(facts.get("evicted_keys", 0))
            if policy != _KEEPS:
                self._warn(server.name, _warning(policy, int(facts.get("maxmemory", 0)), facts.get("evicted_keys")))
        self.policies, self.dropped = tuple(sorted(policies)), dropped

    def _warn(self, server: str, text: str) -> None:
        self.warnings += 1
        if self._warned.get(server) != text:
            self._warned[server] = text
            _log.warning("%s: %s", server, text)


def _warning(policy: str, limit_bytes: int, dropped: str | None) -> str:
    what = "histories with ttl_s and states of users" if policy.startswith("volatile") else "histories and features"
    limit = f"{limit_bytes:,} bytes" if limit_bytes else "not set now"
    return (
        f"maxmemory-policy is {policy}: at its maxmemory ({limit}) this Redis drops {what}, and models see users "
        f"without a past; {int(dropped or 0):,} keys so far. Set it to {_KEEPS}: a full one then refuses writes by name"
    )


def _unknown(replies: list[Reply]) -> str:
    return (
        f"its maxmemory-policy cannot be read ({replies[0]}): give the user the right +info, and see that it is "
        f"{_KEEPS}; a Redis with another one drops histories when it is full"
    )


def _facts(reply: bytes) -> dict[str, str]:
    """The values of an INFO, by name."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
