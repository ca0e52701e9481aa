"""Heads that predict the attributes of the next item."""

import math

import torch

from recsys.models.retrieval.two_tower.heads import AttributeHeads, attribute_loss


def test_the_loss_is_that_of_the_values_that_a_target_has_and_of_the_targets_that_have_one() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 1.0], [math.log(9.0), 0.0]])
    of_first, of_last = [-math.log(1 / 4), -math.log(3 / 4)], -math.log(9 / 10)
    values = torch.tensor([[0, 1], [-1, -1], [0, -1]])
    expected = (sum(of_first) / 2 + of_last) / 2
    assert math.isclose(attribute_loss(logits, values).item(), expected, rel_tol=1e-6)
    assert attribute_loss(logits, torch.full((3, 2), -1)).item() == 0.0


def test_each_attribute_weighs_the_same() -> None:
    heads = AttributeHeads(4, values=[2, 50])
    read = torch.zeros(3, 4)
    with torch.no_grad():
        for head in heads.heads:
            head.bias.zero_()
    values = [torch.zeros(3, 1, dtype=torch.int64)] * 2
    assert math.isclose(heads(read, values).item(), (math.log(2) + math.log(50)) / 2, rel_tol=1e-6)
