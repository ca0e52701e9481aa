"""Targets: a function of bytes for each decoder. It returns for what is valid and for what is refused by name.

Anything else that it raises is a defect; so is an answer that no model or caller could do with.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError
from support.tiny_bundle import FEATURES

from fuzz import access
from recsys.bundle.evaluation import read_resamples
from recsys.bundle.manifest import MANIFEST, digest_of
from recsys.bundle.open import read_manifest
from recsys.data.log.requests.read import RequestReader, count_requests
from recsys.errors import InvalidInputError, RecsysError, StoreFormatError
from recsys.feature_store.redis.keys import check_layout, history_keys, layouts, meta_key
from recsys.feature_store.redis.link.replies import texts_of
from recsys.feature_store.redis.link.url import parse_redis_url
from recsys.feature_store.redis.link.wire import Replies
from recsys.feature_store.redis.names import text_of
from recsys.feature_store.redis.values.history import HistoryValue, Part
from recsys.feature_store.redis.values.state import unpack_state
from recsys.features.columns import Column, missing_column
from recsys.features.encode import encode_request
from recsys.features.entities import entity_dtype, row_header, unpack_readable
from recsys.features.feature_set import Categorical, Feature, FeatureSet, History, Numeric
from recsys.features.hashing import KEY_LIMIT, MISSING, string_key
from recsys.features.history.records import HEADER, encode_history
from recsys.features.hot_ids import read_hot_ids
from recsys.features.names import open_names
from recsys.proto import feature_store_pb2 as store_pb
from recsys.proto import ranker_pb2 as ranker_pb
from recsys.proto import related_pb2 as related_pb
from recsys.releases.release import RELEASE, RELEASES, STATUS, open_release
from recsys.releases.served import parse_served
from recsys.releases.status import read_statuses
from recsys.rows.contract import impression_rows
from recsys.rows.encode import Told
from recsys.rows.files import raw_file
from recsys.rows.text import parse_json
from recsys.serving.rpc.bounds import check_bounds
from recsys.serving.rpc.convert import entities, events, explain, rank, related, retrieval
from recsys.serving.settings import read_settings

TEXTS = replace(
    FEATURES,
    name="texts",
    user_id=Categorical(name="user_id", id_type="string"),
    item_id=Categorical(name="item_id", id_type="string"),
    item=(
        Numeric(name="price", default=0.0, filterable=True),
        Categorical(name="brand", id_type="string", filterable=True),
    ),
    history=History(
        attributes=(Categorical(name="rating", storage="i32"), Categorical(name="tag", id_type="string")),
        max_events=20,
        recent=4,
    ),
)
BOTH = (FEATURES, TEXTS)
VERSION, ROWS, WIDTH = "0123456789abcdef", 2, 2
RELEASE_NAME = "a"
CANDIDATES = 100


def _rank(message: Any, features: FeatureSet) -> None:
    request = rank.rank_request(message, features, max_candidates=CANDIDATES)
    encoded = encode_request(
        features,
        user_key=request.user_key,
        user_columns={},
        request_values=request.features,
        events=None,
        item_keys=request.candidate_keys,
        item_columns={},
    )
    assert all(np.isfinite(c).all() for c in encoded.user.values() if c.dtype.kind == "f")
    _check_keys(*(c for c in (*encoded.user.values(), *encoded.candidates.values()) if c.dtype.kind == "i"))


def _rank_batch(message: Any, features: FeatureSet) -> None:
    rank.check_batch(message)
    rank.batch_requests(message, [features] * len(message.requests), max_candidates=CANDIDATES)


def _recommend(message: Any, features: FeatureSet) -> None:
    retrieval.recommend_query(message, features, max_candidates=CANDIDATES)


def _put(message: Any, features: FeatureSet) -> None:
    entity, keys, columns = entities.put_request(message, features)
    texts = entities.put_texts(message, features)
    assert all(len(column) == len(keys) for column in columns.values())
    assert all(string_key(text) == key for key, text in texts.items())
    _check_columns(features.entity(entity).features, columns)


def _append(message: Any, features: FeatureSet) -> None:
    append = events.append_request(message, features, future_tolerance_s=300)
    _check_keys(append.events["item"])


REQUESTS: tuple[tuple[Any, Callable[[Any, FeatureSet], Any]], ...] = (
    (ranker_pb.RankRequest, _rank),
    (ranker_pb.RankBatchRequest, _rank_batch),
    (ranker_pb.RetrieveRequest, retrieval.retrieve_query),
    (ranker_pb.RecommendRequest, _recommend),
    (store_pb.AppendEventsRequest, _append),
    (store_pb.PutEntitiesRequest, _put),
    (store_pb.GetFeaturesRequest, entities.features_request),
    (store_pb.GetHistoryRequest, events.history_request),
    (store_pb.GetHistoriesRequest, events.histories_request),
    (ranker_pb.ExplainRequest, explain.explain_query),
    (related_pb.SimilarRequest, related.similar_query),
    (related_pb.TrendingRequest, related.trending_query),
    (store_pb.WithdrawItemsRequest, entities.withdraw_request),
    (related_pb.AudienceRequest, related.audience_query),
)
"""To add one: at the end, as the corpus names them by their places; up to 16."""


def requests(data: bytes) -> None:
    """A message of a service, of the method and the FeatureSet that the first byte says."""
    if not data:
        return
    kind, convert = REQUESTS[data[0] % 16 % len(REQUESTS)]
    with contextlib.suppress(InvalidInputError, DecodeError):
        message = kind.FromString(data[1:])
        check_bounds(message)
        convert(message, BOTH[data[0] // 16 % 2])


def rows(data: bytes) -> None:
    """Entity rows: each as long as the byte before it, of the entity that the first byte says."""
    if not data:
        return
    entity = FEATURES.entity(("user", "item", "shop")[data[0] % 3])
    found, start = list[bytes | None](), 1
    while start < len(data):
        length, begin = data[start], start + 1
        found.append(data[begin : begin + length] if length else None)
        start = begin + length
    columns, damaged = unpack_readable(entity.features, found, names=[f"key {n}" for n in range(len(found))])
    assert all(f"key {place} " in str(error) for place, error in damaged.items())
    _check_columns(entity.features, columns)


@lru_cache
def _value(place: int) -> HistoryValue:
    return HistoryValue(BOTH[place])


def history(data: bytes) -> None:
    """A user's open part; what follows the length in the first two bytes are chunks, of the length in the third."""
    if len(data) < 4:
        return
    place, open_bytes, chunk_bytes = data[3] % 2, int.from_bytes(data[:2], "little") % 4096, data[2] or 1
    body = data[4:]
    value, sealed = body[:open_bytes], body[open_bytes:]
    chunks = [sealed[i : i + chunk_bytes] for i in range(0, len(sealed), chunk_bytes)]
    parser, keys, features = _value(place), history_keys("fuzz", 1), BOTH[place]
    read: list[Part | None] = []
    for limit in (0, 3, 1 << 40):
        with contextlib.suppress(StoreFormatError):
            read.append(parser.parse_whole(keys, value[: HEADER.size], chunks, len(chunks), value, limit))
        if limit <= parser.chunk:
            first, last, _ = parser.open_commands(keys, limit)
            tail = value[max(len(value) + int(last[2]), 0) :]
            with contextlib.suppress(StoreFormatError):
                read.append(parser.parse_open(keys, value[: HEADER.size], tail, len(chunks), limit))
    for part in read:
        if part is not None and part.enough:
            _check_keys(part.events["item"])
            assert (np.diff(part.events["timestamp"]) >= 0).all()
            seen = parser.visible(part.events, 1_700_000_000_000)
            _check_keys(*encode_history(features, seen).values())
    with contextlib.suppress(StoreFormatError):
        parser.parse_span(keys, parser.none.header, 0, 0, [value[: HEADER.size], value[: HEADER.size]])
    parser.append_error(keys, value[: HEADER.size])
    parser.upgrade_arguments(value[: HEADER.size])


def state(data: bytes) -> None:
    """A user's state."""
    with contextlib.suppress(StoreFormatError):
        found = unpack_state(data, version=VERSION, rows=ROWS, width=WIDTH)
        assert found.sums.shape == (ROWS, WIDTH)


def name(data: bytes) -> None:
    """The text of a key."""
    found = text_of(string_key("a"), data)
    assert found in (None, "a")


def layout(data: bytes) -> None:
    """The record of a store's layouts: fields and values, a zero byte between them."""
    parts = data.split(b"\0")
    with contextlib.suppress(StoreFormatError):
        found = texts_of(meta_key("tiny"), parts[: len(parts) // 2 * 2])
        for part, declared in layouts(FEATURES).items():
            if part in found:
                check_layout("tiny", part, found[part], declared)


def redis_replies(data: bytes) -> None:
    """Bytes of Redis, as they come over a connection."""
    replies = Replies()
    replies.expect(3)
    with contextlib.suppress(RedisError):
        if replies.feed(data):
            replies.take()


def redis_url(data: bytes) -> None:
    """A URL of a Redis."""
    with contextlib.suppress(RecsysError, UnicodeDecodeError):
        parse_redis_url(data.decode())


def manifest(data: bytes) -> None:
    """A bundle's ``manifest.json``: as it is, and with the digest that its values have."""
    with _folder() as folder:
        file = folder / MANIFEST
        for content in (data, _with_digest(data)):
            file.write_bytes(content)
            with contextlib.suppress(RecsysError):
                read_manifest(folder)


def names_file(data: bytes) -> None:
    """A bundle's names of ids."""
    with _folder() as folder:
        file = folder / "names"
        file.write_bytes(data)
        with contextlib.suppress(RecsysError):
            names = open_names(file)
            names.find(np.array([0, 5, string_key("a"), KEY_LIMIT - 1, *names.keys_R[:100].tolist()]))


def hot_ids(data: bytes) -> None:
    """A bundle's hot ids."""
    with _folder() as folder:
        (folder / "hot").write_bytes(data)
        with contextlib.suppress(RecsysError):
            found = read_hot_ids(folder / "hot")
            _check_keys(found.users, found.items)


def resamples(data: bytes) -> None:
    """A bundle's resampled metrics."""
    with _folder() as folder:
        (folder / "resamples").write_bytes(data)
        with contextlib.suppress(RecsysError):
            read_resamples(folder / "resamples")


def release(data: bytes) -> None:
    """``release.json``."""
    with _folder() as folder:
        file = folder / RELEASES / RELEASE_NAME / RELEASE
        file.parent.mkdir(parents=True)
        for content in (data, _with(data, name=RELEASE_NAME)):
            file.write_bytes(content)
            with contextlib.suppress(RecsysError):
                assert open_release(folder, RELEASE_NAME).release.model is not None


def served(data: bytes) -> None:
    """``served.json``."""
    with contextlib.suppress(RecsysError, UnicodeDecodeError):
        assert parse_served(data.decode(), where="served.json").releases()


def status(data: bytes) -> None:
    """The status of a server."""
    with _folder() as folder:
        (folder / STATUS).mkdir()
        (folder / STATUS / "a.json").write_bytes(data)
        found, damaged = read_statuses(folder)
        assert len(found) + len(damaged) == 1


def request_log(data: bytes) -> None:
    """A file of a request log."""
    with _folder() as folder:
        (folder / "a.parquet").write_bytes(data)
        file = raw_file(folder / "a.parquet")
        with contextlib.suppress(RecsysError):
            count_requests([file], FEATURES)
        with contextlib.suppress(RecsysError):
            reader = RequestReader(features=FEATURES, contract=impression_rows(FEATURES))
            for columns, _ in reader.read(file, Told(rejected=lambda rejection: None)):
                assert len({len(column) for column in columns.values()}) == 1


def json_row(data: bytes) -> None:
    """A row of JSON lines."""
    with contextlib.suppress(InvalidInputError):
        parse_json(data)


def settings(data: bytes) -> None:
    """Settings of the environment: a variable and its value in a line."""
    lines = [line.partition("=") for line in data.decode(errors="replace").split("\n")]
    with contextlib.suppress(RecsysError):
        read_settings({variable: value for variable, _, value in lines})


def feature_set(data: bytes) -> None:
    """A FeatureSet in JSON."""
    with contextlib.suppress(InvalidInputError):
        text = data.decode(errors="replace")
        found = FeatureSet.from_json(text)
        assert FeatureSet.from_json(found.to_json()) == found


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        requests,
        rows,
        history,
        state,
        name,
        layout,
        redis_replies,
        redis_url,
        manifest,
        names_file,
        hot_ids,
        resamples,
        release,
        served,
        status,
        request_log,
        json_row,
        settings,
        feature_set,
        *access.TARGETS,
    )
}


def packed_rows(entity: int, *found: bytes) -> bytes:
    """Input of :func:`rows`."""
    return bytes([entity]) + b"".join(bytes([len(row)]) + row for row in found)


def empty_row(features: tuple[Feature, ...]) -> bytes:
    """A row of zeros."""
    return row_header(features) + bytes(entity_dtype(features).itemsize - 8)


def _check_keys(*columns: Column) -> None:
    for column in columns:
        assert column.dtype == np.int64
        assert not column.size or (column.min() >= MISSING and column.max() < KEY_LIMIT)


def _check_columns(features: tuple[Feature, ...], columns: Any) -> None:
    for feature in features:
        column = columns[feature.name]
        assert column.shape[1:] == missing_column(feature, 1).shape[1:]
        if isinstance(feature, Categorical):
            _check_keys(column)
        else:
            assert not np.isinf(column).any()


def _with(data: bytes, **values: Any) -> bytes:
    """JSON with other values; as it is, if it is none."""
    try:
        return json.dumps({**json.loads(data), **values}).encode()
    except (ValueError, TypeError, RecursionError):
        return data


def _with_digest(data: bytes) -> bytes:
    try:
        return _with(data, manifest_sha256=digest_of(json.loads(data)))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return data


@contextlib.contextmanager
def _folder() -> Any:
    """A folder in memory, where there is one."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)
