"""A call of the caller that has most gives way when all places are taken, until shares are alike."""

from __future__ import annotations

from collections import Counter

import pytest

from recsys.serving.rpc.streams.fair_share import Holder, giving_way, holder_of


def taken(*holders: tuple[str, str]) -> dict[int, Holder]:
    return {number: Holder(*holder) for number, holder in enumerate(holders)}


@pytest.mark.parametrize(
    "peer, identity, caller",
    [
        ("ipv4:10.0.0.7:51234", "", "10.0.0.7"),
        ("ipv4:10.0.0.7:51234", "token:web", "token:web"),
        ("ipv6:%5B::1%5D:51234", "", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:51234", "", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:51234", "", "fe80::/64"),
        ("ipv6:[::ffff:10.0.0.7]:51234", "", "10.0.0.7"),
        ("unix:", "", "unix"),
        ("unix-abstract:name", "", "unix-abstract"),
        ("", "", ""),
        ("ipv4:nonsense", "", "ipv4"),
    ],
)
def test_a_caller_is_its_identity_or_else_the_address_that_it_calls_from(peer: str, identity: str, caller: str) -> None:
    assert holder_of(peer, identity) == Holder(caller, peer)


def test_the_caller_that_has_most_gives_one_up_to_one_that_has_fewer() -> None:
    found = giving_way(taken(("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")), Holder("b", "b2"))
    assert found == ([0, 1, 3], 3, "caller")


def test_a_swap_of_shares_is_no_reason_to_end_a_stream_that_is_in_use() -> None:
    found = giving_way(taken(("a", "a1"), ("a", "a2"), ("b", "b1")), Holder("b", "b1"))
    assert (found.held, found.by) == (0, "")
    assert found.calls == [2, 0, 1]  # one that is not in use may go: of who has more, or of its own


def test_who_has_as_many_loses_none_to_a_newcomer_even_if_it_does_not_use_it() -> None:
    found = giving_way(taken(("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b1")), Holder("b", "b1"))
    assert found == ([2, 3], 0, "")


def test_among_connections_of_one_caller_it_is_the_same() -> None:
    every = taken(("a", "a1"), ("a", "a1"), ("a", "a2"))
    assert giving_way(every, Holder("a", "a3")) == ([0, 1], 2, "connection")
    assert giving_way(every, Holder("a", "a2")).held == 0


def test_however_callers_ask_shares_come_to_differ_by_one_at_most_and_stay() -> None:
    places, number = dict[int, Holder](), 0
    for _ in range(40):
        for caller, asks in (("greedy", 30), ("two", 2), ("three", 3)):
            for _ in range(asks):
                newcomer, number = Holder(caller, caller), number + 1
                if len(places) >= 9:
                    found = giving_way(places, newcomer)
                    if not found.held:
                        continue
                    del places[found.calls[0]]
                places[number] = newcomer
    assert Counter(holder.caller for holder in places.values()) == {"greedy": 3, "two": 3, "three": 3}
