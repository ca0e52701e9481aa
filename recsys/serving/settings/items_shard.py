"""ItemsShard: which part of a retrieval model's items a server searches, of how many."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recsys.errors import ConfigError

MOST_SHARDS = 1_000


@dataclass(frozen=True, slots=True)
class ItemsShard:
    """Part ``number`` of ``of``, from 1.

    >>> str(ItemsShard(2, 4))
    '2/4'
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_items_shard(text: str | None) -> ItemsShard | None:
    """Make a shard of its text; None: the server searches all items.

    Raises:
        ConfigError: it is no shard.

    >>> parse_items_shard("2/4")
    ItemsShard(number=2, of=4)
    """
    if text is None:
        return None
    parts = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    number, of = (int(part) for part in parts.groups()) if parts else (0, 0)
    if not 1 <= number <= of <= MOST_SHARDS:
        raise ConfigError(
            f"items_shard (RECSYS_ITEMS_SHARD) is {text!r}; allowed: a part and how many there are, as 2/4, from 1/1 "
            f"to {MOST_SHARDS}/{MOST_SHARDS}"
        )
    return ItemsShard(number, of)
