"""Store features and read them back: python examples/put_entities.py [HOST:PORT]"""

import sys

from recsys.client import Client

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"

with Client(address, timeout_s=1.0) as client:
    # Up to 10,000 entities in one call. It replaces all that these had: a feature not sent becomes missing.
    client.put_entities(entity="user", ids=[1_000_001, 1_000_002], features={"age": [25, None]})
    stored = client.get_features(entity="user", ids=[1_000_001, 1_000_002])

for name, column in stored.columns.items():
    print(f"{name}: {column.tolist()}")  # -1, or None among texts, is a missing one
