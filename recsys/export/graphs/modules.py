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

from recsys.embeddings.dense_twin import DenseTwin, RawInputs, alike
from recsys.embeddings.tables import ITEM
from recsys.embeddings.vectors import item_vectors, key_vectors, query_vectors, user_vectors
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.models.ranking.blocks import freeze_activations
from recsys.models.ranking.network import RankingNet, StatefulNet
from recsys.models.registry import make_net
from recsys.training.trained import TrainedModel

HISTORY = "history."
STATE_SUMS, STATE_FRESH, STATE_NEXT = "state.sums", "state.fresh", "state.next"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A graph's signature.

    Attributes:
        inputs: name -> an example, in order. No dynamic dimension is 1: the exporter would fix it.
        outputs: names in order.
        dynamic: of inputs and outputs: name -> axis -> the dimension's name.
        stacks: the module's arguments: of each the input, or the several inputs that are one tensor, a first dimension
            over them.
    """

    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]]
    stacks: Sequence[tuple[str, ...]]

    @property
    def arguments(self) -> list[Tensor]:
        """An example of each of the module's arguments."""
        return stacked(self.inputs, self.stacks)


class UserGraph(nn.Module):
    """The ``user`` graph. Inputs: :func:`user_inputs`, alike ones stacked, then a state's; outputs: the user side, the
    next state."""

    def __init__(self, features: FeatureSet, *, net: RankingNet, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin = features, net, twin
        inputs = user_inputs(features)
        self.user = {name: f for name, f in inputs.items() if not name.startswith(HISTORY)}
        self.events = _Events(features, twin)
        state = [(STATE_SUMS,), (STATE_FRESH,)] if state_of(net) else []
        self.stacks = [*alike(twin, self.user), *self.events.stacks, *state]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.stacks, tensors, strict=True))
        user_1U = user_vectors(self.features, RawInputs(self.twin, self.user, _of(named, self.user)))
        if not self.events.stacks:
            return tuple(self.net.user_side(user_1U, user_1U[:0], user_1U[0, :0]))
        keys_SD, present_S = self.events.vectors(named)
        if (STATE_SUMS,) not in named:
            return tuple(self.net.user_side(user_1U, keys_SD, present_S))
        assert isinstance(self.net, StatefulNet)
        return self.net.user_side_from(
            user_1U, keys_SD, present_S, sums=named[STATE_SUMS,], fresh_S=named[STATE_FRESH,] * present_S
        )


class RankGraph(nn.Module):
    """The ``rank`` graph. Inputs: the user side, then :func:`rank_inputs`, alike ones stacked; outputs: logits,
    scores."""

    def __init__(self, features: FeatureSet, *, net: RankingNet, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin = features, net, twin
        self.item = {f"{ITEM}{name}": feature for name, feature in rank_inputs(features).items()}
        self.of_item = alike(twin, self.item)

    @property
    def stacks(self) -> list[tuple[str, ...]]:
        """Names of the arguments."""
        of_item = (tuple(name.removeprefix(ITEM) for name in names) for names in self.of_item)
        return [*((name,) for name in self.net.side_dimensions), *of_item]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        outputs = len(self.net.side_dimensions)
        inputs = RawInputs(self.twin, self.item, dict(zip(self.of_item, tensors[outputs:], strict=True)))
        query_CD = query_vectors(self.features, inputs)
        logits_C = self.net.rank_side(tensors[:outputs], query_CD, item_vectors(self.features, inputs))
        return logits_C, torch.sigmoid(logits_C)


class EncodeGraph(nn.Module):
    """The ``encode`` graph. Inputs: the history's columns, alike ones stacked; output: the sums of these events,
    [R, D]."""

    def __init__(self, features: FeatureSet, *, net: StatefulNet, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin = features, net, twin
        self.events = _Events(features, twin)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.net.sums(*self.events.vectors(dict(zip(self.events.stacks, tensors, strict=True))))


class _Events:
    """A history's columns."""

    def __init__(self, features: FeatureSet, twin: DenseTwin) -> None:
        self.features, self.twin = features, twin
        self.inputs = {name: f for name, f in user_inputs(features).items() if name.startswith(HISTORY)}
        self.stacks = alike(twin, self.inputs)

    def vectors(self, named: Mapping[tuple[str, ...], Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors of events, [S, D], and which of them are no padding, [S]."""
        stacks = _of(named, self.inputs)
        names, keys = next(iter(stacks.items()))  # the item id is the first
        present_S = ((keys[0] if len(names) > 1 else keys) >= 0).to(torch.float32)
        return key_vectors(self.features, RawInputs(self.twin, self.inputs, stacks)), present_S


def user_inputs(features: FeatureSet) -> dict[str, Feature]:
    """Inputs of the ``user`` graph in order: user id, user features, context, history columns."""
    inputs: dict[str, Feature] = {f.name: f for f in (features.user_id, *features.user, *features.context)}
    return inputs | {f"{HISTORY}{f.name}": f for f in features.event_features()}


def rank_inputs(features: FeatureSet) -> dict[str, Feature]:
    """Inputs of the ``rank`` graph after the user side, in order: item id, item features."""
    return {f.name: f for f in (features.item_id, *features.item)}


def stacked(inputs: Mapping[str, Tensor], stacks: Sequence[tuple[str, ...]]) -> list[Tensor]:
    """A module's arguments from a graph's inputs; see :class:`Example`."""
    each = ([inputs[name] for name in names] for names in stacks)
    return [torch.stack(tensors) if len(tensors) > 1 else tensors[0] for tensors in each]


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
        of_event = name.startswith(HISTORY)
        inputs[name], dynamic[name] = example_input(feature, 7 if of_event else 1), {0: "S"} if of_event else {}
    outputs = list(user.net.side_dimensions)
    if state := state_of(user.net):
        inputs |= {STATE_SUMS: torch.ones(state), STATE_FRESH: torch.ones(7)}
        dynamic |= {STATE_SUMS: {}, STATE_FRESH: {0: "S"}, STATE_NEXT: {}}
        outputs.append(STATE_NEXT)
    return Example(inputs=inputs, outputs=outputs, dynamic=dynamic, stacks=user.stacks)


def rank_example(rank: RankGraph, user: UserGraph) -> Example:
    """The signature of a ``rank`` graph, behind that ``user`` graph."""
    with torch.no_grad():
        side = user(*user_example(user).arguments)
    dimensions = rank.net.side_dimensions
    inputs = dict(zip(dimensions, side, strict=False))  # what a state becomes is no input of ``rank``
    dynamic: dict[str, Mapping[int, str]] = {**dimensions, "logits": {0: "C"}, "scores": {0: "C"}}
    for name, feature in rank_inputs(rank.features).items():
        inputs[name], dynamic[name] = example_input(feature, 5), {0: "C"}
    return Example(inputs=inputs, outputs=("logits", "scores"), dynamic=dynamic, stacks=rank.stacks)


def encode_example(encode: EncodeGraph) -> Example:
    """The signature of an ``encode`` graph."""
    history = encode.events.inputs
    dynamic: dict[str, Mapping[int, str]] = {"sums": {}, **{name: {0: "S"} for name in history}}
    inputs = {name: example_input(feature, 7) for name, feature in history.items()}
    return Example(inputs=inputs, outputs=("sums",), dynamic=dynamic, stacks=encode.events.stacks)


def _of(named: Mapping[tuple[str, ...], Tensor], inputs: Mapping[str, Feature]) -> dict[tuple[str, ...], Tensor]:
    """The tensors of these inputs."""
    return {names: tensor for names, tensor in named.items() if names[0] in inputs}


def example_input(feature: Feature, length: int) -> Tensor:
    """An example of an input."""
    if isinstance(feature, Categorical):
        shape = (length,) if feature.max_values == 1 else (length, feature.max_values)
        return torch.arange(int(np.prod(shape)), dtype=torch.int64).view(shape)
    return torch.linspace(-1.0, 1.0, length)
