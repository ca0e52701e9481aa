"""Append events of one user: python examples/append_events.py [HOST:PORT]"""

import sys
import time

from recsys.client import Client

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
now_ms = time.time_ns() // 1_000_000

with Client(address, timeout_s=1.0) as client:
    # Up to 10,000 events in one call, in any order; sending one again has no effect. Send what only you know
    # (a rating; None is no rating): what the store knows of the items, like their genre, the server adds.
    appended = client.append_events(
        user=1, items=[1193, 661], timestamps_ms=[now_ms - 60_000, now_ms], attributes={"rating": [5, None]}
    )

print(f"{appended.added} events added, {appended.stored} stored")
