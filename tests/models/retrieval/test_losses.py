"""Losses over sampled items: values and gradients as their definitions have them, pair by pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recsys.models.retrieval.losses import ItemSampler, SampledItems, cosine_contrastive_loss, softmax_loss
from recsys.models.retrieval.mf import bpr_loss, training_pairs

USERS, ITEMS, DIM = 5, 9, 4
TAKEN = {0: [0, 1, 2], 1: [5], 3: [1, 3, 8], 4: list(range(ITEMS))}
"""User 2 took nothing, user 4 everything."""

USER_E = torch.tensor([user for user, items in TAKEN.items() for _ in items])
ITEM_E = torch.tensor([item for items in TAKEN.values() for item in items])
BATCH = torch.tensor([0, 2, 3, 4, 6])  # pairs of users 0, 0, 1, 3, 3
WEIGHT_E = torch.tensor([1.0, 4.0, 0.5, 1.0, 2.0])


def vectors(length_1: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    both = (torch.randn(USERS, DIM, generator=generator), torch.randn(ITEMS, DIM, generator=generator))
    return tuple((F.normalize(each, dim=1) if length_1 else each).requires_grad_() for each in both)  # type: ignore[return-value]


def drawn(items: int, seed: int = 1) -> SampledItems:
    sampler = ItemSampler(USER_E, ITEM_E, num_users=USERS, num_items=ITEMS)
    return sampler.draw(USER_E[BATCH], torch.Generator().manual_seed(seed), items=items)


def by_definition(
    loss: str, users: torch.Tensor, items: torch.Tensor, sampled: SampledItems, weighted: bool
) -> torch.Tensor:
    """One pair at a time."""
    losses = []
    for user, item in zip(USER_E[BATCH].tolist(), ITEM_E[BATCH].tolist(), strict=True):
        others = [j for j in sampled.item_S.tolist() if j not in TAKEN[user]]
        positive, negatives = users[user] @ items[item], items[others] @ users[user]
        if loss == "softmax":
            rest = (negatives / 0.3).exp().sum() * ((ITEMS - len(TAKEN[user])) / len(others))
            losses.append(-((positive / 0.3).exp() / ((positive / 0.3).exp() + rest)).log())
        else:
            losses.append(1 - positive + 3.0 * (negatives - 0.1).clamp(min=0).mean())
    weights = WEIGHT_E if weighted else torch.ones(len(losses))
    return (torch.stack(losses) * weights).sum() / weights.sum()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("items", [6, ITEMS])
@pytest.mark.parametrize("loss", ["softmax", "cosine_contrastive"])
def test_values_and_gradients_are_those_of_the_definition(loss: str, items: int, weighted: bool) -> None:
    sampled, weight = drawn(items), WEIGHT_E if weighted else None
    pairs = training_pairs(USER_E[BATCH], ITEM_E[BATCH], num_users=USERS, num_items=ITEMS)
    own, plain = vectors(), vectors()
    if loss == "softmax":
        value = softmax_loss(*own, pairs, sampled, temperature=0.3, weight_E=weight)
    else:
        value = cosine_contrastive_loss(*own, pairs, sampled, margin=0.1, negative_weight=3.0, weight_E=weight)
    expected = by_definition(loss, *plain, sampled, weighted)
    value.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(own, plain, strict=True):
        assert theirs.grad is not None and theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_weights_of_pairs_are_those_of_bprs_mean() -> None:
    pairs = training_pairs(USER_E[BATCH], ITEM_E[BATCH], num_users=USERS, num_items=ITEMS)
    negative = torch.tensor([4, 5, 0, 2, 7])
    (users, items), (plain_users, plain_items) = vectors(False), vectors(False)
    bpr_loss(users, items, pairs, negative, WEIGHT_E).backward()  # type: ignore[no-untyped-call]
    user, item = plain_users[USER_E[BATCH]], plain_items[ITEM_E[BATCH]]
    difference = (user * (item - plain_items[negative])).sum(dim=1)
    ((F.softplus(-difference) * WEIGHT_E).sum() / WEIGHT_E.sum()).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(users.grad, plain_users.grad)
    torch.testing.assert_close(items.grad, plain_items.grad)


def test_with_all_items_the_softmax_is_exact_and_a_sample_estimates_its_sum() -> None:
    users, items = (each.detach() for each in vectors())
    rest = []
    for seed in range(400):
        sampled = drawn(4, seed)
        logits = (users[[0, 1, 3]] @ items[sampled.item_S].t() / 0.3).masked_fill(sampled.left_out_US, -torch.inf)
        rest.append(logits.exp().sum(dim=1) * sampled.scale_U)
    exact = [(items[[j for j in range(ITEMS) if j not in TAKEN[u]]] @ users[u] / 0.3).exp().sum() for u in (0, 1, 3)]
    torch.testing.assert_close(torch.stack(rest).mean(dim=0), torch.stack(exact), rtol=0.1, atol=0.0)


def test_a_user_whose_items_are_all_in_the_sample_has_finite_gradients() -> None:
    pairs = training_pairs(torch.tensor([4]), torch.tensor([0]), num_users=USERS, num_items=ITEMS)
    sampler = ItemSampler(USER_E, ITEM_E, num_users=USERS, num_items=ITEMS)
    sampled = sampler.draw(torch.tensor([4]), torch.Generator().manual_seed(0), items=3)
    assert sampled.left_out_US.all()
    for loss in (
        lambda *of: softmax_loss(*of, temperature=0.1),
        lambda *of: cosine_contrastive_loss(*of, margin=0.0, negative_weight=1.0),
    ):
        users, items = vectors()
        loss(users, items, pairs, sampled).backward()
        assert users.grad is not None and torch.isfinite(users.grad).all()
