"""The two towers with their tables: vectors of items by place in the log, interests of users by their windows.

Legend: ``M`` items, ``A`` distinct items of a step, ``B`` windows, ``L`` events of the longest, ``O`` events before
them, ``K`` hash buckets, ``G`` users, ``Q`` interests, ``D`` width, ``U`` columns of a user's features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import BoolArray, Int64Array
from recsys.data.interactions.histories import UserEvents
from recsys.data.samples.histories import ranges
from recsys.embeddings.numbers import NumberInputs
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.sharding.shard import fuse_optimizer, shard, start_process_group
from recsys.embeddings.tables import BatchConverter, EmbeddingTables
from recsys.embeddings.vectors import Inputs, LookedUp
from recsys.features.encode import EncodedBatch
from recsys.features.hashing import MISSING
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import event_inputs, item_inputs, tower_widths, user_inputs
from recsys.models.retrieval.two_tower.network import TwoTowerNet
from recsys.training.config import RowConfig
from recsys.training.retrieval.two_tower.data import TowerData, tower_tables
from recsys.training.tables.initial_rows import initialise
from recsys.training.tables.plan import table_dims, table_specs

_ITEMS, _USERS = 8192, 256
"""Items, and users, whose vectors are made at a time."""


class Tower:
    """Tables and network, on CPU.

    Args:
        model, rows: of the run.
        data: the log's columns.
        row_maps: of the tables.
        numbers: transforms of the numeric features.

    Attributes:
        net: the network.
        tables: TorchRec's, sharded over this process alone.
    """

    def __init__(
        self,
        model: TwoTowerConfig,
        rows: RowConfig,
        data: TowerData,
        *,
        row_maps: Mapping[str, RowMap],
        numbers: Mapping[str, NumberTransform],
    ) -> None:
        self.data = data
        specs = table_specs(tower_tables(model, data.features), rows, row_maps)
        self.net = TwoTowerNet(tower_widths(data.features, table_dims(specs, row_maps)), config=model)
        self._numbers = NumberInputs(data.features, numbers)
        tables = EmbeddingTables(specs, row_maps)
        fuse_optimizer(tables, name="adam", learning_rate=0.0)
        device = torch.device("cpu")
        start_process_group(device)
        self.tables: Any = shard(tables, table_names=[spec.name for spec in specs], device=device)
        initialise(self.tables, row_maps)
        self._convert = BatchConverter(data.features, row_maps)

    def look_up(
        self,
        items_A: Int64Array,
        *,
        users_B: Int64Array | None = None,
        events: UserEvents | None = None,
        without_id_A: BoolArray | None = None,
    ) -> Inputs:
        """Vectors of the features of some items, users and events.

        Args:
            items_A: distinct.
            users_B: None: none.
            events: with codes; None: none.
            without_id_A: items whose id is taken to be missing.
        """
        features = self.data.features
        item = {name: column[items_A] for name, column in self.data.item.items()}
        if without_id_A is not None:
            name = features.item_id.name
            item[name] = np.where(without_id_A, MISSING, item[name])
        user = {} if users_B is None else {name: column[users_B] for name, column in self.data.user.items()}
        history = {} if events is None else {f"history.{name}": codes for name, codes in events.attributes.items()}
        batch = self._convert(
            EncodedBatch(
                user=user,
                item=item,
                history=history,
                history_offsets=np.zeros(1, dtype=np.int64),
                labels=np.zeros(0, dtype=np.float32),
            ),
            self.data.rows_of_codes,
        )
        return LookedUp(batch, self.tables(batch.rows), self._numbers)

    def items(self, inputs: Inputs) -> Tensor:
        """Vectors of the items that were looked up, [A, D]."""
        vectors_AD: Tensor = self.net.item(*item_inputs(self.data.features, inputs))
        return vectors_AD

    def read(
        self,
        inputs: Inputs,
        items_AD: Tensor,
        events: UserEvents,
        place_BL: Int64Array,
        item_place_BL: Int64Array,
        *,
        older: tuple[Int64Array, Int64Array] | None = None,
    ) -> Tensor:
        """Read each event of some windows with those before it, [B, L, D].

        Args:
            inputs: in which the attributes of ``events`` were looked up.
            items_AD: vectors of items.
            events: some.
            place_BL: which of them the windows hold.
            item_place_BL: which of the items those are of.
            older: which of the items the events before the windows are of, one window after another, and the offsets of
                each window's, [B + 1]; None: they are not read.
        """
        of_events = event_inputs(self.data.features, inputs)
        shape, places = place_BL.shape, torch.from_numpy(place_BL.ravel())
        items_BLD = items_AD.index_select(0, torch.from_numpy(item_place_BL.ravel())).view(*shape, -1)
        return self.net.read(
            items_BLD,
            None if of_events is None else of_events.index_select(0, places).view(*shape, -1),
            _times(events, place_BL),
            None if older is None else self._buckets(items_AD, *older),
        )

    def _buckets(self, items_AD: Tensor, older_O: Int64Array, offsets: Int64Array) -> Tensor | None:
        """Of the events before each window, [B, K, D]; None: no window has any, or none is read by its hash."""
        if self.net.long is None or not len(older_O):
            return None
        places = [torch.from_numpy(each) for each in np.split(older_O, offsets[1:-1])]
        nothing = items_AD.new_zeros(self.net.long.signatures.shape)
        return torch.stack([self.net.buckets(items_AD[of]) if len(of) else nothing for of in places])

    def user_features(self, inputs: Inputs) -> Tensor | None:
        """Vectors of the features of the users that were looked up, [B, U]; None: users have none."""
        return user_inputs(self.data.features, inputs)

    @torch.no_grad()
    def item_rows(self, *, without_id_M: BoolArray) -> Tensor:
        """Vectors of all items, [M, D], without dropout; of some as if their id were missing."""
        self.net.eval()
        blocks = np.split(np.arange(len(without_id_M)), np.arange(_ITEMS, len(without_id_M), _ITEMS))
        return torch.cat([self.items(self.look_up(each, without_id_A=without_id_M[each])) for each in blocks])

    @torch.no_grad()
    def interests(
        self,
        items_MD: Tensor,
        events: UserEvents,
        users_G: Int64Array,
        bounds: tuple[Int64Array, Int64Array, Int64Array],
    ) -> Tensor:
        """Interests of users after the last of events[begin:end], [G, Q, D], without dropout; of none, zeros.

        Args:
            items_MD: of :meth:`item_rows`, of any length: a history reads directions.
            events: with codes.
            users_G: the users.
            bounds: of ``newest_windows``, each [G].
        """
        older_G, begin_G, end_G = bounds
        self.net.eval()
        found = torch.zeros(len(users_G), self.net.interests, items_MD.shape[1])
        order = np.argsort(end_G - begin_G, kind="stable")
        order = order[(end_G > begin_G)[order]]
        for first in range(0, len(order), _USERS):
            block = order[first : first + _USERS]
            place_BL = places(begin_G[block], end_G[block])
            own, at = np.unique(place_BL, return_inverse=True)
            of_block = events.where(own)
            inputs = self.look_up(np.zeros(0, dtype=np.int64), users_B=users_G[block], events=of_block)
            at_BL = at.reshape(place_BL.shape)
            older, offsets = ranges(older_G[block], begin_G[block] - older_G[block])
            read_BLD = self.read(
                inputs, items_MD, of_block, at_BL, of_block.item_E[at_BL], older=(events.item_E[older], offsets)
            )
            last_BD = read_BLD[torch.arange(len(block)), torch.from_numpy(end_G[block] - begin_G[block] - 1)]
            found[torch.from_numpy(block)] = self.net.interests_of(last_BD, self.user_features(inputs))
        return found


def _times(events: UserEvents, place_BL: Int64Array) -> Tensor | None:
    """Times of events; None where they are not known, or so near that all gaps are of one bucket: it says nothing."""
    if events.time_ms_E is None:
        return None
    time_ms_BL = events.time_ms_E[place_BL]
    return torch.from_numpy(time_ms_BL) if (np.ptp(time_ms_BL, axis=1) >= 1000).any() else None


def places(begin_B: Int64Array, end_B: Int64Array) -> Int64Array:
    """begin : end of each window, and its last place behind it to the length of the longest, [B, L]."""
    length = int((end_B - begin_B).max(initial=0))
    place_BL: Int64Array = np.minimum(begin_B[:, None] + np.arange(length), end_B[:, None] - 1)
    return place_BL
