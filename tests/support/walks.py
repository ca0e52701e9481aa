"""Users who walk through the items in order, so that the next item is told by the newest one alone."""

from __future__ import annotations

import numpy as np

from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric

USERS, ITEMS, STEPS, GROUP = 90, 60, 10, 5
"""Items 0 to ITEMS - 1 stand in a circle; beside them there is a new one of each group of five, without an event."""

ALL_ITEMS = ITEMS + ITEMS // GROUP

FEATURES = FeatureSet(
    name="walks",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Numeric(name="age"), Categorical(name="country")),
    item=(Categorical(name="group"), Categorical(name="tags", max_values=2, table="group"), Numeric(name="price")),
    history=History(attributes=(Categorical(name="group"), Categorical(name="action", storage="u8")), recent=20),
)


def walks(seed: int = 0) -> Interactions:
    """Each user takes items one after another, one or two further along the circle; the last is for test, the one
    before for validation."""
    random = np.random.default_rng(seed)
    start_N, stride_NS = random.integers(0, ITEMS, (USERS, 1)), random.choice([1, 2], (USERS, STEPS), p=[0.8, 0.2])
    item_NS = (start_N + np.cumsum(stride_NS, axis=1)) % ITEMS
    user_NS = np.repeat(np.arange(USERS)[:, None], STEPS, axis=1)
    time_NS = 1_700_000_000_000 + 3_600_000 * np.cumsum(random.integers(1, 50, (USERS, STEPS)), axis=1)
    group_M = np.append(np.arange(ITEMS) // GROUP, np.arange(ITEMS // GROUP))

    def before(steps: int) -> UserEvents:
        items = item_NS[:, :steps].ravel()
        return UserEvents(
            user_E=user_NS[:, :steps].ravel(),
            item_E=items,
            time_ms_E=time_NS[:, :steps].ravel(),
            attributes={"group": group_M[items], "action": (items % 3).astype(np.int64)},
        )

    def pairs(steps: slice):  # type: ignore[no-untyped-def]
        users, items, times = (of[:, steps].ravel() for of in (user_NS, item_NS, time_NS))
        return make_pairs(users, items, time_ms_E=times)

    return Interactions(
        num_users=USERS,
        num_items=ALL_ITEMS,
        train=pairs(slice(0, STEPS - 2)),
        validation=pairs(slice(STEPS - 2, STEPS - 1)),
        test=pairs(slice(STEPS - 1, STEPS)),
        source="walks",
        ids=PairIds(features=FEATURES, user_keys_N=1000 + np.arange(USERS), item_keys_M=7 * np.arange(ALL_ITEMS) + 3),
        histories={"validation": before(STEPS - 2), "test": before(STEPS - 1)},
        user_columns={"age": random.normal(40, 9, USERS).astype(np.float32), "country": random.integers(0, 3, USERS)},
        item_columns={
            "group": group_M,
            "tags": np.stack([group_M, np.full(ALL_ITEMS, -1)], axis=1),
            "price": np.where(np.arange(ALL_ITEMS) % 4 == 0, np.nan, 9.0).astype(np.float32),
        },
    )
