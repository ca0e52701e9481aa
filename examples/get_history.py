"""Read a user's history from the store: python examples/get_history.py [HOST:PORT]"""

import sys

from recsys.client import Client

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"

with Client(address, timeout_s=1.0) as client:
    history = client.get_history(user=1, limit=10)  # or a range of time: since_ms=..., until_ms=...
    others = client.get_histories(users=[2, 3, 4], limit=10)  # many users in one call

for item, timestamp_ms in zip(history.items, history.timestamps_ms, strict=True):
    print(f"{timestamp_ms} ms: item {item}")
print(f"{history.appended} events ever appended, {history.trimmed} of them dropped as too old")
print("events of users 2, 3 and 4:", [len(other.items) for other in others])
