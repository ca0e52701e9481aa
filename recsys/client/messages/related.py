"""Messages of the service of what is near to given items: arguments to requests, responses to results."""

from __future__ import annotations

import numpy as np

from recsys.client.filters import Where
from recsys.client.messages.fields import found_ids, ids_field, ids_of, set_fields, timings_us
from recsys.client.messages.filters import filter_message, filter_report
from recsys.client.messages.ranker import degraded_parts, excluded
from recsys.client.types import Audience, Ids, SimilarItems, TrendingItems
from recsys.errors import InvalidInputError, nearest
from recsys.proto import related_pb2

_BY = {
    "": related_pb2.SIMILAR_BY_UNSPECIFIED,
    "vectors": related_pb2.SIMILAR_BY_VECTORS,
    "users": related_pb2.SIMILAR_BY_USERS,
}
_BY_NAMES = {number: name for name, number in _BY.items()}


def similar_request(
    items: Ids, top_k: int, exclude: Ids | None, model: str, timings: bool, where: Where | None, by: str
) -> related_pb2.SimilarRequest:
    """The message of ``Client.similar``.

    Raises:
        InvalidInputError: ``by`` is no such name, or an argument is none.
    """
    if by not in _BY:
        raise InvalidInputError(f"by is {by!r}: {nearest(str(by), filter(None, _BY))}")
    request = related_pb2.SimilarRequest(
        items=ids_field("items", items),
        exclude=excluded(exclude),
        timings=timings,
        filter=filter_message(where),
        by=_BY[by],
    )
    set_fields(request, top_k=top_k, model=model)
    return request


def similar_items(response: related_pb2.SimilarResponse, items: Ids) -> SimilarItems:
    """The result of ``Client.similar``."""
    seeds = list(items)
    return SimilarItems(
        items=found_ids(response.items),
        scores=np.array(response.scores, dtype=np.float32),
        unknown=[seeds[place] for place in response.unknown],
        model=response.model,
        model_version=response.model_version,
        release=response.release,
        timings_us=timings_us(response),
        degraded=degraded_parts(response),
        filter=filter_report(response),
        by=_BY_NAMES.get(response.by) or "vectors",  # a server of before knew no other
    )


def audience_request(items: Ids, top_k: int, at_least: int, model: str, timings: bool) -> related_pb2.AudienceRequest:
    """The message of ``Client.audience``."""
    request = related_pb2.AudienceRequest(items=ids_field("items", items), timings=timings)
    set_fields(request, top_k=top_k, at_least=at_least, model=model)
    return request


def audience(response: related_pb2.AudienceResponse, items: Ids) -> Audience:
    """The result of ``Client.audience``."""
    seeds = list(items)
    return Audience(
        users=ids_of(response.users, {}),
        shared=np.array(response.shared, dtype=np.int64),
        of=np.array(response.of, dtype=np.int64),
        total=response.total,
        unknown=[seeds[place] for place in response.unknown],
        model=response.model,
        model_version=response.model_version,
        release=response.release,
        timings_us=timings_us(response),
    )


def trending_request(
    top_k: int, exclude: Ids | None, timings: bool, where: Where | None
) -> related_pb2.TrendingRequest:
    """The message of ``Client.trending``."""
    request = related_pb2.TrendingRequest(
        exclude=excluded(exclude),
        timings=timings,
        filter=filter_message(where),
    )
    set_fields(request, top_k=top_k)
    return request


def trending_items(response: related_pb2.TrendingResponse) -> TrendingItems:
    """The result of ``Client.trending``."""
    return TrendingItems(
        items=found_ids(response.items),
        scores=np.array(response.scores, dtype=np.float32),
        as_of_ms=response.as_of_ms,
        half_life_s=response.half_life_s,
        window_s=response.window_s,
        stale=response.stale,
        timings_us=timings_us(response),
        degraded=(("counts",) if response.stale else ()) + degraded_parts(response),
        filter=filter_report(response),
    )
