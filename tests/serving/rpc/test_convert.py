"""Messages are checked at the edge: each complaint names the field, what arrived, what is allowed."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import FEATURES

from recsys.client.messages import ranker
from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import MISSING, integer_key, string_key
from recsys.proto.feature_store_pb2 import AppendEventsRequest, EventColumns
from recsys.proto.ranker_pb2 import Degradation, FeatureValue, Id, Ids, RankRequest, RankResponse
from recsys.serving.handlers.ranker import RankResult
from recsys.serving.rpc.convert import events as convert_events
from recsys.serving.rpc.convert import rank as convert
from recsys.serving.rpc.convert.answers import degraded_parts
from recsys.serving.telemetry.families import DEGRADED_PARTS

TEXTS = FeatureSet(
    name="texts",
    user_id=Categorical(name="user_id", id_type="string"),
    item_id=Categorical(name="item_id", id_type="string"),
    history=History(attributes=(Categorical(name="genre", id_type="string"),)),
)
USER = Id(integer=1)
NOW_MS = time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"candidates": Ids(integers=[1])}, "user: no id was sent; set user.integer"),
        ({"user": Id(text="a")}, "user.text: 'user_id' is 'a'; allowed: a 64-bit integer; set user.integer"),
        ({"candidates": Ids()}, "candidates: got 0; allowed: 1 to 5 per request"),
        ({"candidates": Ids(integers=range(6))}, "candidates: got 6; allowed: 1 to 5 per request"),
        (
            {"candidates": Ids(texts=["a", "b"])},
            "candidates[0]: 'item_id' is 'a'; allowed: a 64-bit integer; fill candidates.integers",
        ),
        (
            {"candidates": Ids(integers=[1], texts=["a"])},
            "candidates: got 1 integers and 1 texts; 'item_id' takes int ids: fill candidates.integers only",
        ),
        (
            {"features": {"age": FeatureValue(integers=[1], numbers=[1.0])}},
            "features['age']: integers and numbers are filled; allowed: one of them",
        ),
    ],
)
def test_a_wrong_rank_request_is_refused(message: dict[str, Any], complaint: str) -> None:
    fields = {"user": USER, "candidates": Ids(integers=[1]), **message}
    if complaint.startswith("user: no id"):
        del fields["user"]
    with pytest.raises(InvalidInputError, match=f"^{re.escape(complaint)}$"):
        convert.rank_request(RankRequest(**fields), FEATURES, max_candidates=5)


def test_string_ids_are_wanted_where_strings_are_declared() -> None:
    candidates = Ids(texts=["x", "y"])
    request = convert.rank_request(RankRequest(user=Id(text="u"), candidates=candidates), TEXTS, max_candidates=5)
    assert request.user_key == string_key("u")
    assert request.candidate_keys.tolist() == [string_key("x"), string_key("y")]
    with pytest.raises(InvalidInputError, match="user.integer: 'user_id' is 1; allowed: text .*; set user.text"):
        convert.rank_request(RankRequest(user=USER, candidates=candidates), TEXTS, max_candidates=5)
    with pytest.raises(
        InvalidInputError, match="user.text is -1 or the empty text, which stand for no value; send an id"
    ):
        convert.rank_request(RankRequest(user=Id(text=""), candidates=candidates), TEXTS, max_candidates=5)
    with pytest.raises(InvalidInputError, match=r"candidates\[0\]: 'item_id' is 1; allowed: text .*fill candid"):
        convert.rank_request(RankRequest(user=Id(text="u"), candidates=Ids(integers=[1])), TEXTS, max_candidates=5)


def test_any_integer_is_an_id() -> None:
    ids = [0, -7, 2**62 - 1, 2**62, 2**63 - 1, -(2**63)]
    message = RankRequest(user=Id(integer=-7), candidates=Ids(integers=ids))
    request = convert.rank_request(message, FEATURES, max_candidates=10)
    assert request.user_key == integer_key(-7)
    assert request.candidate_keys.tolist() == [integer_key(i) for i in ids]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"items": Ids()}, "events.items: got 0 events; allowed: 1 to 10,000 per call"),
        ({"items": Ids(integers=range(10_001))}, "events.items: got 10,001 events; allowed: 1 to 10,000 per call"),
        ({"items": Ids(texts=["a"])}, "events.items[0]: 'item_id' is 'a'; allowed: a 64-bit integer"),
        ({"timestamps_ms": []}, "events.timestamps_ms: got 0 values for 1 events; allowed: one per event"),
        ({"timestamps_ms": [NOW_MS] * 2}, "events.timestamps_ms: got 2 values for 1 events"),
        ({"timestamps_ms": [-1]}, "events.timestamps_ms[0]: 'timestamp_ms' is -1; allowed: times from 1973-03-03"),
        (
            {"timestamps_ms": [1_700_000_000]},
            "events.timestamps_ms[0]: 'timestamp_ms' is 1700000000; allowed: times",
        ),
        pytest.param(
            {"timestamps_ms": [NOW_MS * 1000]},
            f"events.timestamps_ms[0]: 'timestamp_ms' is {NOW_MS * 1000}",
            id="microseconds",
        ),
        pytest.param(
            {"timestamps_ms": [NOW_MS + 86_400_000]},
            f"events.timestamps_ms[0]: 'timestamp_ms' is {NOW_MS + 86_400_000}; allowed: ",
            id="a day ahead",
        ),
        ({"arrivals_ms": [NOW_MS, NOW_MS]}, "events.arrivals_ms: got 2 values for 1 events"),
        ({"arrivals_ms": [5]}, "events.arrivals_ms[0]: 'arrival_ms' is 5; allowed: times from"),
        (
            {"attributes": {"ratig": Ids(integers=[1])}},
            "events.attributes['ratig'] is not declared: did you mean 'rating'? valid: rating",
        ),
        ({"attributes": {"rating": Ids(integers=[1, 2])}}, "events.attributes['rating']: got 2 values for 1 events"),
        (
            {"attributes": {"rating": Ids(texts=["a"])}},
            "events.attributes['rating'][0]: 'rating' is 'a'; allowed: a 64-bit integer",
        ),
        (
            {"attributes": {"rating": Ids(integers=[255])}},
            "events.attributes['rating'][0]: 'rating' is 255; allowed: 0 to 254, which is",
        ),
    ],
)
def test_wrong_events_are_refused(columns: dict[str, Any], complaint: str) -> None:
    fields = {"items": Ids(integers=[1]), "timestamps_ms": [NOW_MS], **columns}
    message = AppendEventsRequest(user=USER, events=EventColumns(**fields))
    with pytest.raises(InvalidInputError, match=f"^{re.escape(complaint)}"):
        convert_events.append_request(message, FEATURES, future_tolerance_s=300)


def test_times_far_in_the_future_are_explained_by_their_unit() -> None:
    now_ms = int(time.time() * 1000)
    for time_ms, explained in ((now_ms * 1000, True), (now_ms + 400_000, False)):
        events = EventColumns(items=Ids(integers=[1]), timestamps_ms=[time_ms])
        with pytest.raises(InvalidInputError, match="allowed: times from 1973-.* to 20") as caught:
            convert_events.append_request(
                AppendEventsRequest(user=USER, events=events), FEATURES, future_tolerance_s=300
            )
        assert ("is it in microseconds?" in str(caught.value)) == explained


def test_minus_one_and_the_empty_text_are_missing_attributes() -> None:
    columns = EventColumns(
        items=Ids(integers=[1, 2]), timestamps_ms=[NOW_MS, NOW_MS], attributes={"rating": Ids(integers=[-1, 4])}
    )
    message = AppendEventsRequest(user=USER, events=columns)
    events = convert_events.append_request(message, FEATURES, future_tolerance_s=300).events
    assert events["rating"].tolist() == [255, 4]
    columns = EventColumns(
        items=Ids(texts=["a", "b"]), timestamps_ms=[NOW_MS] * 2, attributes={"genre": Ids(texts=["", "war"])}
    )
    message = AppendEventsRequest(user=Id(text="u"), events=columns)
    append = convert_events.append_request(message, TEXTS, future_tolerance_s=300)
    assert append.user_key == string_key("u")
    assert append.events["genre"].tolist() == [MISSING, string_key("war")]
    np.testing.assert_array_equal(append.events["item"], [string_key("a"), string_key("b")])


def test_a_feature_set_without_history_takes_no_events() -> None:
    features = FeatureSet(
        name="none", user_id=Categorical(name="user_id"), item_id=Categorical(name="item_id"), history=None
    )
    events = EventColumns(items=Ids(integers=[1]), timestamps_ms=[NOW_MS])
    with pytest.raises(InvalidInputError, match="FeatureSet 'none' declares no history"):
        convert_events.append_request(AppendEventsRequest(user=USER, events=events), features, future_tolerance_s=300)


def test_a_user_a_candidate_or_an_item_cannot_be_the_missing_value() -> None:
    problem = "-1 or the empty text, which stand for no value; send an id"
    rank = RankRequest(user=USER, candidates=Ids(integers=[3, -1]))
    with pytest.raises(InvalidInputError, match=rf"^candidates\[1\] is {problem}"):
        convert.rank_request(rank, FEATURES, max_candidates=5)
    rank = RankRequest(user=Id(integer=-1), candidates=Ids(integers=[3]))
    with pytest.raises(InvalidInputError, match=f"^user.integer is {problem}"):
        convert.rank_request(rank, FEATURES, max_candidates=5)
    events = EventColumns(items=Ids(integers=[4, -1]), timestamps_ms=[NOW_MS] * 2)
    with pytest.raises(InvalidInputError, match=r"^events\.items\[1\]: 'item_id' is missing"):
        convert_events.append_request(AppendEventsRequest(user=USER, events=events), FEATURES, future_tolerance_s=300)


@pytest.mark.parametrize("part", DEGRADED_PARTS)
def test_a_degradation_has_one_name_in_the_result_the_metric_and_the_client(part: str) -> None:
    result = RankResult(
        scores=np.zeros(1, dtype=np.float32), positions=None, model="m", model_version="1", release="r",
        history_events=0,
        **{f"{part}_degraded": True},
    )  # fmt: skip
    request = convert.rank_request(RankRequest(user=USER, candidates=Ids(integers=[1])), FEATURES, max_candidates=5)
    assert degraded_parts(result) == [part]
    assert ranker.ranking(convert.rank_response(result, request), [1]).degraded == (part,)


def test_every_degradation_of_the_proto_has_a_name_and_a_counter() -> None:
    values = set(Degradation.values()) - {Degradation.DEGRADATION_UNSPECIFIED}
    answers = [ranker.ranking(RankResponse(degraded=[value]), []).degraded for value in values]
    assert sorted(answers) == sorted((part,) for part in DEGRADED_PARTS)
