"""Events of a log as the histories of users at the moment that a part of the data begins: what a store would hold then.

Legend: ``N`` users, ``E`` events, ``S`` events of one user, ``L`` events of the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.data.samples.dataset import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class UserEvents:
    """Events of all users, those of a user together and oldest first.

    Attributes:
        user_E, item_E: indices, int64.
        time_ms_E: milliseconds since 1970, int64; None: not known.
        attributes: of the history -> its keys, int64 [E].
        arrival_ms_E: when each became known, int64; None: at its time.
    """

    user_E: Int64Array
    item_E: Int64Array
    time_ms_E: Int64Array | None = None
    attributes: Mapping[str, Int64Array]
    arrival_ms_E: Int64Array | None = None

    def where(self, chosen_E: BoolArray | Int64Array) -> UserEvents:
        """Some of the events, by flags or by places."""
        return UserEvents(
            user_E=self.user_E[chosen_E],
            item_E=self.item_E[chosen_E],
            time_ms_E=None if self.time_ms_E is None else self.time_ms_E[chosen_E],
            attributes={name: keys_E[chosen_E] for name, keys_E in self.attributes.items()},
            arrival_ms_E=None if self.arrival_ms_E is None else self.arrival_ms_E[chosen_E],
        )


def histories_before(dataset: Dataset, part: str, *, of_any_age: bool = False) -> UserEvents | None:
    """The events of each user before the user's first sample of a part, of a user without one before anybody's.

    None where the log has no history, or the part no sample. Events that are too old at that moment
    (``history.max_age_s``) are left out, but ``of_any_age``: an earlier moment saw them.
    """
    samples, table = dataset.split(part), dataset.table
    if table.features.history is None or not len(samples):
        return None
    users = len(table.user_keys)
    first_N = np.full(users, dataset.sample_time_ms[samples].min(), dtype=np.int64)
    has_N = np.zeros(users, dtype=np.bool_)
    has_N[dataset.sample_user[samples]] = True
    first_N[has_N] = np.iinfo(np.int64).max
    np.minimum.at(first_N, dataset.sample_user[samples], dataset.sample_time_ms[samples])
    user_L = np.repeat(np.arange(users), np.diff(table.offsets))
    moment_L, time_ms_L = first_N[user_L], np.asarray(table.timestamp_ms)
    arrival_ms_L = np.asarray(table.arrival_ms)
    before_L = (time_ms_L < moment_L) & (arrival_ms_L <= moment_L)  # as ``rules.visible``
    if (max_age_s := table.features.history.max_age_s) and not of_any_age:
        before_L &= time_ms_L >= moment_L - 1000 * max_age_s
    item_name = f"history.{table.features.item_id.name}"
    return UserEvents(
        user_E=user_L[before_L],
        item_E=np.asarray(table.item_index)[before_L].astype(np.int64),
        time_ms_E=time_ms_L[before_L],
        attributes={
            name.removeprefix("history."): np.asarray(keys_L)[before_L]
            for name, keys_L in dataset.history.items()
            if name != item_name
        },
        arrival_ms_E=arrival_ms_L[before_L] if dataset.has_late_events else None,
    )
