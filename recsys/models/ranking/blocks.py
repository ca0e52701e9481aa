"""Layers several models share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.errors import ConfigError, nearest

ActivationName = Literal["dice", "prelu", "relu"]


class PRelu(nn.Module):
    """max(x, 0) + slope * min(x, 0) with one learned slope (He et al., 2015, section 2.1, channel-shared).

    Unlike ``nn.PReLU`` its gradient costs two passes over the data, and with the slope fixed it is
    a LeakyReLU, which ONNX Runtime fuses into the matrix product before it.
    """

    def __init__(self, slope: float = 0.25) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        result: Tensor = _PReluFunction.apply(x, self.slope)  # type: ignore[no-untyped-call]
        return result

    def frozen(self) -> nn.Module:
        """The same function with the slope fixed, for export."""
        return nn.LeakyReLU(self.slope.item())


class _PReluFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, slope.item())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        grad_x = torch.ops.aten.leaky_relu_backward(grad, x, slope.item(), False)
        return grad_x, torch.dot(grad.reshape(-1), x.clamp_max(0.0).reshape(-1))


class Dice(nn.Module):
    """DIN's activation: p x + (1 - p) alpha x, p = sigmoid of x standardised over the batch.

    Batch statistics in training, running statistics afterwards (Zhou et al., KDD 2018, section 5.2;
    eps 1e-8, alpha learned from 0 per unit). The official code's evaluation used wrong statistics; see its
    README's erratum.

    Args:
        units: size of the last dimension.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(units, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        """[..., units] to the same shape. A batch of one row has no variance: it uses the running one."""
        flat = x.reshape(-1, x.shape[-1])
        use_batch = self.training and len(flat) > 1
        standardised = self.norm(flat) if use_batch else self._standardise(flat)
        gate = torch.sigmoid(standardised).view_as(x)
        return x * (self.alpha + gate * (1.0 - self.alpha))

    def frozen(self) -> nn.Module:
        """The same function with fixed statistics, for export."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None
        scale = torch.rsqrt(variance + self.norm.eps)
        return _FrozenDice(scale=scale, shift=-mean * scale, alpha=self.alpha.detach())

    def _standardise(self, x: Tensor) -> Tensor:
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None
        return (x - mean) * torch.rsqrt(variance + self.norm.eps)


class _FrozenDice(nn.Module):
    """Dice with its statistics as one scale and one shift: (1 - alpha) (sigmoid(scale x + shift)) + alpha, times x."""

    def __init__(self, *, scale: Tensor, shift: Tensor, alpha: Tensor) -> None:
        super().__init__()
        for name, tensor in (("scale", scale), ("shift", shift), ("alpha", alpha), ("rest", 1.0 - alpha)):
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x * self.get_buffer("scale") + self.get_buffer("shift"))
        return x * (gate * self.get_buffer("rest") + self.get_buffer("alpha"))


class BatchNorm(nn.Module):
    """Hidden units standardised over the batch, then scaled and shifted (Ioffe and Szegedy, ICML 2015).

    Batch statistics in training, running statistics afterwards.

    Args:
        units: size of the last dimension.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(units)

    def forward(self, x: Tensor) -> Tensor:
        """[B, units] to the same shape. A batch of one row has no variance: it uses the running one."""
        norm = self.norm
        if self.training and len(x) > 1:
            result: Tensor = norm(x)
            return result
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def frozen(self) -> nn.Module:
        """The same function with fixed statistics, for export."""
        return self.eval()

    def folded_into(self, layer: nn.Linear) -> nn.Linear:
        """``layer`` with fixed statistics after it, as one layer: s (W x + b - m) + t = (s W) x + (s (b - m) + t)."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        before = torch.zeros_like(norm.bias) if layer.bias is None else layer.bias
        folded = nn.Linear(layer.in_features, layer.out_features).to(layer.weight)
        with torch.no_grad():
            folded.weight.copy_(layer.weight * scale[:, None])
            folded.bias.copy_((before - norm.running_mean) * scale + norm.bias)
        return folded


def activation(name: ActivationName, units: int) -> nn.Module:
    """The activation layer of that name.

    Raises:
        ConfigError: an unknown name.
    """
    if name == "dice":
        return Dice(units)
    if name == "prelu":
        return PRelu()
    if name == "relu":
        return nn.ReLU()
    raise ConfigError(f"activation {name!r}: {nearest(name, ['dice', 'prelu', 'relu'])}")


def mlp(
    width: int, hidden: Sequence[int], *, act: ActivationName, dropout: float = 0.0, batch_norm: bool = False
) -> nn.Sequential:
    """Linear, with ``batch_norm`` that, activation and dropout per hidden layer, then a linear layer to one output."""
    layers: list[nn.Module] = []
    for units in hidden:
        # The norm takes a bias away: its gradient would be rounding errors, which Adam makes as large as any other.
        layers.append(nn.Linear(width, units, bias=not batch_norm))
        layers += [*([BatchNorm(units)] if batch_norm else ()), activation(act, units)]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, 1))


def freeze_activations(model: nn.Module) -> None:
    """Replace activations and norms by their ``frozen`` form, norms behind a layer by a change of it, in place."""
    children = list(model.named_children())
    for place, (name, child) in enumerate(children):
        before = children[place - 1][1] if isinstance(model, nn.Sequential) and place else None
        if isinstance(child, BatchNorm) and isinstance(before, nn.Linear):
            setattr(model, children[place - 1][0], child.folded_into(before))
            setattr(model, name, nn.Identity())
        elif isinstance(child, PRelu | Dice | BatchNorm):
            setattr(model, name, child.frozen())
        else:
            freeze_activations(child)
