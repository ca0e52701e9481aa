"""Examples: valid inputs of each target, from which fuzzing begins."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.paths import TESTS
from support.tiny_bundle import FEATURES, write_tiny_bundle

from fuzz import access
from fuzz.targets import BOTH, REQUESTS, ROWS, TEXTS, VERSION, WIDTH, empty_row, packed_rows
from recsys.bundle.evaluation import resamples_bytes
from recsys.bundle.manifest import MANIFEST
from recsys.feature_store.redis.keys import layouts
from recsys.feature_store.redis.values.state import StoredState, pack_state
from recsys.features.hashing import string_keys
from recsys.features.history.records import HistoryHeader, make_events, pack_header
from recsys.features.hot_ids import HotIds, write_hot_ids
from recsys.features.names import write_names
from recsys.proto import feature_store_pb2 as store_pb
from recsys.proto import ranker_pb2 as pb
from recsys.proto import related_pb2 as related_pb

_NOW_MS = 1_700_000_000_000
_GOLDEN = TESTS / "golden"


def examples() -> dict[str, list[bytes]]:
    """Inputs by target; at least one of each."""
    return {
        "requests": _requests(),
        "rows": [packed_rows(n, empty_row(FEATURES.entity(e).features), b"") for n, e in enumerate(_ENTITIES)],
        "history": _histories(),
        "state": [pack_state(_STATE, version=VERSION)],
        "name": [b"a", "é".encode()],
        "layout": [b"\0".join(x.encode() for part, now in layouts(FEATURES).items() for x in (part, now[0]))],
        "redis_replies": [b"$3\r\nabc\r\n*2\r\n:1\r\n$-1\r\n-WRONGTYPE no\r\n", b"+OK\r\n-MOVED 1 a:1\r\n:3\r\n"],
        "redis_url": [b"redis://user:pw@host:6379/0", b"redis+sentinel://a:1,b:2/name", b"unix:///tmp/r.sock?db=1"],
        "feature_set": [FEATURES.to_json().encode(), TEXTS.to_json().encode()],
        "release": [(_GOLDEN / "release_v1.json").read_bytes()],
        "served": [(_GOLDEN / "served_v1.json").read_bytes()],
        "status": [(_GOLDEN / "status_v1.json").read_bytes()],
        "json_row": [b'{"user_id": 1, "tags": ["a", null], "price": 1.5e3}'],
        "settings": [b"RECSYS_PORT=0\nRECSYS_WORKERS=2\nRECSYS_HOST=::1\nRECSYS_STORE_TIMEOUT_MS=20"],
        **_files(),
        **access.examples(),
    }


_ENTITIES = ("user", "item", "shop")
_STATE = StoredState(np.ones((ROWS, WIDTH), dtype=np.float32), 3, 10, _NOW_MS, _NOW_MS - 1, 7, 1)


def _requests() -> list[bytes]:
    column = store_pb.FeatureColumn
    times = {"timestamps_ms": [_NOW_MS, _NOW_MS + 1], "arrivals_ms": [_NOW_MS, _NOW_MS + 1]}
    numbers, texts = pb.Ids(integers=[1, 2]), pb.Ids(texts=["a", "b"])
    found: list[bytes] = []
    for place, (user, ids) in enumerate(((pb.Id(integer=1), numbers), (pb.Id(text="u"), texts))):
        given = {"age": pb.FeatureValue(numbers=[1.5]), "tags": pb.FeatureValue(texts=["x", "y"])}
        ranked = pb.RankRequest(user=user, candidates=ids, features=given, top_k=1, time_ms=_NOW_MS)
        attributes = {"rating": pb.Ids(integers=[1, -1])}
        price = pb.Condition(attribute="price", range=pb.NumberRange(min=1.0, below=2.0))
        brand = pb.Condition(attribute="brand", none_of=texts)
        allowed = pb.Filter(all=[price], any=[pb.AnyOf(of=[price, brand])])
        messages = [
            ranked,
            pb.RankBatchRequest(requests=[ranked, ranked]),
            pb.RetrieveRequest(user=user, top_k=3, exclude=ids, filter=allowed),
            pb.RecommendRequest(user=user, top_k=2, candidates=5, features=given, exclude=ids),
            store_pb.AppendEventsRequest(
                user=user,
                events=store_pb.EventColumns(items=ids, attributes=attributes, **times),
                source="log",
                offsets=[3, 4],
                restart_source=True,
            ),
            store_pb.PutEntitiesRequest(
                entity="shop",
                ids=texts,
                features={
                    "rating": column(numbers=[1.5], lengths=[1, 0]),
                    "brands": column(integers=[1, 2, 3], lengths=[1, 2]),
                    "city": column(integers=[1, -1]),
                },
            ),
            store_pb.GetFeaturesRequest(entity="item", ids=ids),
            store_pb.GetHistoryRequest(user=user, limit=3, since_ms=_NOW_MS, until_ms=_NOW_MS + 1),
            store_pb.GetHistoriesRequest(users=ids, limit=3),
            pb.ExplainRequest(user=user, item=user, features=given, time_ms=_NOW_MS, max_events=5),
            related_pb.SimilarRequest(items=ids, top_k=3, exclude=ids, filter=allowed, by=2),
            related_pb.TrendingRequest(top_k=3, exclude=ids, filter=allowed),
            store_pb.WithdrawItemsRequest(items=ids),
            related_pb.AudienceRequest(items=ids, top_k=3, at_least=1, model="a"),
        ]
        assert [type(message) for message in messages] == [kind for kind, _ in REQUESTS]
        found += [bytes([place * 16 + n]) + m.SerializeToString() for n, m in enumerate(messages)]
    return found


def _histories() -> list[bytes]:
    found = []
    for place, features in enumerate(BOTH):
        ids = list(range(20)) if place == 0 else [str(n) for n in range(20)]
        events = make_events(features, item=ids, timestamp_ms=[_NOW_MS + n for n in range(20)])
        for chunk in (16, 10):
            header = HistoryHeader(chunk=chunk, appended=20, newest_ms=_NOW_MS + 19)
            sealed = events[:10].tobytes() if chunk == 10 else b""
            value = pack_header(features, header) + (events[10:] if sealed else events).tobytes()
            head = len(value).to_bytes(2, "little") + bytes([len(sealed) % 256, place])
            found.append(head + value + sealed)
        found.append((56).to_bytes(2, "little") + bytes([1, place]) + pack_header(features, HistoryHeader(chunk=1)))
    return found


def _files() -> dict[str, list[bytes]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_bundle(folder / "bundle", names={"item_id": ["a", "b"]})
        texts = ["a", "bc", "é"]
        write_names(folder / "names", string_keys(texts), texts)
        write_hot_ids(folder / "hot", HotIds(users=np.arange(3), items=np.arange(2)))
        return {
            "manifest": [(folder / "bundle" / MANIFEST).read_bytes()],
            "names_file": [(folder / "names").read_bytes()],
            "hot_ids": [(folder / "hot").read_bytes()],
            "resamples": [resamples_bytes({"all": {"auc": np.arange(3, dtype=np.float32)}})],
            "request_log": [_request_log()],
        }


def _request_log() -> bytes:
    columns = {
        "time_ms": pa.array([_NOW_MS], pa.int64()),
        "user_key": pa.array([1], pa.int64()),
        "user.hour": pa.array([[3]], pa.list_(pa.int64())),
        "item.item_id": pa.array([[1, 2]], pa.list_(pa.int64())),
        "best": pa.array([[0]], pa.list_(pa.int32())),
    }
    table = pa.table(columns).replace_schema_metadata({"recsys.features": FEATURES.to_json()})
    content = io.BytesIO()
    pq.write_table(table, content, compression="none")
    return content.getvalue()
