"""DIN: the two halves of the exported model are the trained one, and the model is its definition."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.models.ranking.blocks import freeze_activations
from recsys.models.ranking.din import Din, DinConfig
from recsys.models.ranking.widths import Widths

WIDTHS = Widths((4,), (3,), (2,))
CONFIGS = [
    DinConfig(attention=(5, 4), attention_act=act, softmax=softmax, head=head, head_act=head_act, dropout=0.3)  # type: ignore[arg-type]
    for (act, softmax), (head, head_act) in itertools.product(
        [("prelu", False), ("dice", True)], [((6, 5), "dice"), ((6,), "prelu"), ((), "relu")]
    )
]


def trained(config: DinConfig, widths: Widths = WIDTHS) -> Din:
    """Random weights and, by a few training batches, random running statistics."""
    torch.manual_seed(8)
    net = Din(widths, config=config).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.7)
        for _ in range(3):
            net(*inputs(widths, (3, 1, 2)))
    return net.eval()


def inputs(widths: Widths, lengths: tuple[int, ...]) -> tuple[Tensor, ...]:
    samples, events = len(lengths), sum(lengths)
    shapes = [(samples, widths.user), (samples, widths.key), (samples, widths.item), (events, widths.key)]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)])
    return (*(torch.randn(*shape, dtype=torch.float64) for shape in shapes), offsets)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("events", [0, 1, 5])
@pytest.mark.parametrize("candidates", [1, 4])
def test_user_side_and_rank_side_equal_forward(config: DinConfig, events: int, candidates: int) -> None:
    net = trained(config)
    user, query, item, keys, _ = inputs(WIDTHS, (events,) * candidates)
    user, keys = user[:1], keys[:events]
    expected = net(
        user.expand(candidates, -1), query, item, keys.repeat(candidates, 1), torch.arange(candidates + 1) * events
    )
    # A request without history carries one missing event; others may be padded anywhere.
    padded = torch.cat([torch.randn(1, WIDTHS.key, dtype=torch.float64), keys])
    present = torch.tensor([0.0] + [1.0] * events, dtype=torch.float64)
    for _ in range(2):  # as trained, and as exported
        side = net.user_side(user, padded, present)
        torch.testing.assert_close(net.rank_side(side, query, item), expected)
        freeze_activations(net)


def test_the_logit_is_the_head_on_user_interest_candidate_product_and_item() -> None:
    net = trained(CONFIGS[0])
    user, query, item, keys, offsets = inputs(WIDTHS, (2, 0, 3))
    got = net(user, query, item, keys, offsets)
    for b in range(3):
        interest = net.attention(
            query[b : b + 1], keys[offsets[b] : offsets[b + 1]], torch.tensor([0, offsets[b + 1] - offsets[b]])
        )[0]
        x = torch.cat([user[b], interest, query[b], interest * query[b], item[b]])
        torch.testing.assert_close(net.head(x[None])[0, 0], got[b])


def test_items_may_have_no_features_of_their_own() -> None:
    net = trained(CONFIGS[0], Widths((4,), (3,), ()))
    user, query, item, keys, offsets = inputs(Widths((4,), (3,), ()), (2, 2))
    side = net.user_side(user[:1], keys[:2], torch.ones(2, dtype=torch.float64))
    expected = net(user[:1].expand(2, -1), query, item, keys[:2].repeat(2, 1), offsets)
    torch.testing.assert_close(net.rank_side(side, query, item), expected)


@pytest.mark.parametrize("config", CONFIGS[:2])
def test_din_passes_gradcheck(config: DinConfig) -> None:
    net = trained(config)
    *tensors, offsets = inputs(WIDTHS, (2, 0, 1))

    def run(*values: Any) -> Tensor:
        result: Tensor = net(*values, offsets)
        return result

    assert torch.autograd.gradcheck(run, tuple(tensor.requires_grad_() for tensor in tensors))


def test_dropout_acts_in_training_only() -> None:
    net = trained(CONFIGS[1])
    data = inputs(WIDTHS, (2, 3))
    assert torch.equal(net(*data), net(*data))
    net.train()
    assert not torch.equal(net(*data), net(*data))


def test_every_attribute_of_an_event_and_of_the_candidate_reaches_the_logit() -> None:
    widths = Widths((4,), (3, 2, 1), ())
    net = trained(CONFIGS[0], widths)
    user, query, item, keys, offsets = inputs(widths, (2, 3))
    net(user, query.requires_grad_(), item, keys.requires_grad_(), offsets).sum().backward()
    for vectors in (query, keys):
        assert vectors.grad is not None
        assert (vectors.grad != 0).all()
