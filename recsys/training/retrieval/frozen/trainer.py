"""Users fitted to items that stay as they are.

A user's vector is ``u = m + o / (L + 1)``: m is the sum of the frozen vectors of the items that the user took, each
divided by the roots of the two degrees, o is trained, and L the model's layers. For LightGCN this is the model itself:
with final vectors that are means over layers, ``u = A i + (u(0) - u(L+1)) / (L + 1)``, A the normalised adjacency; only
the difference of its first layer and the one after its last is free. Matrix factorisation and NGCF take the same form.
Given the items, users do not depend on each other, and the loss of BPR is convex: few epochs do.

Legend: ``N`` users, ``F`` items of the index, ``M`` of the interactions, ``D`` width of final vectors, ``B`` pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.errors import DataFileError
from recsys.models.retrieval.hops import full_hop
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.frozen.index import FrozenIndex
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.pairs.batches import PairBatches, batch_loss
from recsys.training.retrieval.trainers import State


class FrozenItemsTrainer:
    """Users of a model beside the items of an index.

    Args:
        config: the run.
        interactions: with the items of the index (:meth:`FrozenIndex.beside`); steps draw places of
            :meth:`FrozenIndex.part` of it.
        index: that is kept.
    """

    def __init__(self, config: RetrievalRunConfig, interactions: Interactions, index: FrozenIndex) -> None:
        self._train, self._share = config.train, 1.0 / (config.model.layers + 1)
        self._fingerprint = index.fingerprint
        learnt = index.part(interactions)
        self._data = PairBatches(learnt, config.train)
        self._items_FD = torch.from_numpy(index.items_FD)
        self._row_M = torch.from_numpy(index.rows_of(ids_of(interactions).item_keys_M))
        hop = full_hop(self._data.user_E, self._data.item_E, num_users=learnt.num_users, num_items=learnt.num_items)
        self._messages_ND = hop.to_users @ self._items_FD
        self._own_ND = nn.Parameter(torch.zeros_like(self._messages_ND))
        self._optimizer = torch.optim.Adam([self._own_ND], lr=config.train.learning_rate, fused=True)

    def step(self, batch_B: Tensor, generator: torch.Generator, *, rate: float, taken: int) -> float:
        """As the protocol says; places are those of the pairs that are learnt."""
        batch = self._data.batch(batch_B, generator)
        loss, _ = batch_loss(self._users(), self._items_FD, batch, self._train)
        taken_N = torch.bincount(batch.user_B, minlength=len(self._own_ND)).to(self._own_ND.dtype)
        pull = 0.5 * (taken_N @ self._own_ND.square().sum(dim=1)) / len(batch.user_B)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        (loss + self._train.regularization * pull).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return float(loss.item())

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """As the protocol says: items bit by bit as the index has them, zeros for those that it has not."""
        users_ND = self._users().detach()
        if self._train.loss != "bpr":
            users_ND = F.normalize(users_ND, dim=1)
        items_MD = self._items_FD[self._row_M.clamp_min(0)]
        items_MD[self._row_M < 0] = 0.0
        return users_ND, items_MD

    def first(self) -> tuple[Tensor, Tensor]:
        """As the protocol says; there are no layers: final vectors."""
        return self.vectors()

    def begin(self, users_ND: Tensor, items_MD: Tensor, layers: State, taken: Known | None = None) -> None:
        """Take users' vectors; items stay, and there are no layers."""
        with torch.no_grad():
            self._own_ND.copy_((users_ND - self._messages_ND) / self._share)

    def weights(self) -> State:
        """As the protocol says."""
        return {"own": self._own_ND.detach().clone(), "index": self._fingerprint}

    def state_dict(self) -> State:
        """As the protocol says."""
        return {**self.weights(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """As the protocol says.

        Raises:
            DataFileError: of users who were trained against another index, or of another model.
        """
        if state.get("index") != self._fingerprint:
            raise DataFileError(
                f"the checkpoint's users were trained against index {state.get('index', 'none')}, the run's folder "
                f"holds index {self._fingerprint}: vectors of two trainings do not mix"
            )
        if state["own"].shape != self._own_ND.shape:
            raise DataFileError(
                f"the checkpoint holds users {list(state['own'].shape)}, the model {list(self._own_ND.shape)}"
            )
        with torch.no_grad():
            self._own_ND.copy_(state["own"])
        if "optimizer" in state:
            self._optimizer.load_state_dict(state["optimizer"])

    def _users(self) -> Tensor:
        return self._messages_ND + self._share * self._own_ND
