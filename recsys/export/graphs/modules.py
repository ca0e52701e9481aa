"""A trained ranking network as the modules whose graphs a bundle holds, and examples of what goes into them.

``user``: raw user features and recent events -> user-side tensors, once per request.
``rank``: user-side tensors, raw candidate ids and features -> logits and scores.
``encode``: events -> sums of them; only for a network that can go on from such sums (``StatefulNet.state``).

Legend: ``C`` candidates, ``S`` recent events (1 or more; a missing event is padding), ``K`` values, ``R`` rows and
``D`` width of a state, ``U`` user width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from recsys.embeddings.dense_twin import DenseTwin, RawInputs
from recsys.embeddings.tables import ITEM
from recsys.embeddings.vectors import item_vectors, key_vectors, query_vectors, user_vectors
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.models.ranking.blocks import freeze_activations
from recsys.models.ranking.network import RankingNet, StatefulNet
from recsys.models.registry import make_net
from recsys.training.trained import TrainedModel

STATE_SUMS, STATE_FRESH, STATE_NEXT = "state.sums", "state.fresh", "state.next"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A graph's signature.

    Attributes:
        inputs: name -> an example, in order. No dynamic dimension is 1: the exporter would fix it.
        outputs: names in order.
        dynamic: of inputs and outputs: name -> axis -> the dimension's name.
    """

    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]]


class UserGraph(nn.Module):
    """The ``user`` graph. Inputs: :func:`user_inputs`, then a state's; outputs: the user side, the next state."""

    def __init__(self, features: FeatureSet, *, net: RankingNet, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin = features, net, twin
        self.names = [*user_inputs(features), *((STATE_SUMS, STATE_FRESH) if state_of(net) else ())]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.names, tensors, strict=True))
        history = {name: t for name, t in named.items() if name.startswith("history.")}
        user = {name: named[name] for name in user_inputs(self.features) if name not in history}
        user_1U = user_vectors(self.features, RawInputs(self.twin, user))
        if not history:
            return tuple(self.net.user_side(user_1U, user_1U[:0], user_1U[0, :0]))
        keys_SD, present_S = _events(self.features, self.twin, history)
        if STATE_SUMS not in named:
            return tuple(self.net.user_side(user_1U, keys_SD, present_S))
        assert isinstance(self.net, StatefulNet)
        return self.net.user_side_from(
            user_1U, keys_SD, present_S, sums=named[STATE_SUMS], fresh_S=named[STATE_FRESH] * present_S
        )


class RankGraph(nn.Module):
    """The ``rank`` graph. Inputs: the user side, then :func:`rank_inputs`; outputs: logits, scores."""

    def __init__(self, features: FeatureSet, *, net: RankingNet, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin = features, net, twin
        self.names = list(rank_inputs(features))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        outputs = len(self.net.side_dimensions)
        named = zip(self.names, tensors[outputs:], strict=True)
        inputs = RawInputs(self.twin, {f"{ITEM}{name}": tensor for name, tensor in named})
        query_CD = query_vectors(self.features, inputs)
        logits_C = self.net.rank_side(tensors[:outputs], query_CD, item_vectors(self.features, inputs))
        return logits_C, torch.sigmoid(logits_C)


class EncodeGraph(nn.Module):
    """The ``encode`` graph. Inputs: the history's columns; output: the sums of these events, [R, D]."""

    def __init__(self, features: FeatureSet, *, net: StatefulNet, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin = features, net, twin

    def forward(self, *tensors: Tensor) -> Tensor:
        names = (name for name in user_inputs(self.features) if name.startswith("history."))
        history = dict(zip(names, tensors, strict=True))
        return self.net.sums(*_events(self.features, self.twin, history))


def user_inputs(features: FeatureSet) -> dict[str, Feature]:
    """Inputs of the ``user`` graph in order: user id, user features, context, history columns."""
    inputs: dict[str, Feature] = {f.name: f for f in (features.user_id, *features.user, *features.context)}
    return inputs | {f"history.{f.name}": f for f in features.event_features()}


def rank_inputs(features: FeatureSet) -> dict[str, Feature]:
    """Inputs of the ``rank`` graph after the user side, in order: item id, item features."""
    return {f.name: f for f in (features.item_id, *features.item)}


def state_of(net: RankingNet) -> tuple[int, int] | None:
    """Rows and width of the sums that the network can go on from; None if it reads its history anew each time."""
    return net.state if isinstance(net, StatefulNet) else None


def build_frozen_net(trained: TrainedModel) -> RankingNet:
    """A copy of the network for inference: fixed slopes and statistics, no dropout."""
    net = make_net(trained.model.module.net.widths, config=trained.config.model)
    assert isinstance(net, nn.Module)
    net.load_state_dict(trained.model.module.net.state_dict())
    net.eval()
    freeze_activations(net)
    return net


def user_example(user: UserGraph) -> Example:
    """The signature of a ``user`` graph."""
    inputs: dict[str, Tensor] = {}
    dynamic: dict[str, Mapping[int, str]] = dict(user.net.side_dimensions)
    for name, feature in user_inputs(user.features).items():
        of_event = name.startswith("history.")
        inputs[name], dynamic[name] = _example(feature, 7 if of_event else 1), {0: "S"} if of_event else {}
    outputs = list(user.net.side_dimensions)
    if state := state_of(user.net):
        inputs |= {STATE_SUMS: torch.ones(state), STATE_FRESH: torch.ones(7)}
        dynamic |= {STATE_SUMS: {}, STATE_FRESH: {0: "S"}, STATE_NEXT: {}}
        outputs.append(STATE_NEXT)
    return Example(inputs=inputs, outputs=outputs, dynamic=dynamic)


def rank_example(rank: RankGraph, user: UserGraph) -> Example:
    """The signature of a ``rank`` graph, behind that ``user`` graph."""
    with torch.no_grad():
        side = user(*user_example(user).inputs.values())
    dimensions = rank.net.side_dimensions
    inputs = dict(zip(dimensions, side, strict=False))  # what a state becomes is no input of ``rank``
    dynamic: dict[str, Mapping[int, str]] = {**dimensions, "logits": {0: "C"}, "scores": {0: "C"}}
    for name, feature in rank_inputs(rank.features).items():
        inputs[name], dynamic[name] = _example(feature, 5), {0: "C"}
    return Example(inputs=inputs, outputs=("logits", "scores"), dynamic=dynamic)


def encode_example(encode: EncodeGraph) -> Example:
    """The signature of an ``encode`` graph."""
    history = {name: f for name, f in user_inputs(encode.features).items() if name.startswith("history.")}
    dynamic: dict[str, Mapping[int, str]] = {"sums": {}, **{name: {0: "S"} for name in history}}
    return Example(inputs={n: _example(f, 7) for n, f in history.items()}, outputs=("sums",), dynamic=dynamic)


def _events(features: FeatureSet, twin: DenseTwin, history: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Vectors of events, [S, D], and which of them are no padding, [S]."""
    present_S = (history[f"history.{features.item_id.name}"] >= 0).to(torch.float32)
    return key_vectors(features, RawInputs(twin, history)), present_S


def _example(feature: Feature, length: int) -> Tensor:
    if isinstance(feature, Categorical):
        shape = (length,) if feature.max_values == 1 else (length, feature.max_values)
        return torch.arange(int(np.prod(shape)), dtype=torch.int64).view(shape)
    return torch.linspace(-1.0, 1.0, length)
