"""DIN's activation unit equals its definition, in all three forms."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from recsys.models.ranking.attention import ActivationUnit, segment_softmax
from recsys.models.ranking.blocks import Dice, PRelu

D, HIDDEN = 3, (5, 4)
LENGTHS = (2, 0, 4, 1, 0)

forms = pytest.mark.parametrize(("act", "softmax"), [*itertools.product(["prelu", "dice", "relu"], [False, True])])


def unit(act: str, softmax: bool) -> ActivationUnit:
    torch.manual_seed(6)
    made = ActivationUnit(D, hidden=HIDDEN, act=act, softmax=softmax).double()  # type: ignore[arg-type]
    for module in made.modules():
        if isinstance(module, PRelu):
            module.slope.data = torch.tensor(0.4, dtype=torch.float64)
        if isinstance(module, Dice):
            module.alpha.data.normal_()
            module.norm.running_mean.normal_()  # type: ignore[union-attr]
            module.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return made.eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(7)
    offsets = torch.tensor([0, *itertools.accumulate(LENGTHS)])
    query = torch.randn(len(LENGTHS), D, dtype=torch.float64)
    return query, torch.randn(sum(LENGTHS), D, dtype=torch.float64), offsets


def activate(layer: nn.Module, x: Tensor) -> Tensor:
    """The activations by their definitions, for one vector, after training."""
    if isinstance(layer, Dice):
        p = torch.sigmoid((x - layer.norm.running_mean) / torch.sqrt(layer.norm.running_var + 1e-8))  # type: ignore[operator]
        return p * x + (1 - p) * layer.alpha * x
    slope = layer.slope if isinstance(layer, PRelu) else 0.0
    return torch.where(x > 0, x, slope * x)


def definition(layer: ActivationUnit, q: Tensor, keys: list[Tensor]) -> Tensor:
    """KDD 2018, section 4.3: an MLP on [q, k, q - k, q * k] weighs each event of one sample."""
    logits = []
    for k in keys:
        x = torch.cat([q, k, q - k, q * k])
        h = activate(layer.first_act, layer.first.weight @ x + layer.first.bias)
        h = activate(layer.second_act, layer.second.weight @ h + layer.second.bias)
        logits.append((layer.last.weight @ h + layer.last.bias)[0])
    if layer.softmax and keys:
        powers = [torch.exp(logit / D**0.5) for logit in logits]
        logits = [power / sum(powers) for power in powers]
    total = torch.zeros(D, dtype=torch.float64)
    for weight, k in zip(logits, keys, strict=True):
        total = total + weight * k
    return total


@forms
def test_forward_equals_the_definition(act: str, softmax: bool) -> None:
    layer, (query, keys, offsets) = unit(act, softmax), batch()
    histories = [list(keys[offsets[b] : offsets[b + 1]]) for b in range(len(query))]
    expected = torch.stack([definition(layer, q, events) for q, events in zip(query, histories, strict=True)])
    torch.testing.assert_close(layer(query, keys, offsets), expected)


@forms
def test_samples_without_events_get_zero(act: str, softmax: bool) -> None:
    layer, (query, keys, offsets) = unit(act, softmax), batch()
    got = layer(query, keys, offsets)
    assert not got[[1, 4]].any()
    assert got[[0, 2, 3]].any(dim=1).all()
    assert not layer(query, keys[:0], torch.zeros_like(offsets)).any()


@forms
@pytest.mark.parametrize("candidates", [1, 4])
@pytest.mark.parametrize("padding", [0, 3])
def test_folding_the_events_equals_forward(act: str, softmax: bool, candidates: int, padding: int) -> None:
    layer, (query, keys, _) = unit(act, softmax), batch()
    query, keys = query[:candidates], keys[:4]
    expected = layer(query, keys.repeat(candidates, 1), torch.arange(candidates + 1) * len(keys))
    padded = torch.cat([keys, torch.randn(padding, D, dtype=torch.float64)])
    present = torch.tensor([1.0] * len(keys) + [0.0] * padding, dtype=torch.float64)
    torch.testing.assert_close(layer.attend(query, layer.user_side(padded, present)), expected)


@forms
def test_folding_nothing_but_padding_gives_zero(act: str, softmax: bool) -> None:
    layer, (query, keys, _) = unit(act, softmax), batch()
    got = layer.attend(query, layer.user_side(keys[:2], torch.zeros(2, dtype=torch.float64)))
    assert got.shape == query.shape
    assert not got.any()


@forms
def test_forward_passes_gradcheck_in_queries_keys_and_weights(act: str, softmax: bool) -> None:
    layer, (query, keys, offsets) = unit(act, softmax), batch()
    parameters = dict(layer.named_parameters())

    def run(query: Tensor, keys: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(parameters, values, strict=True))
        result: Tensor = torch.func.functional_call(layer, named, (query, keys, offsets))
        return result

    assert torch.autograd.gradcheck(
        run, (query.requires_grad_(), keys.requires_grad_(), *parameters.values()), fast_mode=True
    )


def test_segment_softmax_is_a_softmax_per_sample_even_of_large_logits() -> None:
    logits = torch.tensor([900.0, 901.0, -3.0, 5.0, -900.0])
    sample = torch.tensor([0, 0, 2, 2, 3])
    expected = torch.cat([torch.softmax(logits[:2], 0), torch.softmax(logits[2:4], 0), torch.ones(1)])
    torch.testing.assert_close(segment_softmax(logits, sample, 4), expected)
