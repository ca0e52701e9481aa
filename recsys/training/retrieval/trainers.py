"""Training a model that ranks all items: over the whole graph, or over a sampled part of it.

:class:`FullGraphTrainer` propagates the whole graph in every step and keeps the rows of the vectors of layer 0 as dense
parameters; :class:`SampledTrainer` looks up only the neighbours that a batch samples, in TorchRec tables with a fused
Adam of the rows looked up (dense Adam also moves, by old moments, rows that a step did not touch: the two differ in
that). In both, ids may share rows (``rows.py``); L2 is of an id's vector of layer 0, whatever rows it is made of.

Legend: ``N`` users, ``M`` items, ``D`` width, ``B`` pairs of a batch, ``Z`` nodes of one side.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.embeddings.sharding.shard import fuse_optimizer, set_rate, shard, table_shards, table_weights
from recsys.embeddings.tables import EmbeddingTables, lookup_keys
from recsys.errors import DataFileError
from recsys.models.registry import make_layers
from recsys.models.retrieval.first_rows import FirstRows, first_vectors_from, first_vectors_of, fit_first_rows
from recsys.models.retrieval.mf import MatrixFactorization
from recsys.models.retrieval.neighbour_sampling import NeighbourSampler
from recsys.models.retrieval.network import Layers, VectorConfig, pairs_l2
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.pairs.batches import PairBatches, batch_loss, compact, scored
from recsys.training.retrieval.pairs.rows import SIDES, SharedMaps, all_maps, first_rows, id_tables, looked_up

State = dict[str, Any]


class RetrievalTrainer(Protocol):
    """A model in training, as the loop uses it."""

    def step(self, batch_B: Tensor, generator: torch.Generator, *, rate: float, taken: int) -> float:
        """Train on the pairs of these ascending places, after ``taken`` steps; the mean of the loss."""
        ...

    def first(self) -> tuple[Tensor, Tensor]:
        """Vectors of layer 0 of all users and of all items, a copy."""
        ...

    def begin(self, users_ND: Tensor, items_MD: Tensor, layers: State, taken: Known | None = None) -> None:
        """Take vectors of layer 0, and weights of the layers; of none they stay.

        Args:
            users_ND, items_MD: vectors of all; where ids share rows, these are fitted to them
                (:func:`recsys.models.retrieval.first_rows.fit_first_rows`).
            layers: weights.
            taken: ids whose vectors count; None: all.
        """
        ...

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Final vectors of all users and of all items, without dropout."""
        ...

    def weights(self) -> State:
        """A copy of the weights that inference needs."""
        ...

    def state_dict(self) -> State:
        """For a checkpoint: weights and the optimiser."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Inverse of :meth:`state_dict`; of :meth:`weights` too, after which only :meth:`vectors` is of use."""
        ...


class FullGraphTrainer:
    """Propagation of the whole graph.

    Args:
        config: the run.
        interactions: its train part is the graph.
        maps: row maps of the sides whose ids share rows.
    """

    def __init__(self, config: RetrievalRunConfig, interactions: Interactions, maps: SharedMaps | None = None) -> None:
        self._train, self._strength = config.train, config.train.regularization
        self._data = PairBatches(interactions, config.train)
        self._layers = make_layers(config.model)
        self._rows = _rows_of(maps or {}, interactions)
        assert isinstance(config.model, VectorConfig)
        self._first = first_vectors_of(self._rows, config.model)
        self._hops = self._data.hops(self._layers)
        parameters = [*self._first.parameters(), *self._layers.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=config.train.learning_rate, fused=True)

    def step(self, batch_B: Tensor, generator: torch.Generator, *, rate: float, taken: int) -> float:
        """As the protocol says."""
        batch = self._data.batch(batch_B, generator)
        user_B, item_B = batch.user_B, batch.item_B
        self._layers.train()
        first = self._first()
        users_ND, items_MD = self._layers(*first, self._hops)
        loss, negative_B = batch_loss(users_ND, items_MD, batch, self._train)
        pulled_users, pulled_items = (users_ND, items_MD) if self._layers.of_output else first
        pull = pairs_l2(pulled_users, pulled_items, user_B, item_B, negative_B) + self._layers.l2()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        (loss + self._strength * pull).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return float(loss.item())

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """As the protocol says."""
        self._layers.eval()
        users_ND, items_MD = (vectors.detach() for vectors in self._first())
        users_ND, items_MD = self._layers(users_ND, items_MD, self._hops)
        return scored(users_ND, items_MD, self._train)

    @torch.no_grad()
    def first(self) -> tuple[Tensor, Tensor]:
        """As the protocol says."""
        users_ND, items_MD = self._first()
        return users_ND.detach().clone(), items_MD.detach().clone()

    def begin(self, users_ND: Tensor, items_MD: Tensor, layers: State, taken: Known | None = None) -> None:
        """As the protocol says."""
        _fit(self._first, self._rows, users_ND, items_MD, taken)
        if layers:
            _load_layers(self._layers, layers)

    def weights(self) -> State:
        """As the protocol says."""
        return {"rows": _rows_state(self._first), "layers": copied(self._layers.state_dict())}

    def state_dict(self) -> State:
        """As the protocol says."""
        return {**self.weights(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """As the protocol says."""
        _load_rows(self._first, state)
        _load_layers(self._layers, state["layers"])
        if "optimizer" in state:
            self._optimizer.load_state_dict(copied(state["optimizer"]))


class SampledTrainer:
    """Propagation of sampled neighbourhoods. For evaluation the whole graph is propagated once.

    Args:
        config: the run, with fan-outs.
        interactions: its train part is the graph.
        maps: row maps of the sides whose ids share rows.
    """

    def __init__(self, config: RetrievalRunConfig, interactions: Interactions, maps: SharedMaps | None = None) -> None:
        self._train, self._strength = config.train, config.train.regularization
        self._fan_outs = config.train.fan_outs
        self._data = PairBatches(interactions, config.train)
        self._layers = make_layers(config.model)
        sizes = {"num_users": interactions.num_users, "num_items": interactions.num_items}
        self._dim, self._rows = config.model.dim, _rows_of(maps or {}, interactions)
        self._maps = all_maps(maps or {}, **sizes)
        ids = ids_of(interactions)
        self._places = {
            side: torch.from_numpy(looked_up(side, maps or {}, keys).T.copy())
            for side, keys in zip(SIDES, (ids.user_keys_N, ids.item_keys_M), strict=True)
        }
        assert isinstance(config.model, VectorConfig)
        first, specs = first_vectors_of(self._rows, config.model), id_tables(config, self._maps)
        tables = EmbeddingTables(specs, self._maps)
        fuse_optimizer(tables, name="adam", learning_rate=config.train.learning_rate)
        self._tables = shard(tables, table_names=[spec.name for spec in specs], device=torch.device("cpu"))
        self._put(first)
        self._sampler = NeighbourSampler(
            self._data.user_E,
            self._data.item_E,
            **sizes,
            normalization=self._layers.normalization,
        )
        weights = list(self._layers.parameters())
        self._optimizer = torch.optim.Adam(weights, lr=config.train.learning_rate, fused=True) if weights else None

    def step(self, batch_B: Tensor, generator: torch.Generator, *, rate: float, taken: int) -> float:
        """As the protocol says."""
        batch = self._data.batch(batch_B, generator)
        users, items, batch = compact(batch)
        user_B, item_B = batch.user_B, batch.item_B
        part = self._sampler.sample(users, items, fan_outs=self._fan_outs, generator=generator)
        found = self._tables(self._lookups(part.users, part.items))
        self._layers.train()
        users_ZD, items_ZD = self._layers(found["user"], found["item"], part.hops)
        users_ZD, items_ZD = users_ZD.contiguous(), items_ZD.contiguous()
        loss, negative_B = batch_loss(users_ZD, items_ZD, batch, self._train)
        if self._layers.of_output:
            pull = pairs_l2(users_ZD, items_ZD, user_B, item_B, negative_B)
        else:
            user_places, item_places = torch.searchsorted(part.users, users), torch.searchsorted(part.items, items)
            pull = pairs_l2(
                found["user"], found["item"], user_places[user_B], item_places[item_B], item_places[negative_B]
            )
        set_rate(self._tables, rate, step=taken)
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
        (loss + self._strength * (pull + self._layers.l2())).backward()  # type: ignore[no-untyped-call]
        if self._optimizer is not None:
            self._optimizer.step()
        return float(loss.item())

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """As the protocol says."""
        self._layers.eval()
        users_ND, items_MD = self._layers(*self.first(), self._data.hops(self._layers))
        return scored(users_ND, items_MD, self._train)

    @torch.no_grad()
    def first(self) -> tuple[Tensor, Tensor]:
        """As the protocol says."""
        users_ND, items_MD = self._joined()()
        return users_ND.detach(), items_MD.detach()

    @torch.no_grad()
    def begin(self, users_ND: Tensor, items_MD: Tensor, layers: State, taken: Known | None = None) -> None:
        """As the protocol says."""
        first = self._joined()
        _fit(first, self._rows, users_ND, items_MD, taken)
        self._put(first)
        if layers:
            _load_layers(self._layers, layers)

    def weights(self) -> State:
        """As the protocol says."""
        return {"rows": _rows_state(self._joined()), "layers": copied(self._layers.state_dict())}

    def state_dict(self) -> State:
        """As the protocol says."""
        moments = {part.table: part.state for part in table_shards(self._tables)}
        optimizer = None if self._optimizer is None else self._optimizer.state_dict()
        return {**self.weights(), "moments": copied(moments), "optimizer": optimizer}

    def load_state_dict(self, state: State) -> None:
        """As the protocol says."""
        first = self._joined()
        _load_rows(first, state)
        self._put(first)
        _load_layers(self._layers, state["layers"])
        for part in table_shards(self._tables) if "moments" in state else ():
            for name, values in part.state.items():
                values.copy_(state["moments"][part.table][name])
        if self._optimizer is not None and state.get("optimizer") is not None:
            self._optimizer.load_state_dict(copied(state["optimizer"]))

    def _joined(self) -> MatrixFactorization:
        """The vectors of layer 0, of a copy of the tables' rows."""
        weights = table_weights(self._tables)
        joined = {
            side: nn.Parameter(torch.cat([weights[name] for name in row_map.table_rows()]))
            for side, row_map in self._maps.items()
        }
        return first_vectors_from(self._rows, self._dim, joined["user"], joined["item"])

    def _put(self, first: MatrixFactorization) -> None:
        """Fill the tables, of which a side has several one after another."""
        weights = table_weights(self._tables)
        for side, vectors in zip(SIDES, (first.users, first.items), strict=True):
            sizes = self._maps[side].table_rows()
            for name, rows in zip(sizes, torch.split(vectors.weight_RD.detach(), list(sizes.values())), strict=True):
                weights[name].copy_(rows)

    def _lookups(self, users: Tensor, items: Tensor) -> KeyedJaggedTensor:
        rows = [*self._places["user"][:, users], *self._places["item"][:, items]]
        return KeyedJaggedTensor.from_lengths_sync(
            keys=[key for side, row_map in self._maps.items() for key in lookup_keys(side, row_map)],
            values=torch.cat(rows),
            lengths=torch.tensor([len(each) for each in rows]),
        )


def first_of(state: State, rows: FirstRows, *, dim: int) -> tuple[Tensor, Tensor]:
    """Vectors of layer 0 of all users and of all items, of a state of either trainer.

    Args:
        state: of :meth:`RetrievalTrainer.weights`.
        rows: of its ids.
        dim: of its model.
    """
    users_RD = nn.Parameter(state["rows"][_USERS])
    first = first_vectors_from(rows, dim, users_RD, nn.Parameter(state["rows"].get(_ITEMS, users_RD)))
    users_ND, items_MD = first()
    return users_ND.detach(), items_MD.detach()


_USERS, _ITEMS = "users.weight_RD", "items.weight_RD"
"""Rows in a state; without those of items, both sides look up in one table."""


def _rows_of(maps: SharedMaps, interactions: Interactions) -> FirstRows:
    ids = ids_of(interactions)
    return first_rows(maps, ids.user_keys_N, ids.item_keys_M)


def _fit(first: MatrixFactorization, rows: FirstRows, users_ND: Tensor, items_MD: Tensor, taken: Known | None) -> None:
    chosen = None if taken is None else (taken.users_N, taken.items_M)
    fit_first_rows(first, rows, users_ND, items_MD, chosen)


def _rows_state(first: MatrixFactorization) -> State:
    return {name: rows.detach().clone() for name, rows in first.named_parameters()}


@torch.no_grad()
def _load_rows(first: MatrixFactorization, state: State) -> None:
    own, held = dict(first.named_parameters()), state.get("rows", {})
    found, expected = ({name: list(rows.shape) for name, rows in of.items()} for of in (held, own))
    if found != expected:
        raise DataFileError(f"the checkpoint holds {found}, the model {expected}: it is of another model")
    for name, rows in own.items():
        rows.copy_(held[name])


def _load_layers(layers: Layers, state: State) -> None:
    try:
        layers.load_state_dict(state)
    except RuntimeError as error:
        raise DataFileError(f"the checkpoint is of another model: {error}") from error


def copied(value: Any) -> Any:
    """A state whose tensors are copies."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, list):
        return [copied(each) for each in value]
    return value
