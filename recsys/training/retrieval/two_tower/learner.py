"""Steps of two towers, and the metrics of what is served: exact search over all items, by the best of the interests.

Legend: ``M`` items, ``A`` distinct items of a step, ``C`` of these that targets are compared with, ``T`` targets, ``B``
windows, ``L`` events of the longest, ``O`` events before them, ``G`` users, ``Q`` interests, ``D`` width, ``K`` values
of an attribute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import BoolArray, Int64Array
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.data.samples.histories import ranges
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.sharding.shard import set_rate, table_shards, table_weights
from recsys.errors import DataFileError
from recsys.evaluation.predictions import UserValues
from recsys.features.feature_set import FeatureSet
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.heads import AttributeHeads
from recsys.models.retrieval.two_tower.loss import hard_negatives, inclusion, sampled_softmax, scores
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.linear.histories import user_events
from recsys.training.retrieval.new_items.length import USERS, Length, held_out, length_of_rows
from recsys.training.retrieval.ranking import RankingMetrics, rank_scored, sample_users
from recsys.training.retrieval.trained import masked_pairs
from recsys.training.retrieval.trainers import State, copied
from recsys.training.retrieval.two_tower.data import encode
from recsys.training.retrieval.two_tower.predicted import Predicted, predicted_attributes
from recsys.training.retrieval.two_tower.sequences import Sequences, newest_windows
from recsys.training.retrieval.two_tower.tower import Tower, places

_CLIP_NORM = 5.0
"""Largest norm of the network's gradient."""


class SequenceLearner:
    """Two towers in training: a learner (``training/retrieval/learners/``).

    Args:
        config: of the run, of a ``two_tower``.
        interactions: of the run.
        features: of ``tower_features``.
        sequences: of training.
        row_maps, numbers: of the tables, of the numeric features.

    Attributes:
        tower: its tables and network.
        known: ids of which it learns something; of items also those of which it knows an attribute.
        read_M: items whose ids training read, here or in the run that this one goes on from; the others' ids may have
            the row of another item, or one that was never trained, and are taken to be missing.
        keys: table -> the ids that the log has.
        window: newest events that are read.
        notes: of the run that it was loaded from.
        drops_ids: items have features, and are read without their ids now and then.
        predicted: attributes that are predicted beside the next item.
        row_maps, numbers, pairs, steps: of the run.

    Raises:
        ConfigError: ``model.multi_task_weight`` is set, and nothing of items can be predicted.
    """

    def __init__(
        self,
        config: RetrievalRunConfig,
        interactions: Interactions,
        features: FeatureSet,
        sequences: Sequences,
        *,
        row_maps: Mapping[str, RowMap],
        numbers: Mapping[str, NumberTransform],
    ) -> None:
        assert isinstance(config.model, TwoTowerConfig)
        self._config, self._interactions, self._model = config, interactions, config.model
        self.row_maps, self.numbers = row_maps, numbers
        self.window, self.notes = config.model.window, tuple[str, ...]()
        histories = {part: user_events(config, interactions, test=part == "test") for part in ("validation", "test")}
        data, coded = encode(features, interactions, row_maps, {"train": sequences.events, **histories})
        self.keys = data.keys
        self._sequences = replace(sequences, events=coded.pop("train"))
        self._histories: Mapping[str, UserEvents] = coded
        self.tower = Tower(config.model, config.rows, data, row_maps=row_maps, numbers=numbers)
        self.predicted = predicted_attributes(data) if config.model.multi_task_weight else Predicted()
        self._heads: AttributeHeads | None = None
        if config.model.multi_task_weight:
            self._heads = AttributeHeads(config.model.dim, values=self.predicted.counts)
        self._optimizer = torch.optim.Adam(self._parameters(), lr=config.train.learning_rate, fused=True)
        taken_M = np.bincount(sequences.item_T, minlength=interactions.num_items)
        self._taken_M = torch.from_numpy(np.bincount(interactions.train.item_E, minlength=interactions.num_items))
        self._share_M = torch.from_numpy(taken_M / taken_M.sum())
        self.read_M = taken_M + np.bincount(sequences.events.item_E, minlength=interactions.num_items) > 0
        self.drops_ids = bool(features.item) and config.model.id_dropout > 0
        self._searched_MD = torch.empty(0, config.model.dim)
        self._length: Length | None = None
        self._with_attribute_M = data.with_attribute_M
        self.known = Known(
            users_N=np.bincount(sequences.events.user_E, minlength=interactions.num_users) > 0,
            items_M=self.read_M | data.with_attribute_M if self.drops_ids else self.read_M,
        )
        self.pairs, self.steps = len(sequences), sequences.steps(config.train.batch_size)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [*self.tower.net.parameters(), *(self._heads.parameters() if self._heads is not None else ())]

    @property
    def popularity_M(self) -> Tensor:
        """Training pairs of each item: its score for a user without a known event, float32."""
        return self._taken_M.float()

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Any, int]]:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        sequences = self._sequences.shuffled(generator)
        if self._model.hard_negatives:
            self._searched_MD = self._rows(~self.read_M)
        for windows_B in sequences.batches(self._config.train.batch_size, generator):
            count = int((sequences.offsets[windows_B + 1] - sequences.offsets[windows_B]).sum())
            yield (sequences, windows_B), count

    def step(self, batch: Any, generator: torch.Generator, *, rate: float, taken: int) -> float:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        sequences, windows_B = batch
        self._length = None
        loss = self._loss(sequences, windows_B, generator)
        set_rate(self.tower.tables, rate, step=taken)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters(), _CLIP_NORM)
        self._optimizer.step()
        return float(loss.item())

    def _loss(self, sequences: Sequences, windows_B: Int64Array, generator: torch.Generator) -> Tensor:
        train, tower, items = self._config.train, self.tower, self._interactions.num_items
        tower.net.train()
        begin_B = sequences.begin_K[windows_B]
        place_BL = places(begin_B, sequences.end_K[windows_B])
        older, offsets = ranges(sequences.older_K[windows_B], begin_B - sequences.older_K[windows_B])
        older_O = sequences.events.item_E[older]
        targets_T, row_T = sequences.targets_of(windows_B)
        own_E, at = np.unique(place_BL, return_inverse=True)
        events = sequences.events.where(own_E)
        sample = min(train.sampled_items, items)
        drawn = torch.randperm(items, generator=generator)[:sample].numpy()
        compared_C = np.union1d(sequences.item_T[targets_T], drawn)
        items_A = np.union1d(compared_C, np.concatenate([events.item_E, older_O]))
        without = ~self.read_M[items_A]
        if self.drops_ids:
            without |= torch.rand(len(items_A), generator=generator).numpy() < self._model.id_dropout
        users_B = sequences.events.user_E[begin_B]
        inputs = tower.look_up(items_A, users_B=users_B, events=events, without_id_A=without)
        items_AD = tower.items(inputs)
        at_BL = at.reshape(place_BL.shape)
        item_place_BL = np.searchsorted(items_A, events.item_E)[at_BL]
        read_BLD = tower.read(
            inputs, items_AD, events, at_BL, item_place_BL, older=(np.searchsorted(items_A, older_O), offsets)
        )
        row, last = torch.from_numpy(row_T), sequences.last_T[targets_T] - begin_B[row_T]
        read_TD = read_BLD.flatten(0, 1).index_select(0, row * place_BL.shape[1] + torch.from_numpy(last))
        user_BU = tower.user_features(inputs)
        interests_TQD = tower.net.interests_of(read_TD, None if user_BU is None else user_BU.index_select(0, row))
        compared = torch.from_numpy(compared_C)
        hard_TK = None
        if self._model.hard_negatives:
            left_out_M = torch.from_numpy(~self.known.items_M)
            left_out_M[compared] = True
            hard_TK = hard_negatives(
                interests_TQD,
                self._searched_MD,
                left_out_M=left_out_M,
                read_TL=torch.from_numpy(events.item_E[at_BL])[row],
                count=min(self._model.hard_negatives, items),
            )
        weight_T = sequences.weight_T
        loss = sampled_softmax(
            interests_TQD,
            items_AD.index_select(0, torch.from_numpy(np.searchsorted(items_A, compared_C))),
            torch.from_numpy(np.searchsorted(compared_C, sequences.item_T[targets_T])),
            inclusion_C=inclusion(self._share_M[compared], targets=len(targets_T), sampled=sample, items=items),
            temperature=train.temperature,
            weight_T=None if weight_T is None else torch.from_numpy(weight_T[targets_T]),
            hard_TK=hard_TK,
            user_T=torch.from_numpy(np.unique(users_B, return_inverse=True)[1][row_T]),
        )
        if self._heads is None:
            return loss
        values_TK = self.predicted.of_items(sequences.item_T[targets_T])
        of_attributes: Tensor = self._heads(read_TD, values_TK)
        return loss + self._model.multi_task_weight * of_attributes

    def is_finite(self) -> bool:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        of_net = all(bool(torch.isfinite(each).all()) for each in self._parameters())
        return of_net and all(bool(torch.isfinite(rows).all()) for rows in table_weights(self.tower.tables).values())

    def evaluate(self, relevant: Pairs, *, test: bool) -> tuple[RankingMetrics, UserValues]:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        config, interactions = self._config, self._interactions
        return rank_scored(
            self.score(np.unique(relevant.user_E), test=test),
            num_items=interactions.num_items,
            relevant=relevant,
            excluded=masked_pairs(config, interactions) if test else (interactions.train,),
            list_length=config.train.list_length,
            candidates=interactions.candidates.get("test" if test else "validation"),
        )

    def score(self, users_G: Int64Array, *, test: bool) -> Callable[[Int64Array], Tensor]:
        """Scores of all items for some of these ascending users, [B, M], as ``rank_scored`` asks for them.

        Users are read from their history as it is when the test part, or the validation part, begins. One without a
        known event gets the items' popularity; an item that is not known is -inf.
        """
        items_MD, unknown_M = self.item_rows(), torch.from_numpy(~self.known.items_M)
        interests_GQD, has_G = self.interests(items_MD, users_G, test=test)
        popularity_M = self.popularity_M

        def of_users(users_B: Int64Array) -> Tensor:
            place_B = torch.from_numpy(np.searchsorted(users_G, users_B))
            scores_BM = scores(interests_GQD[place_B], items_MD)
            scores_BM = torch.where(has_G[place_B][:, None], scores_BM, popularity_M)
            return scores_BM.masked_fill(unknown_M, -torch.inf)

        return of_users

    def item_rows(self) -> Tensor:
        """Vectors of all items, [M, D], without dropout; of those that training never read, by attributes alone, and of
        :attr:`length`."""
        rows_MD = self._rows(~self.read_M)
        if (self.known.items_M & ~self.read_M).any():
            rows_MD[torch.from_numpy(~self.read_M)] *= self.length.times
        return rows_MD

    def _rows(self, without_id_M: BoolArray) -> Tensor:
        return self.tower.item_rows(without_id_M=without_id_M)

    @property
    def length(self) -> Length:
        """Length of rows that are made of attributes alone, chosen with the weights as they are."""
        if self._length is None:
            self._length = self._chosen_length()
        return self._length

    def _chosen_length(self) -> Length:
        held_M = held_out(self.read_M & self._with_attribute_M) if self.drops_ids else np.zeros(0, dtype=np.bool_)
        if not held_M.any():
            return Length()
        interactions, events = self._interactions, self._histories["validation"]
        wanted = sample_users(interactions.validation, USERS)
        users = wanted.user_E if len(wanted) else events.user_E
        users = sample_users(Pairs(users, np.zeros_like(users)), USERS).user_E
        items_MD, unknown_M = self._rows(~self.read_M | held_M), torch.from_numpy(~self.read_M)
        users_G = np.unique(users)
        interests_GQD, has_G = self.interests(items_MD, users_G, test=False)
        users_G, interests_GQD = users_G[has_G.numpy()], interests_GQD[has_G]

        def of_users(users_B: Int64Array) -> Tensor:
            place_B = torch.from_numpy(np.searchsorted(users_G, users_B))
            return scores(interests_GQD[place_B], items_MD).masked_fill(unknown_M, -torch.inf)

        return length_of_rows(
            of_users,
            users_G,
            held_M,
            excluded=(interactions.train,),
            list_length=self._config.train.list_length,
            share=float(held_M[interactions.train.item_E].mean()),
            wanted=wanted,
        )

    @torch.no_grad()
    def interests(self, items_MD: Tensor, users_G: Int64Array, *, test: bool) -> tuple[Tensor, Tensor]:
        """Interests of users, [G, Q, D], of length 1, and which users have a known event, [G], bool.

        Args:
            items_MD: vectors of all items.
            users_G: the users.
            test: read their history as it is when the test part begins, instead of the validation part.
        """
        events = self._histories["test" if test else "validation"]
        known_E = self.known.items_M[events.item_E]
        if not known_E.all():
            events = events.where(known_E)
        bounds = newest_windows(
            events,
            users_G,
            self._interactions.num_users,
            window=self.window,
            long_history=self._model.long_history,
        )
        return self.tower.interests(items_MD, events, users_G, bounds), torch.from_numpy(bounds[2] > bounds[1])

    def told(self) -> tuple[str, ...]:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return (str(self.length),) if self.drops_ids else ()

    def vectors(self) -> tuple[Tensor, Tensor]:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        items_MD = self.item_rows()
        return items_MD[:0], items_MD

    def weights(self) -> State:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return {
            "tables": copied(table_weights(self.tower.tables)),
            "net": copied(self.tower.net.state_dict()),
            "read": torch.from_numpy(self.read_M.copy()),
            "length": dataclasses.asdict(self.length),
        }

    def state_dict(self) -> State:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        moments = {part.table: part.state for part in table_shards(self.tower.tables)}
        heads = {} if self._heads is None else {"heads": copied(self._heads.state_dict())}
        return {**self.weights(), **heads, "moments": copied(moments), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`.

        Raises:
            DataFileError: it is of another model.
        """
        tables = table_weights(self.tower.tables)
        try:
            for name, rows in tables.items():
                rows.copy_(state["tables"][name])
            self.tower.net.load_state_dict(state["net"])
            if self._heads is not None and "heads" in state:  # the best weights have none: they predict no more
                self._heads.load_state_dict(state["heads"])
            self.read_M, self._length = state["read"].numpy().copy(), Length(**state["length"])
            for part in table_shards(self.tower.tables) if "moments" in state else ():
                for name, values in part.state.items():
                    values.copy_(state["moments"][part.table][name])
            if "optimizer" in state:
                self._optimizer.load_state_dict(copied(state["optimizer"]))
        except (KeyError, RuntimeError, TypeError) as error:
            raise DataFileError(f"the checkpoint is of another model: {error}") from error
