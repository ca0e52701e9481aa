"""Hash slots of a Redis Cluster: commands taken apart by the slots of their keys, and their replies put together."""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass, field

from redis.exceptions import ResponseError

from recsys.errors import StoreError
from recsys.feature_store.redis.link.protocol import Command, Reply
from recsys.feature_store.redis.link.url import Address

SLOTS = 16_384


@dataclass(slots=True, eq=False)
class Part:
    """A command for one slot: a whole one, or what one slot has of an MGET or MSET."""

    command: Command
    slot: int
    positions: list[int] = field(default_factory=list)
    """Of a part of an MGET: where its values belong in the whole reply."""
    reply: Reply = None
    asking: Address | None = None
    """The node that a slot on the move sends us to, for this time only."""


def slot_of(key: bytes | str | int) -> int:
    """Key's hash slot (Redis Cluster specification, "Hash tags"): of what is between the first braces, or all of it."""
    text = key if isinstance(key, bytes) else str(key).encode()
    start = text.find(b"{") + 1
    if start:
        end = text.find(b"}", start)
        if end > start:
            text = text[start:end]
    return crc_hqx(text, 0) % SLOTS


def split(command: Command) -> list[Part]:
    """The parts of a command, one for each slot."""
    step = _step(command)
    if not step:
        key = command[3] if command[0] in (b"EVALSHA", b"EVAL") else command[1]
        return [Part(command, slot_of(key))]
    by_slot: dict[int, list[int]] = {}
    for position in range(1, len(command), step):
        by_slot.setdefault(slot_of(command[position]), []).append(position)
    if len(by_slot) == 1:
        return [Part(command, next(iter(by_slot)))]
    return [_part_of(command, slot, positions) for slot, positions in by_slot.items()]


def _step(command: Command) -> int:
    """Count the arguments of each key of a command that may be split; 0 of other commands."""
    if command[0] == b"MGET":
        return 1
    return 2 if command[0] == b"MSET" else 0


def single_keys(part: Part) -> list[Part]:
    """The parts of an MGET or MSET of several keys, one for each key; of others none."""
    step = _step(part.command)
    if not step or len(part.command) == 1 + step:
        return []
    return [_part_of(part.command, part.slot, [p]) for p in range(1, len(part.command), step)]


def _part_of(command: Command, slot: int, positions: list[int]) -> Part:
    if command[0] == b"MGET":
        return Part((b"MGET", *[command[p] for p in positions]), slot, positions)
    return Part((b"MSET", *[text for p in positions for text in command[p : p + 2]]), slot, positions)


def join(command: Command, parts: list[Part]) -> Reply:
    """The reply to the whole command: the first error, if there is one."""
    if len(parts) == 1:
        return parts[0].reply
    for part in parts:
        if isinstance(part.reply, ResponseError | StoreError):
            return part.reply
    if command[0] == b"MSET":
        return parts[0].reply
    values: list[Reply] = [None] * (len(command) - 1)
    for part in parts:
        for position, value in zip(part.positions, part.reply, strict=True):
            values[position - 1] = value
    return values
