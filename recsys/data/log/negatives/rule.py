"""Rule of drawn negatives, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recsys.errors import ConfigError, nearest

UNIFORM, POPULARITY = "uniform", "popularity"
WAYS = (UNIFORM, POPULARITY)

_MOST = 1000


@dataclass(frozen=True, kw_only=True)
class NegativeRule:
    """Rule that draws negatives for positives.

    Attributes:
        per_positive: negatives of each positive, 1 to 1000.
        by: ``uniform``, each item that existed equally often; or ``popularity``, in proportion to an item's events up
            to that moment.
        seed: of the draws, 0 or more.
    """

    per_positive: int
    by: str = UNIFORM
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.per_positive <= _MOST:
            raise ConfigError(f"negatives is {self.per_positive}; allowed: 1 to {_MOST} for each positive")
        if self.by not in WAYS:
            raise ConfigError(f"negatives by {self.by!r}: {nearest(self.by, WAYS)}")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"the seed of the negatives is {self.seed}; allowed: 0 to 2^63 - 1")


@dataclass(kw_only=True)
class DrawnNegatives:
    """Counts of what was drawn.

    Attributes:
        rule: what was asked for.
        positives, negatives: samples of each label.
        moments: lists, each of one user and timestamp.
        short_moments: lists with fewer negatives than asked for, because the user took what else there was.
        short_users: users with such a list.
        left_out: events labelled 0, which are no samples.
    """

    rule: NegativeRule
    positives: int = 0
    negatives: int = 0
    moments: int = 0
    short_moments: int = 0
    short_users: int = 0
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """Sentences about what the labels are not, and where lists are shorter than asked for."""
        rule = self.rule
        found = [
            f"negatives are drawn ({rule.per_positive} for a positive, {rule.by}): scores rank items, and are no "
            "probabilities of a click; docs/guides/data.md has the correction"
        ]
        if self.left_out:
            found.append(
                f"{self.left_out:,} events labelled 0 are no samples: with --negatives, the positives are the events "
                "labelled 1; leave --negatives out to train on both labels"
            )
        if self.short_moments:
            found.append(
                f"{self.short_moments:,} of {self.moments:,} lists, of {self.short_users:,} users, have fewer than "
                f"{rule.per_positive} negatives for a positive: these users took nearly all items that existed then"
            )
        return found
