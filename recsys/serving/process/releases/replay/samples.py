"""Sample requests of a release: of the hottest users and items that its bundle names, for want of recorded ones."""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.features.history.records import missing_events
from recsys.features.hot_ids import HOT_IDS, HotIds, read_hot_ids
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recorder import RecordedQuery, RecordedRequest
from recsys.serving.handlers.routes import LoadedRelease

_USERS = 8
_ITEMS = 100
_EVENTS = 50
_TOP_K = 10


def sample_requests(ranker: Ranker) -> list[RecordedRequest]:
    """Make requests without features: of each of a few users, once with a history of the hottest items."""
    hot = _hot_ids(ranker)
    history = ranker.features.history
    events = None
    if history is not None:
        events = missing_events(ranker.features, min(history.recent, _EVENTS, len(hot.items)))
        events["item"] = hot.items[: len(events)]
    return [
        RecordedRequest(
            user_key=user,
            user_columns={},
            values={},
            events=events if number % 2 else None,
            item_keys=hot.items,
            item_columns={},
        )
        for number, user in enumerate(hot.users.tolist())
    ]


def sample_queries(release: LoadedRelease) -> list[RecordedQuery]:
    """Make searches, of the users of :func:`sample_requests`."""
    users = _numbers(_USERS) if release.ranker is None else _hot_ids(release.ranker).users
    nothing = np.zeros(0, dtype=np.int64)
    return [RecordedQuery(user_key=user, taken=nothing, top_k=_TOP_K) for user in users.tolist()]


def _hot_ids(ranker: Ranker) -> HotIds:
    """The hottest ids of the bundle, or any."""
    users, items = _numbers(0), _numbers(0)
    file = ranker.session.bundle.path / HOT_IDS
    if file.exists():
        try:
            hot = read_hot_ids(file)
        except InvalidInputError:  # not what is looked at here
            pass
        else:
            users, items = hot.users[:_USERS], hot.items[:_ITEMS]
    return HotIds(
        users=users if len(users) else _numbers(_USERS),
        items=np.unique(items) if len(items) else _numbers(_ITEMS),
    )


def _numbers(count: int) -> Int64Array:
    return np.arange(count, dtype=np.int64)
