"""Feast's side of ``feature_store.py``: 500 items x 10 float features by ``get_online_features``.

Runs in an environment of its own, which has ``feast[redis]`` and not this project. Arguments: host:port of a
Redis, number of items per call. Prints one JSON line.
"""

from __future__ import annotations

import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

REPO = """
project: bench
registry: registry.db
provider: local
online_store: {{type: redis, connection_string: "{address}"}}
entity_key_serialization_version: 3
"""


def main(address: str, wanted: int) -> None:
    """Fill 20,000 items, then measure."""
    names = [f"f{i}" for i in range(10)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "feature_store.yaml").write_text(REPO.format(address=address))
        now = datetime.now(timezone.utc)  # noqa: UP017  (Feast's environment may have an older Python)
        rows = pd.DataFrame({"item_id": range(20_000), **dict.fromkeys(names, 0.5), "event_timestamp": now})
        rows[names] = rows[names].astype("float32")
        rows.to_parquet(Path(folder, "items.parquet"))
        source = FileSource(path=str(Path(folder, "items.parquet")), timestamp_field="event_timestamp")
        item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
        view = FeatureView(
            name="items",
            entities=[item],
            ttl=timedelta(days=1),
            schema=[Field(name=name, dtype=Float32) for name in names],
            source=source,
        )
        store = FeatureStore(repo_path=folder)
        store.apply([item, view])
        store.write_to_online_store("items", rows)
        entities = [{"item_id": i * 7 % 20_000} for i in range(wanted)]
        features = [f"items:{name}" for name in names]
        took = []
        for _ in range(60):
            started_s = time.perf_counter()
            found = store.get_online_features(features=features, entity_rows=entities).to_dict()
            took.append(time.perf_counter() - started_s)
            assert len(found["f0"]) == wanted and found["f0"][0] == 0.5
    print(json.dumps({"us": 1e6 * statistics.median(took[10:]), "feast": importlib.metadata.version("feast")}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
