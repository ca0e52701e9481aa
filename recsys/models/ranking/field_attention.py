"""Multi-head self-attention between the fields of a sample (AutoInt, section 4.4).

Legend: ``B`` samples, ``F`` fields, ``W`` width of a field's vector, ``A`` attention width (all heads), ``H`` heads,
``K`` columns of one head, ``P`` columns of the projections: queries, keys, values, and the residual's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FieldAttention(nn.Module):
    """One interacting layer: ReLU(attention + residual), [B, F, W] to [B, F, A].

    Args:
        width: W.
        attention_width: A, a multiple of ``heads``.
        heads: H.
        residual: add what the layer reads; projected where W and A differ.
        scale: divide scores by sqrt(K).
        layer_norm: normalise before the ReLU.
        relu: of the projections, as in the official code.
    """

    def __init__(
        self,
        width: int,
        attention_width: int,
        *,
        heads: int,
        residual: bool = True,
        scale: bool = False,
        layer_norm: bool = False,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.adds_input = residual and width == attention_width
        self.head_width = attention_width // heads
        self.scale = self.head_width**-0.5 if scale else 1.0
        self.relu = relu
        self.parts = 4 if residual and not self.adds_input else 3
        # One matrix product for all: a field is read once.
        self.projections = nn.Linear(width, self.parts * attention_width, bias=False)
        for part in self.projections.weight.chunk(self.parts):
            nn.init.xavier_normal_(part)
        self.norm = nn.LayerNorm(attention_width) if layer_norm else None

    def forward(self, x_BFW: Tensor) -> Tensor:
        """[B, F, W] to [B, F, A]."""
        return self.attend(self.project(x_BFW), x_BFW if self.adds_input else None)

    def project(self, x_BFW: Tensor) -> Tensor:
        """Queries, keys, values and, where the widths differ, the residual; [B, F, P]."""
        projected_BFP: Tensor = self.projections(x_BFW)
        return torch.relu(projected_BFP) if self.relu else projected_BFP

    def attend(self, projected_BFP: Tensor, input_BFA: Tensor | None) -> Tensor:
        """The layer, given :meth:`project` of what it reads, and that itself where it is added; [B, F, A]."""
        query, key, value, residual = self._split(projected_BFP)
        mixed_BFA = (self._weights(query, key).transpose(2, 3) @ value).transpose(1, 2).flatten(2)
        added = residual if input_BFA is None else input_BFA
        if added is not None:
            mixed_BFA = mixed_BFA + added
        if self.norm is not None:
            mixed_BFA = self.norm(mixed_BFA)
        return torch.relu(mixed_BFA)

    def maps(self, x_BFW: Tensor) -> Tensor:
        """The attention weights, [B, H, F, F]: row f holds field f's weights, which sum to 1."""
        query, key, _, _ = self._split(self.project(x_BFW))
        return self._weights(query, key).transpose(2, 3)

    def _split(self, projected_BFP: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values by head, [B, H, F, K], and the projected residual, [B, F, A]."""
        parts = projected_BFP.chunk(self.parts, dim=2)
        by_head = (*projected_BFP.shape[:2], self.heads, self.head_width)
        query, key, value = (part.reshape(by_head).transpose(1, 2) for part in parts[:3])
        return query, key, value, parts[3] if self.parts == 4 else None

    def _weights(self, query: Tensor, key: Tensor) -> Tensor:
        """[B, H, F, F], a column per query: softmax over a dimension that is short and the last takes five times as
        long on CPU, and half of the layer's time at 10 fields."""
        return F.softmax((key @ query.transpose(2, 3)) * self.scale, dim=2)
