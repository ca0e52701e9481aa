"""DCN-V2: the two halves of the exported model are the trained one, and the model is its definition."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.models.ranking.blocks import freeze_activations
from recsys.models.ranking.dcn import Dcn, DcnConfig
from recsys.models.ranking.widths import Widths

WIDTHS = Widths((4,), (3,), (2,))
CONFIGS = [
    DcnConfig(cross_layers=layers, dropout=0.3, structure=structure, **head)  # type: ignore[arg-type]
    for structure, layers, head in itertools.product(
        ["stacked", "parallel"],
        [1, 3],
        [
            {"head": (6, 5), "head_act": "relu"},
            {"head": (6,), "head_act": "dice"},
            {"head": (5, 4), "head_act": "prelu"},
            {"head": ()},
            {"head": (6, 5), "batch_norm": True},
        ],
    )
]


def trained(config: DcnConfig, widths: Widths = WIDTHS) -> Dcn:
    """Random weights and, by a few training batches, random running statistics."""
    torch.manual_seed(8)
    net = Dcn(widths, config=config).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.7)
        for _ in range(3):
            net(*inputs(widths, 3), *no_history(widths, 3))
    return net.eval()


def inputs(widths: Widths, samples: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(samples, width, dtype=torch.float64) for width in (widths.user, widths.key, widths.item))


def no_history(widths: Widths, samples: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(0, widths.key, dtype=torch.float64), torch.zeros(samples + 1, dtype=torch.int64)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("candidates", [1, 4])
@pytest.mark.parametrize("widths", [WIDTHS, Widths((4,), (3,), ())])
def test_user_side_and_rank_side_equal_forward(config: DcnConfig, candidates: int, widths: Widths) -> None:
    net = trained(config, widths)
    user, query, item = inputs(widths, candidates)
    user = user[:1]
    expected = net(user.expand(candidates, -1), query, item, *no_history(widths, candidates))
    for _ in range(2):  # as trained, and as exported
        side = net.user_side(user, torch.zeros(1, widths.key), torch.zeros(1))
        torch.testing.assert_close(net.rank_side(side, query, item), expected)
        freeze_activations(net)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_logit_is_the_papers_formula(config: DcnConfig) -> None:
    net = trained(config)
    user, query, item = inputs(WIDTHS, 3)
    got = net(user, query, item, *no_history(WIDTHS, 3))
    for b in range(3):
        x0 = torch.cat([user[b], query[b], item[b]])
        x = x0
        for layer in net.cross:
            x = x0 * (layer.weight @ x + layer.bias) + x
        if config.structure == "stacked":
            last = net.deep(x[None])[0]
        else:
            last = torch.cat([x, net.deep(x0[None])[0]])
        torch.testing.assert_close(net.output.weight[0] @ last + net.output.bias[0], got[b])


def test_l_cross_layers_make_crosses_of_degree_l_plus_1() -> None:
    net = trained(DcnConfig(cross_layers=2, head=()))
    with torch.no_grad():
        for layer in net.cross:
            layer.bias.zero_()
        net.output.bias.zero_()
    features = inputs(WIDTHS, 1)
    # The third differences of a polynomial of degree 3 that has no constant term are 3! times its leading term.
    values = [net(*(t * f for f in features), *no_history(WIDTHS, 1)) for t in range(5)]
    for order in range(1, 5):
        values = [later - earlier for earlier, later in itertools.pairwise(values)]
        assert (max(value.abs().item() for value in values) < 1e-9) == (order == 4)


def test_the_history_is_not_read() -> None:
    net = trained(CONFIGS[0])
    data = inputs(WIDTHS, 2)
    keys, offsets = torch.randn(5, WIDTHS.key, dtype=torch.float64), torch.tensor([0, 2, 5])
    assert torch.equal(net(*data, keys, offsets), net(*data, *no_history(WIDTHS, 2)))


@pytest.mark.parametrize("config", [CONFIGS[2], CONFIGS[-3]])
def test_dcn_passes_gradcheck(config: DcnConfig) -> None:
    net = trained(config)

    def run(*values: Any) -> Tensor:
        result: Tensor = net(*values, *no_history(WIDTHS, 3))
        return result

    assert torch.autograd.gradcheck(run, tuple(tensor.requires_grad_() for tensor in inputs(WIDTHS, 3)))


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[10]])
def test_dropout_acts_in_training_only(config: DcnConfig) -> None:
    net = trained(config)
    data = (*inputs(WIDTHS, 4), *no_history(WIDTHS, 4))
    assert torch.equal(net(*data), net(*data))
    net.train()
    assert not torch.equal(net(*data), net(*data))


def test_a_network_without_cross_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.cross_layers is 0; allowed: 1 or more"):
        DcnConfig(cross_layers=0)
