"""Attention weights of every layer and head for one sample: the features that a model related to each other.

A weight says how much of one field's new vector comes from another field's; it does not say whether that raised the
score.

Legend: ``L`` layers, ``H`` heads, ``F`` fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from recsys.arrays import Float32Array, Int64Array
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.ids import map_ids, rows_of_codes
from recsys.errors import ConfigError, InvalidInputError
from recsys.features.encode import EncodedBatch
from recsys.features.feature_set import FeatureSet
from recsys.features.names import Names, shown_value
from recsys.models.ranking.network import FieldAttentionNet
from recsys.models.registry import RANKING_MODELS
from recsys.plots import Heat
from recsys.training.trained import TrainedModel, check_same_data


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One sample, as the model read it.

    Attributes:
        fields: their names, in the order of the maps.
        values: what each field held: an id, a number, or the values of a multi-valued feature.
        maps: attention weights, [L, H, F, F]; row f says what field f read, and sums to 1.
        score: predicted probability.
        label: 0 or 1.
    """

    fields: tuple[str, ...]
    values: tuple[str, ...]
    maps: Float32Array
    score: float
    label: int

    def sentence(self) -> str:
        """The explanation in short: the prediction, and the pair of features of which one read the other most.

        Of the first layer: what later ones read are mixtures of features already.
        """
        shown = dict(zip(self.fields, self.values, strict=True))
        user, item = self.fields[0], next(name for name in self.fields if name.startswith("item."))
        even = 1 / len(self.fields)
        weights_FF = self.maps[0].mean(axis=0) * (1 - np.eye(len(self.fields)))  # of others than itself
        reader, read = (self.fields[int(n)] for n in np.unravel_index(np.argmax(weights_FF), weights_FF.shape))
        return (
            f"For {user} {shown[user]} and {item.removeprefix('item.')} {shown[item]} the model predicts "
            f"{self.score:.1%}, and the label is {self.label}. In the first layer {reader} ({shown[reader]}) read "
            f"{read} ({shown[read]}) most: {weights_FF.max():.1%} of all that it read, where {even:.1%} would "
            "be even."
        )

    def most_read(self, layer: int, field: int, count: int = 3) -> list[tuple[str, float]]:
        """The fields that ``field`` read most in a layer, with their weights, the mean over heads."""
        weights_F = self.maps[layer, :, field].mean(axis=0)
        chosen = np.argsort(-weights_F, kind="stable")[:count]
        return [(self.fields[other], float(weights_F[other])) for other in chosen]


def explain(trained: TrainedModel, dataset: Dataset, *, split: str = "test", sample: int = 0) -> Explanation:
    """The attention maps of one sample.

    Args:
        trained: a model with attention between fields, such as AutoInt; its process must hold all tables.
        dataset: the one it was trained on, with keys.
        split: of which the sample is one.
        sample: its number in the split, from 0.

    Raises:
        ConfigError: the model has no attention between fields, or was trained on other data.
        InvalidInputError: there is no such split or sample.
    """
    net = trained.model.module.net
    if not isinstance(net, FieldAttentionNet):
        allowed = ", ".join(
            repr(kind) for kind, model in RANKING_MODELS.items() if hasattr(model.net, "attention_maps")
        )
        raise ConfigError(
            f"model {trained.config.model.kind!r} has no attention between features; allowed: runs of model {allowed}"
        )
    check_same_data(trained, dataset)
    indices = dataset.split(split)
    if not 0 <= sample < len(indices):
        allowed = f"0 to {len(indices) - 1}" if len(indices) else "none, the split is empty"
        raise InvalidInputError(f"sample {sample} of {split}; allowed: {allowed}")
    chosen = indices[sample : sample + 1]
    logit, maps = _maps(trained, net, dataset, chosen)
    batch = make_batch(dataset, chosen)
    fields, values = zip(
        *_fields(trained.features, batch, dataset.table.names, with_history=net.with_history), strict=True
    )
    return Explanation(
        fields=fields, values=values, maps=maps, score=1.0 / (1.0 + np.exp(-logit)), label=int(batch.labels[0])
    )


def heat_maps(explanation: Explanation) -> list[Heat]:
    """A picture per layer and head, for ``plots.write_png``."""
    layers, heads = explanation.maps.shape[:2]
    return [
        Heat(f"layer {layer + 1}, head {head + 1}", explanation.fields, explanation.maps[layer, head])
        for layer in range(layers)
        for head in range(heads)
    ]


def _maps(
    trained: TrainedModel, net: FieldAttentionNet, dataset: Dataset, chosen: Int64Array
) -> tuple[float, Float32Array]:
    mapped = map_ids(dataset, {name: row_map.lookup for name, row_map in trained.row_maps.items()})
    batch = trained.convert(make_batch(mapped, chosen), rows_of_codes(mapped)).to(trained.device)
    assert isinstance(net, nn.Module)
    seen: list[tuple[Any, ...]] = []
    handle = net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    try:
        trained.model.eval()
        with torch.no_grad():
            logits, _ = trained.model(batch)
            maps = net.attention_maps(*seen[0])
    finally:
        handle.remove()
    found: Float32Array = maps[:, 0].cpu().numpy()
    return float(logits[0]), found


def _fields(
    features: FeatureSet, batch: EncodedBatch, names: Mapping[str, Names], *, with_history: bool
) -> Iterator[tuple[str, str]]:
    """Name and value of each field, in the network's order (``embeddings/vectors.py``)."""
    for feature in (features.user_id, *features.user, *features.context):
        yield feature.name, shown_value(feature, batch.user[feature.name][0], names)
    events = features.event_features()
    if with_history:
        for feature in events:
            yield f"history.{feature.name}", f"mean of {batch.history_offsets[-1]} events"
    compared = {feature.name for feature in events} | {features.item_id.name}
    for attribute in events or (features.item_id,):
        if attribute.name in batch.item:
            yield f"item.{attribute.name}", shown_value(attribute, batch.item[attribute.name][0], names)
        else:
            yield f"item.{attribute.name}", "not known of items"
    for feature in features.item:
        if feature.name not in compared:
            yield f"item.{feature.name}", shown_value(feature, batch.item[feature.name][0], names)
