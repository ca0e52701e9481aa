"""Fair share: calls that may last for ever have few places, and no caller keeps them all while another wants one.

A caller alone may have every place. When none is left, a newcomer gets one from the caller that has most, as long as
that one keeps as many as the newcomer then has: the shares of two callers that both want all come to differ by one at
most, and then nobody ends anybody. Among the connections of one caller it is the same: behind a proxy, and on this
machine, all callers have one address.

A cap below the total would leave places empty that one caller alone can use, and let two callers keep out a third.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import unquote

Call = TypeVar("Call", bound=Hashable)


class Holder(NamedTuple):
    """The holder of a place.

    Attributes:
        caller: its identity, or else the address that it calls from; of IPv6 the network of 64 bits, in which one
            machine has as many addresses as it likes.
        connection: address and port.
    """

    caller: str
    connection: str


class GivingWay(NamedTuple, Generic[Call]):
    """Calls of which one may give way to a newcomer.

    Attributes:
        calls: the newcomer's own first, then in the order in which they came.
        held: how many the one who has most has, beyond its share: one gives way, in use or not. 0: nobody has more
            than its share, and one gives way only if it is not in use.
        by: who has most, a ``caller`` or a ``connection``; empty if nobody has more than its share.
    """

    calls: list[Call]
    held: int
    by: str


def holder_of(peer: str, identity: str = "") -> Holder:
    """Tell whose a call is.

    Args:
        peer: as gRPC writes it.
        identity: of the caller, where access is checked.

    >>> holder_of("ipv4:10.0.0.7:51234")
    Holder(caller='10.0.0.7', connection='ipv4:10.0.0.7:51234')
    >>> holder_of("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:51234").caller
    '2001:db8:1:2::/64'
    >>> holder_of("ipv4:10.0.0.7:51234", "token:web").caller
    'token:web'
    """
    if identity:
        return Holder(identity, peer)
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host) if kind in ("ipv4", "ipv6") else None
    except ValueError:
        address = None
    if isinstance(address, ipaddress.IPv6Address):
        host = str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return Holder(host or kind, peer)


def giving_way(taken: Mapping[Call, Holder], newcomer: Holder) -> GivingWay[Call]:
    """Find whose call gives way when all places are taken.

    Args:
        taken: the calls that have places, the oldest first, and whose they are. One at least.
        newcomer: who wants one more.
    """
    unused: list[Call] = []
    within = list(taken)
    for place, by in enumerate(Holder._fields):
        counts = Counter(taken[call][place] for call in within)
        mine, most = newcomer[place], max(counts.values(), default=0)
        if most > counts[mine] + 1:
            return GivingWay([call for call in within if counts[taken[call][place]] == most], most, by)
        # One that has as many as the newcomer would keep fewer.
        more = [call for call in within if taken[call][place] != mine and counts[taken[call][place]] > counts[mine]]
        unused = more + unused
        within = [call for call in within if taken[call][place] == mine]
    return GivingWay([*within, *unused], 0, "")
