"""Rules end to end: what they cost a recommendation. Offers are those of ``filters.py``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from harness.common import Line, line, rounded, say

from recsys.client import Client, above, at_most, boost, diverse, pin


def rules_of(number: int, user: int, *, items: int) -> Sequence[Any]:
    """Four rules: at most two of a kind, two boosts, and a pinned item, which is another one for each number."""
    return [
        at_most(2, "kind"),
        boost("in_stock", 2.0),
        boost("price", 0.8, above(50)),
        pin((user + 7919 * number) % items, 1),
    ]


def ruled_lines(client: Client, users: list[int], *, items: int, calls: int, on: dict[str, Any]) -> Iterator[Line]:
    """Recommendations with rules over those without, in turns, by a server that has the items' offers."""
    say("recommending with rules")
    took: dict[str, list[float]] = {"plain": [], "ruled": [], "diverse": []}
    moved = 0
    for number in range(3 * calls):
        kind = list(took)[number % 3]
        user = users[number // 3 % len(users)]
        rules = [] if kind == "plain" else [*rules_of(number // 3, user, items=items)]
        if kind == "diverse":
            rules.append(diverse(0.7))
        began_s = time.perf_counter()
        answer = client.recommend(user=user, top_k=20, rules=rules)
        took[kind].append((time.perf_counter() - began_s) * 1e3)
        assert not answer.degraded, answer
        if answer.rules is not None:
            moved += sum(effect.acted + effect.left_out for effect in answer.rules.effects)
    assert moved, "no rule did anything"
    plain, ruled, spread_out = (sorted(took[kind])[len(took[kind]) // 2] for kind in took)
    yield line(
        "recommend.ruled_p50_over_plain",
        ruled / plain,
        "times the p50 without rules",
        higher_is_better=False,
        compared_with=f"the same calls without rules ({plain:.1f} ms, in turns); at most two of a kind, "
        "two boosts, a pin",
        on=on,
        and_diverse=rounded(spread_out / plain),
    )
