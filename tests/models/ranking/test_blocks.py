"""Activations against their definitions and against torch's own."""

import pytest
import torch
from torch import nn

from recsys.errors import ConfigError
from recsys.models.ranking.blocks import BatchNorm, Dice, PRelu, activation, freeze_activations, mlp


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(4)


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
def test_prelu_and_both_gradients_equal_torchs(slope: float) -> None:
    x = torch.tensor([[-2.0, 0.0, 3.0], [0.5, -0.1, -4.0]], requires_grad=True)
    same = x.detach().clone().requires_grad_()
    ours, theirs = PRelu(slope), nn.PReLU(init=slope)
    upstream = torch.randn(2, 3)
    ours(x).backward(upstream)
    theirs(same).backward(upstream)
    torch.testing.assert_close(ours(x), theirs(same))
    assert x.grad is not None and ours.slope.grad is not None and theirs.weight.grad is not None
    torch.testing.assert_close(x.grad, same.grad)
    torch.testing.assert_close(ours.slope.grad, theirs.weight.grad.squeeze())


def test_prelu_passes_gradcheck() -> None:
    layer = PRelu(0.3).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, slope: torch.func.functional_call(layer, {"slope": slope}, x), (x, layer.slope)
    )


def dice(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Zhou et al., KDD 2018, equation 3."""
    p = 1 / (1 + torch.exp(-(x - mean) / torch.sqrt(variance + 1e-8)))
    return p * x + (1 - p) * alpha * x


def dice_layer() -> Dice:
    layer = Dice(3).double()
    layer.alpha.data = torch.tensor([0.0, 0.3, -0.2], dtype=torch.float64)
    return layer


def test_dice_standardises_with_batch_statistics_in_training() -> None:
    layer, x = dice_layer(), 2 * torch.randn(6, 3, dtype=torch.float64) + 1
    expected = dice(x, x.mean(dim=0), x.var(dim=0, unbiased=False), layer.alpha)
    torch.testing.assert_close(layer(x), expected)


def test_dice_standardises_with_running_statistics_afterwards() -> None:
    layer = dice_layer()
    batches = [3 * torch.randn(7, 3, dtype=torch.float64) - 2 for _ in range(4)]
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for batch in batches:
        layer(batch)
        mean, variance = 0.9 * mean + 0.1 * batch.mean(dim=0), 0.9 * variance + 0.1 * batch.var(dim=0)
    layer.eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dice(x, mean, variance, layer.alpha))
    torch.testing.assert_close(layer(x[:1]), layer(x)[:1])


def test_dice_uses_running_statistics_for_a_training_batch_of_one_row_and_keeps_them() -> None:
    layer, row = dice_layer(), torch.randn(1, 3, dtype=torch.float64)
    layer(torch.randn(9, 3, dtype=torch.float64))
    mean, variance = layer.norm.running_mean, layer.norm.running_var
    assert mean is not None and variance is not None
    before = mean.clone(), variance.clone()
    torch.testing.assert_close(layer(row), dice(row, *before, layer.alpha))
    assert torch.equal(mean, before[0]) and torch.equal(variance, before[1])
    assert layer(row[:0]).shape == (0, 3)


def test_dice_takes_statistics_over_all_leading_dimensions() -> None:
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(dice_layer()(x).view(20, 3), dice_layer()(x.view(20, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_dice_passes_gradcheck(training: bool) -> None:
    layer = dice_layer().train(training)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(layer, {"alpha": alpha}, x)
        return result

    assert torch.autograd.gradcheck(run, (x, layer.alpha))


def test_activations_are_found_by_name() -> None:
    kinds = {name: type(activation(name, 3)) for name in ("dice", "prelu", "relu")}  # type: ignore[arg-type]
    assert kinds == {"dice": Dice, "prelu": PRelu, "relu": nn.ReLU}
    with pytest.raises(ConfigError, match=r"activation 'relo': did you mean 'relu'\? valid: dice, prelu, relu"):
        activation("relo", 3)  # type: ignore[arg-type]


def test_an_mlp_is_linear_activation_dropout_per_layer_then_one_output() -> None:
    kinds = [type(layer) for layer in mlp(5, (4, 3), act="prelu", dropout=0.5)]
    assert kinds == [nn.Linear, PRelu, nn.Dropout, nn.Linear, PRelu, nn.Dropout, nn.Linear]
    assert [type(layer) for layer in mlp(5, (), act="prelu")] == [nn.Linear]
    assert mlp(5, (4, 3), act="relu")(torch.randn(2, 5)).shape == (2, 1)


@pytest.mark.parametrize("name", ["dice", "prelu", "relu"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_freezing_keeps_the_function_without_slopes_statistics_and_norms(name: str, batch_norm: bool) -> None:
    model = nn.Sequential(mlp(5, (4, 3), act=name, batch_norm=batch_norm), nn.Flatten())  # type: ignore[arg-type]
    model(torch.randn(8, 5))
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    x = torch.randn(6, 5)
    expected = model.eval()(x)
    freeze_activations(model)
    assert not any(isinstance(module, PRelu | Dice | BatchNorm) for module in model.modules())
    torch.testing.assert_close(model(x), expected)


def test_a_norm_that_follows_no_layer_keeps_its_function_when_frozen() -> None:
    model = nn.Sequential(BatchNorm(4), nn.ReLU(), BatchNorm(4))
    model(torch.randn(8, 4))
    x = torch.randn(6, 4)
    expected = model.eval()(x)
    freeze_activations(model)
    torch.testing.assert_close(model(x), expected)
