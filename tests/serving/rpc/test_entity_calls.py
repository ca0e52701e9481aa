"""PutEntities and GetFeatures, through gRPC, on a real store."""

from __future__ import annotations

import re

import numpy as np
import pytest
import redis
from support.tiny_bundle import FEATURES, reference_scores
from support.tiny_server import Start, stalled

from recsys.client import AsyncClient, DeadlineExceeded, InvalidArgument, Unavailable
from recsys.errors import InvalidInputError
from recsys.feature_store.redis.keys import entity_key
from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.features.hashing import string_key
from recsys.proto.feature_store_pb2 import FeatureColumn, GetFeaturesRequest, PutEntitiesRequest
from recsys.proto.ranker_pb2 import Ids
from recsys.serving.rpc.convert import entities as convert_entities


async def test_what_was_put_comes_back_with_what_is_missing_marked(client: AsyncClient) -> None:
    features = {"rating": [4.5, None, 3], "city": [None, 7, -7], "brands": [[1, 2], [], [3]]}
    await client.put_entities(entity="shop", ids=["a", "b", "c"], features=features)
    stored = await client.get_features(entity="shop", ids=["c", "a", "nowhere", "b", "c"])
    assert stored.ids == ["c", "a", "nowhere", "b", "c"]
    assert stored.columns["rating"].tolist() == [3.0, 4.5, 2.5, 2.5, 3.0], "2.5 is the feature's default"
    assert stored.columns["city"].tolist() == [string_key("-7"), -1, -1, 7, string_key("-7")]
    assert stored.columns["brands"].tolist() == [[3, -1], [1, 2], [-1, -1], [-1, -1], [3, -1]]
    assert [stored.columns[n].dtype for n in ("rating", "city", "brands")] == [np.float32, np.int64, np.int64]


async def test_a_ranking_sees_what_was_put(client: AsyncClient) -> None:
    before = await client.rank(user=1, candidates=[10, 11])
    await client.put_entities(entity="user", ids=[1], features={"age": [1.5], "tags": [["new", "vip"]]})
    await client.put_entities(entity="item", ids=np.array([10, 11]), features={"price": np.array([4.0, 8.0])})
    ranking = await client.rank(user=1, candidates=[10, 11])
    expected = reference_scores(events=[], candidates=[10, 11], age=1.5, prices=[4.0, 8.0])
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-6)
    assert not np.allclose(before.scores, ranking.scores)
    tags = (await client.get_features(entity="user", ids=[1])).columns["tags"]
    assert tags.tolist() == [["new", "vip"]]


async def test_a_put_replaces_all_that_an_entity_had(client: AsyncClient) -> None:
    await client.put_entities(entity="user", ids=[1], features={"age": [30], "tags": [["a", "b"]]})
    await client.put_entities(entity="user", ids=[1, 1], features={"age": [40, 50]})
    columns = (await client.get_features(entity="user", ids=[1])).columns
    assert columns["age"].tolist() == [50.0], "of equal ids the last counts"
    assert columns["tags"].tolist() == [[]], "padded to the longest, and that has none"


async def test_ten_thousand_entities_go_in_one_call(client: AsyncClient) -> None:
    ids, prices = np.arange(10_000), np.arange(10_000) / 4
    await client.put_entities(entity="item", ids=ids, features={"price": prices})
    np.testing.assert_array_equal((await client.get_features(entity="item", ids=ids)).columns["price"], prices)


SHOPS = ["a", "b"]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"entity": "shpo"}, "entity is 'shpo': did you mean 'shop'? valid: item, shop, user"),
        ({"entity": ""}, "entity is '': valid: item, shop, user"),
        ({"ids": Ids()}, "ids: got 0; allowed: 1 to 10,000 per request"),
        ({"ids": Ids(texts=["a"] * 10_001)}, "ids: got 10,001; allowed: 1 to 10,000 per request"),
        (
            {"ids": Ids(integers=[1])},
            "ids[0]: 'shop_id' is 1; allowed: text of up to 4,096 bytes of UTF-8; a number is none: quote it, or "
            "declare id_type int; fill ids.texts",
        ),
        ({"ids": Ids(texts=["a", ""])}, "ids[1] is -1 or the empty text, which stand for no value; send an id"),
        (
            {"features": {"citty": FeatureColumn(integers=[1, 2])}},
            "features['citty'] is not declared for entity 'shop': did you mean 'city'? valid: brands, city, rating",
        ),
        (
            {"features": {"city": FeatureColumn(texts=["x", "y"])}},
            "features['city'][0]: 'city' is 'x'; allowed: a 64-bit integer",
        ),
        (
            {"features": {"rating": FeatureColumn(numbers=[1.0], integers=[1])}},
            "features['rating']: integers and numbers are filled; allowed: one of them",
        ),
        (
            {"features": {"city": FeatureColumn(integers=[1])}},
            "features['city']: got 1 values for 2 ids; allowed: one per id, or fill features['city'].lengths",
        ),
        (
            {"features": {"city": FeatureColumn(integers=[1], lengths=[1])}},
            "features['city'].lengths: got 1 for 2 ids; allowed: one per id",
        ),
        (
            {"features": {"brands": FeatureColumn(integers=[1, 2, 3], lengths=[0, 3])}},
            "features['brands']: entity 1 has 3 ids; allowed: at most 2",
        ),
        (
            {"features": {"rating": FeatureColumn(numbers=[1, 2], lengths=[2, 0])}},
            "features['rating'].lengths[0] is 2; allowed: 0 to 1",
        ),
        (
            {"features": {"brands": FeatureColumn(integers=[1, 2, 3], lengths=[2, 0])}},
            "features['brands'].lengths: they add up to 2, but 3 values arrived; allowed: their number",
        ),
        (
            {"features": {"rating": FeatureColumn(numbers=[1, np.inf])}},
            "features['rating'][1]: 'rating' is inf; allowed: a finite float32 number",
        ),
    ],
)
def test_a_wrong_put_is_refused(message: dict[str, object], complaint: str) -> None:
    fields = {"entity": "shop", "ids": Ids(texts=SHOPS), **message}
    with pytest.raises(InvalidInputError, match=f"^{re.escape(complaint)}$"):
        convert_entities.put_request(PutEntitiesRequest(**fields), FEATURES)  # type: ignore[arg-type]


def test_missing_numbers_and_ids_are_put_as_missing_and_left_out_of_lists() -> None:
    features = {
        "rating": FeatureColumn(numbers=[np.nan, 3.0]),
        "city": FeatureColumn(integers=[-1, 7]),
        "brands": FeatureColumn(integers=[-1, 5, -1, 6, -1], lengths=[2, 3]),
    }
    message = PutEntitiesRequest(entity="shop", ids=Ids(texts=SHOPS), features=features)
    _, _, columns = convert_entities.put_request(message, FEATURES)
    assert columns["rating"].tolist() == [2.5, 3.0], "2.5 is the feature's default"
    assert columns["city"].tolist() == [-1, 7]
    assert columns["brands"].tolist() == [[5, -1], [6, -1]]


def test_an_entity_without_features_is_neither_put_nor_read() -> None:
    bare = FeatureSet(
        name="bare", user_id=Categorical(name="u"), item_id=Categorical(name="i"), user=(Numeric(name="age"),)
    )
    problem = "^entity is 'item', which has no features in FeatureSet 'bare'; allowed: one that has$"
    with pytest.raises(InvalidInputError, match=problem):
        convert_entities.put_request(PutEntitiesRequest(entity="item", ids=Ids(integers=[1])), bare)
    with pytest.raises(InvalidInputError, match=problem):
        convert_entities.features_request(GetFeaturesRequest(entity="item", ids=Ids(integers=[1])), bare)


async def test_the_server_goes_on_after_a_wrong_call(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument, match="entity is 'shpo': did you mean 'shop'"):
        await client.put_entities(entity="shpo", ids=["a"], features={})
    with pytest.raises(InvalidArgument, match=r"ids\[0\]: 'shop_id' is 1; allowed: text"):
        await client.get_features(entity="shop", ids=[1])
    with pytest.raises(InvalidArgument, match=r"features\['city'\]\[0\]: 'city' is 1.5; allowed: a 64-bit integer"):
        await client.put_entities(entity="shop", ids=["a"], features={"city": [1.5]})
    await client.put_entities(entity="shop", ids=["a"], features={"city": [1]})
    assert (await client.get_features(entity="shop", ids=["a"])).columns["city"].tolist() == [1]


async def test_a_long_value_is_not_quoted_but_told_by_its_length(client: AsyncClient) -> None:
    for text, size in (("x" * 100_000, "100,000"), ("é" * 100_000, "200,000")):
        with pytest.raises(InvalidArgument, match=f"entity: got {size} bytes; allowed: up to 256$"):
            await client.get_features(entity=text, ids=[1])


async def test_foreign_bytes_under_an_entitys_key_are_reported(client: AsyncClient, redis_admin: redis.Redis) -> None:
    redis_admin.set(entity_key("tiny", "item", 7), b"someone else's")
    found = await client.get_features(entity="item", ids=[7])
    assert re.fullmatch(r"recsys:v1:\{tiny:item:7\}:7 row 0: not an entity row: .*", found.damaged[0])


async def test_a_store_that_does_not_answer_is_unavailable(start: Start, redis_admin: redis.Redis) -> None:
    async with start() as client:
        with stalled(redis_admin):
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await client.put_entities(entity="user", ids=[1], features={"age": [1]}, timeout_s=0.3)
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await client.get_features(entity="user", ids=[1], timeout_s=0.3)
