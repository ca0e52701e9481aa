"""Explain a score: python examples/explain.py [HOST:PORT]"""

import sys

from recsys.client import Client

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"

with Client(address) as client:
    why = client.explain(user=1, item=1193, max_events=10)

print(f"score {why.score:.4f} = sigmoid({why.logit:.4f}); {why.base_logit:+.4f} with nothing known")
for part in sorted(why.contributions, key=lambda part: -abs(part.contribution)):
    if not part.missing:
        print(f"{part.contribution:+.4f}  {part.name} {'' if part.value is None else part.value}")
if why.events is not None:
    for item, less in zip(why.events.items, why.events.leave_out, strict=True):
        print(f"{less:+.4f}  if the event of item {item} had not been")
