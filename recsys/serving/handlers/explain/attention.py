"""Weights of target attention for one item: those by which the model multiplies its events' vectors.

The graphs give no weights, only what is made of them. So the weights are computed here, by the two small layers that a
bundle keeps as they were trained (``layers.npz``), from the tensors that the served ``user`` graph gives: for the
user's events, and for the item in place of an event. Nothing but these weights depends on this.

A model has such tensors if it is DIN, or SDIM with a short block, which reads the newest events.

Legend: ``D`` width, ``S`` events, ``H`` units of the first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from recsys.arrays import Float32Array, Float64Array
from recsys.bundle import LAYERS
from recsys.features.columns import Column

_UNITS = {"side.attention_": "attention.", "side.short_": "short."}
"""Begin of the tensors' names -> begin of the layers' names."""

_DICE_EPS = 1e-8


def attention_weights(
    folder: Path, side: Mapping[str, Column], item_side: Callable[[], Mapping[str, Column]], *, events: int
) -> Float32Array | None:
    """Weights of the newest events, oldest first; None if the model has no such attention.

    Args:
        folder: the bundle's.
        side: tensors of the ``user`` graph for the user.
        item_side: gives the same for a user whose only event is the item.
        events: that the model reads; those before the ones that the attention reads have no weight here.

    Returns:
        float32, as many as the attention reads, at most ``events``.
    """
    for begin, unit in _UNITS.items():
        weight = side.get(f"{begin}weight")
        # One of 8 bits has a scale besides: what it stands for is the graphs' own business.
        if weight is None or weight.dtype != np.float32:
            continue
        if (layers := _layers(folder, unit)) is not None:
            return _weights(layers, begin, side, item_side(), events)
    return None


def _weights(
    layers: Mapping[str, Float64Array],
    begin: str,
    side: Mapping[str, Column],
    item_side: Mapping[str, Column],
    events: int,
) -> Float32Array:
    query_D = item_side[f"{begin}keys"][-1].astype(np.float64)
    weight_DSH, bias_SH = (side[f"{begin}{name}"].astype(np.float64) for name in ("weight", "bias"))
    hidden = np.einsum("d,dsh->sh", query_D, weight_DSH) + bias_SH
    for act, layer in (("first_act", "second"), ("second_act", "last")):
        hidden = _activated(layers, act, hidden) @ layers[f"{layer}.weight"].T + layers[f"{layer}.bias"]
    weights = hidden[:, 0]
    if (mask := side.get(f"{begin}mask")) is not None:
        powers = np.exp(weights * len(query_D) ** -0.5 + mask - np.max(weights * len(query_D) ** -0.5 + mask))
        weights = powers / powers.sum()
    read = min(events, len(weights))
    newest: Float32Array = weights[len(weights) - read :].astype(np.float32)
    return newest


def _activated(layers: Mapping[str, Float64Array], name: str, x: Float64Array) -> Float64Array:
    """PReLU, or Dice with its running statistics."""
    if (slope := layers.get(f"{name}.slope")) is not None:
        return np.where(x >= 0, x, slope * x)
    mean, variance = layers[f"{name}.norm.running_mean"], layers[f"{name}.norm.running_var"]
    alpha = layers[f"{name}.alpha"]
    gate = 1.0 / (1.0 + np.exp(-(x - mean) / np.sqrt(variance + _DICE_EPS)))
    activated: Float64Array = x * (alpha + gate * (1.0 - alpha))
    return activated


def _layers(folder: Path, unit: str) -> dict[str, Float64Array] | None:
    """Weights of an activation unit; None if the bundle has none, as one of an earlier version."""
    try:
        with np.load(folder / LAYERS) as stored:
            names = [name for name in stored.files if name.startswith(unit)]
            layers = {name.removeprefix(unit): stored[name].astype(np.float64) for name in names}
    except (OSError, ValueError):
        return None
    return layers or None
