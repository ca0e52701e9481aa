"""The arithmetic of a step: float32, or torch's autocast for the network with float32 tables and losses.

With fp16 small gradients would vanish, so the loss is multiplied by a scale, and a step whose gradients overflow is
skipped and the scale lowered (Micikevicius et al., ICLR 2018). The tables' optimiser runs inside the backward pass,
before anyone could unscale: :meth:`Precision.unscale_gradients_of` does it on the way to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.training.config import AmpName


class Precision:
    """Arithmetic of a run.

    Args:
        amp: ``none``, ``bf16`` or ``fp16``.
        device: of the model.

    Raises:
        ConfigError: the device cannot.
    """

    def __init__(self, amp: AmpName, device: torch.device) -> None:
        if amp == "fp16" and device.type == "cpu":
            raise ConfigError(
                "train.amp is 'fp16', but training runs on CPU, which has no fast fp16; allowed: none, bf16"
            )
        if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError("train.amp is 'bf16', but this GPU has no bf16; allowed: none, fp16")
        self.device = device
        self._type = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    @property
    def skips_steps(self) -> bool:
        """True if a gradient that is not finite only makes the step be left out."""
        return self._scaler.is_enabled()

    def autocast(self) -> AbstractContextManager[Any]:
        """For the forward pass."""
        return nullcontext() if self._type is None else torch.autocast(self.device.type, dtype=self._type)

    def scaled(self, loss: Tensor) -> Tensor:
        """The scaled loss, to differentiate."""
        return self._scaler.scale(loss)

    def unscale_gradients_of(self, tables: nn.Module) -> None:
        """Have the gradients that reach these tables be those of the loss itself; zero if the step is to be skipped."""
        if not self.skips_steps:
            return

        def unscaled(module: nn.Module, inputs: Any, rows: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: _Unscale.apply(each, self._scaler) for name, each in rows.items()}  # type: ignore[no-untyped-call]

        tables.register_forward_hook(unscaled)

    def update(self, optimizer: torch.optim.Optimizer, net: nn.Module, *, clip_norm: float) -> NetUpdate:
        """The network's update; ``clip_norm`` 0 for no limit."""
        return NetUpdate(optimizer, list(net.parameters()), scaler=self._scaler, clip_norm=clip_norm)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; empty without a scale."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        if state:
            self._scaler.load_state_dict(dict(state))


class NetUpdate:
    """Clips the gradient, and steps unless it is not finite (``steps.Update``).

    Attributes:
        grad_norm: of the last step, before clipping.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        *,
        scaler: torch.amp.GradScaler,
        clip_norm: float,
    ) -> None:
        self._optimizer, self._parameters, self._scaler, self._clip_norm = optimizer, parameters, scaler, clip_norm
        self.grad_norm = 0.0

    def zero_grad(self) -> None:
        """See ``steps.Update``."""
        self._optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """See ``steps.Update``."""
        self._scaler.unscale_(self._optimizer)
        if self._clip_norm > 0:
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        self.grad_norm = norm.item()
        if self._scaler.is_enabled() or math.isfinite(self.grad_norm):
            self._scaler.step(self._optimizer)
            self._scaler.update()


class _Unscale(torch.autograd.Function):
    """The same values; the gradient divided by the scale, or zero if it overflowed."""

    @staticmethod
    def forward(ctx: Any, rows_UD: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        ctx.scaler = scaler
        return rows_UD.view_as(rows_UD)

    @staticmethod
    def backward(ctx: Any, grad_UD: Tensor) -> tuple[Tensor, None]:
        grad_UD = grad_UD / ctx.scaler.get_scale()
        return torch.where(torch.isfinite(grad_UD).all(), grad_UD, torch.zeros_like(grad_UD)), None
