"""AutoInt: self-attention between the fields of a sample (Song et al., CIKM 2019, arXiv 1810.11921).

Every feature of the user, the context, the candidate and its item is a *field* with a vector of one width. Layers of
multi-head self-attention let each field read the others; the logit is a linear function of what the last layer makes
of them, plus, in AutoInt+, the logit of an MLP on the fields' vectors.

``docs/understand/models.md`` says where paper, official code and FuxiCTR differ, and what chooses between them.

Legend: ``B`` samples, ``E`` events of the batch, ``U``, ``D`` and ``I`` widths of the user, of the candidate's id and
history attributes, and of the item's other features; ``F`` fields, ``M`` of them on the user's side; ``W`` width of a
field's vector, ``A`` attention width (all heads), ``H`` heads, ``P`` columns of a layer's projections, ``S`` one user's
recent events, ``C`` candidates, ``L`` layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.embeddings.jagged import weighted_sum
from recsys.errors import ConfigError
from recsys.models.ranking.blocks import ActivationName, BatchNorm, mlp
from recsys.models.ranking.field_attention import FieldAttention
from recsys.models.ranking.network import Reads
from recsys.models.ranking.widths import Widths


@dataclass(frozen=True, kw_only=True)
class AutoIntConfig:
    """AutoInt's hyper-parameters.

    Attributes:
        kind: which model this configures.
        layers: of self-attention.
        attention_width: columns of a field in them, all heads together.
        heads: of each layer; they share the attention width.
        projections: queries, keys and values are ``linear`` in the fields (the paper, FuxiCTR), or ``relu`` of that
            (the official code).
        residual: a layer adds what it reads, projected where the widths differ.
        scale: divide scores by the square root of a head's width (the official code).
        field_norm: normalise the fields' vectors over the batch, column by column: rows that are pulled to zero are
            else so short that attention weights hardly differ.
        layer_norm: normalise a field's vector after each layer's residual (FuxiCTR's order; it is before the ReLU).
        wide: the logit also has a linear function of the fields' vectors.
        head: hidden units of the MLP on the fields' vectors; none: AutoInt, otherwise AutoInt+.
        head_act: the MLP's activation: ``relu``, ``prelu`` or ``dice``.
        batch_norm: normalise the MLP's hidden units before their activation.
        dropout: in the MLP, in training.
        history: ``mean``: the mean of the past events' vectors, attribute by attribute, makes further fields.

    Raises:
        ConfigError: there is no layer, or the heads cannot share the attention width.
    """

    kind: Literal["autoint"] = "autoint"
    layers: int = 3
    attention_width: int = 32
    heads: int = 2
    projections: Literal["linear", "relu"] = "linear"
    residual: bool = True
    scale: bool = False
    field_norm: bool = False
    layer_norm: bool = False
    wide: bool = False
    head: tuple[int, ...] = ()
    head_act: ActivationName = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    history: Literal["none", "mean"] = "none"

    @property
    def reads(self) -> Reads:
        """Events for the fields of the history, if there are any."""
        return "nothing" if self.history == "none" else "events"

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "attention_width"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.attention_width % self.heads:
            raise ConfigError(
                f"model.attention_width is {self.attention_width} for {self.heads} heads; allowed: a multiple of "
                "model.heads"
            )


class AutoInt(nn.Module):
    """The network above the embeddings.

    ``user_side`` and ``rank_side`` together equal ``forward`` on one user: they are the two exported graphs.

    Args:
        widths: of the features; every one that is not numeric has the same.
        config: hyper-parameters.

    Attributes:
        side_dimensions: names of the user side's tensors in the graphs (no feature's name has a dot); none of their
            dimensions is dynamic. ``side.projected``: the user's fields as the first layer projects them, [M, P].
            ``side.fields``: their vectors, [M, W], where that layer adds them as they are. ``side.linear``: what they
            contribute to the linear logit and to the MLP's first layer, with its bias.

    Raises:
        ConfigError: there are no fields, or their vectors differ in width.
    """

    def __init__(self, widths: Widths, *, config: AutoIntConfig) -> None:
        super().__init__()
        self.widths = widths
        self.with_history = config.history == "mean"
        self.user_fields = (*widths.user_fields, *(widths.key_fields if self.with_history else ()))
        self.item_fields = (*widths.key_fields, *widths.item_fields)
        fields = (*self.user_fields, *self.item_fields)
        self.width = width = _one_width(fields)
        numbers = fields.count(1)
        self.numbers_NW = nn.Parameter(torch.randn(numbers, width) * width**-0.5) if numbers else None
        self.user_norm = BatchNorm(len(self.user_fields) * width) if config.field_norm else None
        self.item_norm = BatchNorm(len(self.item_fields) * width) if config.field_norm else None
        self.layers = nn.ModuleList(
            FieldAttention(
                width if number == 0 else config.attention_width,
                config.attention_width,
                heads=config.heads,
                residual=config.residual,
                scale=config.scale,
                layer_norm=config.layer_norm,
                relu=config.projections == "relu",
            )
            for number in range(config.layers)
        )
        self.output = nn.Linear(len(fields) * config.attention_width, 1)
        self.wide = nn.Linear(len(fields) * width, 1, bias=False) if config.wide else None
        self.deep = (
            mlp(
                len(fields) * width,
                config.head,
                act=config.head_act,
                dropout=config.dropout,
                batch_norm=config.batch_norm,
            )
            if config.head
            else None
        )
        sides = {"side.projected": True, "side.fields": self._first().adds_input, "side.linear": bool(self._linear())}
        self.side_dimensions: Mapping[str, Mapping[int, str]] = {name: {} for name, needed in sides.items() if needed}

    def forward(self, user_BU: Tensor, query_BD: Tensor, item_BI: Tensor, keys_ED: Tensor, offsets: Tensor) -> Tensor:
        """Logits, [B]. ``offsets`` [B + 1]: sample b's events are keys_ED[offsets[b]:offsets[b + 1]]."""
        fields_BFW = self.fields(user_BU, query_BD, item_BI, keys_ED, offsets)
        x_BFA = fields_BFW
        for layer in self.layers:
            x_BFA = layer(x_BFA)
        linear = self._linear()
        first = F.linear(fields_BFW.flatten(1), *linear) if linear else None
        return self._logits(x_BFA, first)

    def attention_maps(
        self, user_BU: Tensor, query_BD: Tensor, item_BI: Tensor, keys_ED: Tensor, offsets: Tensor
    ) -> Tensor:
        """Attention weights, [L, B, H, F, F]: row f says how much field f reads each field, and sums to 1."""
        x = self.fields(user_BU, query_BD, item_BI, keys_ED, offsets)
        maps = []
        for layer in self.layers:
            assert isinstance(layer, FieldAttention)
            maps.append(layer.maps(x))
            x = layer(x)
        return torch.stack(maps)

    def fields(self, user_BU: Tensor, query_BD: Tensor, item_BI: Tensor, keys_ED: Tensor, offsets: Tensor) -> Tensor:
        """The fields' vectors, [B, F, W]: the user's, with those of the history, the candidate's, the item's."""
        if self.with_history:
            lengths_B = offsets.diff()
            sample_E = torch.repeat_interleave(lengths_B, output_size=len(keys_ED))
            weights_E = lengths_B.to(keys_ED.dtype).reciprocal()[sample_E]
            user_BU = torch.cat([user_BU, weighted_sum(weights_E, keys_ED, offsets, sample_E)], dim=1)
        return torch.cat([self._user_vectors(user_BU), self._item_vectors(query_BD, item_BI)], dim=1)

    def user_side(self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor) -> tuple[Tensor, ...]:
        """The part of a request that is computed once. ``present_S`` is 0 for padding."""
        if self.with_history:
            mean_D = (present_S @ keys_SD) / present_S.sum().clamp_min(1.0)
            user_1U = torch.cat([user_1U, mean_D[None]], dim=1)
        fields_1MW = self._user_vectors(user_1U)
        side = [self._first().project(fields_1MW).squeeze(0)]
        if self._first().adds_input:
            side.append(fields_1MW.squeeze(0))
        if linear := self._linear():
            weight, bias = linear
            side.append(F.linear(fields_1MW.flatten(1), weight[:, : self._user_columns()], bias).squeeze(0))
        return tuple(side)

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor, item_CI: Tensor) -> Tensor:
        """Logits of C candidates, [C]. ``side``: the tensors of :meth:`user_side`, named by ``side_dimensions``."""
        user = dict(zip(self.side_dimensions, side, strict=True))
        fields_CNW = self._item_vectors(query_CD, item_CI)
        candidates = fields_CNW.shape[0]

        def with_user(name: str, of_items: Tensor) -> Tensor:
            return torch.cat([user[name].expand(candidates, -1, -1), of_items], dim=1)

        first = self._first()
        projected_CFP = with_user("side.projected", first.project(fields_CNW))
        x_CFA = first.attend(projected_CFP, with_user("side.fields", fields_CNW) if first.adds_input else None)
        for layer in self.layers[1:]:
            x_CFA = layer(x_CFA)
        if not (linear := self._linear()):
            return self._logits(x_CFA, None)
        of_items = linear[0][:, self._user_columns() :]
        return self._logits(x_CFA, torch.addmm(user["side.linear"], fields_CNW.flatten(1), of_items.t()))

    def _user_vectors(self, user_BU: Tensor) -> Tensor:
        return _normalised(self._vectors(user_BU, self.user_fields, first_number=0), self.user_norm)

    def _item_vectors(self, query_BD: Tensor, item_BI: Tensor) -> Tensor:
        features = torch.cat([query_BD, item_BI], dim=1)
        vectors_BNW = self._vectors(features, self.item_fields, first_number=self.user_fields.count(1))
        return _normalised(vectors_BNW, self.item_norm)

    def _vectors(self, features: Tensor, fields: Sequence[int], *, first_number: int) -> Tensor:
        """Concatenated features to vectors, [B, fields, W]; that of a number is a multiple of one that is learned."""
        if self.numbers_NW is None or 1 not in fields:
            return features.reshape(features.shape[0], len(fields), self.width)
        # Numbers next to each other are one part: a graph does not grow with them.
        runs = [(width == 1, len(list(run))) for width, run in itertools.groupby(fields)]
        sizes = [count * (1 if are_numbers else self.width) for are_numbers, count in runs]
        parts, place = [], first_number
        for (are_numbers, count), part in zip(runs, torch.split(features, sizes, dim=1), strict=True):
            if are_numbers:
                parts.append(part[:, :, None] * self.numbers_NW[place : place + count])
                place += count
            else:
                parts.append(part.reshape(part.shape[0], count, self.width))
        return torch.cat(parts, dim=1)

    def _first(self) -> FieldAttention:
        first = self.layers[0]
        assert isinstance(first, FieldAttention)
        return first

    def _user_columns(self) -> int:
        return len(self.user_fields) * self.width

    def _linear(self) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of the layers that read the fields' vectors, the linear logit's first, as one product."""
        weights, biases = [], []
        if self.wide is not None:
            weights, biases = [self.wide.weight], [self.wide.weight.new_zeros(1)]
        if self.deep is not None:
            layer = self.deep[0]
            assert isinstance(layer, nn.Linear)
            bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(layer.out_features)
            weights, biases = [*weights, layer.weight], [*biases, bias]
        return (torch.cat(weights), torch.cat(biases)) if weights else None

    def _logits(self, x_BFA: Tensor, first: Tensor | None) -> Tensor:
        """``first``: products of :meth:`_linear` with the fields' vectors."""
        logits_B1: Tensor = self.output(x_BFA.flatten(1))
        if self.wide is not None and first is not None:
            logits_B1, first = logits_B1 + first[:, :1], first[:, 1:]
        if self.deep is not None and first is not None:
            logits_B1 = logits_B1 + self.deep[1:](first)
        return logits_B1.squeeze(1)


def _normalised(vectors_BFW: Tensor, norm: nn.Module | None) -> Tensor:
    if norm is None:
        return vectors_BFW
    normal: Tensor = norm(vectors_BFW.flatten(1)).view(vectors_BFW.shape)
    return normal


def _one_width(fields: Sequence[int]) -> int:
    found = sorted({width for width in fields if width != 1})
    if len(found) != 1:
        arrived = f"vectors of widths {', '.join(map(str, found))}" if found else f"{len(fields)} fields, none with ids"
        raise ConfigError(
            f"model 'autoint' got {arrived}; allowed: one width for the vectors of all features, so leave tables.dims "
            "empty and set tables.dim"
        )
    return found[0]
