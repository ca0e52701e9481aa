"""Append a stream of events, many users in one call: python examples/append_stream.py [HOST:PORT]"""

import sys
import time
from collections.abc import Iterator

from recsys.client import Client, UserEvents

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
now_ms = time.time_ns() // 1_000_000


def clicks() -> Iterator[UserEvents]:
    """As a consumer of a topic would give them: each with its place in the partition it came from."""
    for offset in range(1_000):
        yield UserEvents(
            user=1_000_000 + offset % 100,
            items=[1 + offset],
            timestamps_ms=[now_ms - 1_000 + offset],
            source="clicks/0",
            offsets=[offset],
        )


with Client(address) as client:
    # The server takes them as fast as it can write them. After an error send all again: nothing is added twice.
    summary = client.append_stream(clicks(), timeout_s=30.0)

print(f"{summary.added} of {summary.events} events added, {summary.rejected} messages rejected")
for place, reason in summary.rejections:
    print(f"message {place}: {reason}")
