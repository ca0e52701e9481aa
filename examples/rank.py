"""Rank candidates for a user: python examples/rank.py [HOST:PORT]"""

import sys

from recsys.client import Client

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"

with Client(address, timeout_s=1.0) as client:
    # Ids only: the server knows the user's history. An unknown user or item is fine, too.
    ranking = client.rank(user=1, candidates=[1193, 661, 914, 3408, 2355], top_k=3)

for item, score in zip(ranking.items, ranking.scores, strict=True):
    print(f"item {item}: {score:.4f}")
print(f"by {ranking.model} {ranking.model_version}, which read {ranking.history_events} past events")
if ranking.degraded:
    print("degraded: the store could not give", ", ".join(ranking.degraded))
