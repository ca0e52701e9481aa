"""Sampled softmax with the correction for how often an item is among those of a step."""

import math

import pytest
import torch

from recsys.models.retrieval.two_tower import loss as two_tower_loss
from recsys.models.retrieval.two_tower.loss import hard_negatives, inclusion, sampled_softmax, scores


def test_with_all_items_it_is_the_softmax_itself() -> None:
    torch.manual_seed(0)
    users, items, target = torch.randn(4, 1, 8), torch.randn(6, 8), torch.tensor([5, 0, 3, 3])
    loss = sampled_softmax(users, items, target, inclusion_C=torch.ones(6), temperature=0.5)
    expected = torch.nn.functional.cross_entropy(users[:, 0] @ items.t() / 0.5, target)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_an_item_that_is_there_half_of_the_time_counts_twice() -> None:
    users, items = torch.ones(1, 1, 1), torch.tensor([[1.0], [2.0], [3.0]])
    loss = sampled_softmax(users, items, torch.tensor([0]), inclusion_C=torch.tensor([0.1, 0.5, 1.0]), temperature=1.0)
    own, rest = math.exp(1), 2 * math.exp(2) + math.exp(3)
    assert float(loss) == pytest.approx(-math.log(own / (own + rest)), rel=1e-5)


def test_the_sum_over_a_step_is_on_average_that_over_all_items() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor([0.6, 0.3, 0.1, 0.0, 0.0])
    present = torch.zeros(20_000, 5)
    present.scatter_(1, torch.multinomial(share, 20_000 * 3, replacement=True, generator=generator).view(-1, 3), 1.0)
    present.scatter_(1, torch.rand(20_000, 5, generator=generator).argsort(dim=1)[:, :1], 1.0)
    expected = inclusion(share, targets=3, sampled=1, items=5)
    assert torch.allclose(present.mean(dim=0), expected, atol=0.01)


def test_weights_weigh_targets_in_the_mean() -> None:
    torch.manual_seed(1)
    users, items = torch.randn(2, 1, 4), torch.randn(3, 4)
    places, ones = torch.tensor([0, 2]), torch.ones(3)

    def loss(rows: slice, weights: list[float] | None = None) -> float:
        weight_T = None if weights is None else torch.tensor(weights)
        made = sampled_softmax(users[rows], items, places[rows], inclusion_C=ones, temperature=1.0, weight_T=weight_T)
        return float(made)

    assert loss(slice(0, 2), [3.0, 1.0]) == pytest.approx(0.75 * loss(slice(0, 1)) + 0.25 * loss(slice(1, 2)), rel=1e-5)


def test_a_users_other_targets_add_nothing_to_the_sum() -> None:
    torch.manual_seed(3)
    users, items, places = torch.randn(3, 1, 4), torch.randn(5, 4), torch.tensor([0, 2, 2])
    inclusion_C = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9])
    loss = sampled_softmax(
        users, items, places, inclusion_C=inclusion_C, temperature=1.0, user_T=torch.tensor([1, 1, 0])
    )
    expected = 0.0
    for target, others in enumerate(([1, 3, 4], [1, 3, 4], [0, 1, 3, 4])):
        weight = (users[target, 0] @ items.t()).exp()
        rest = (weight / inclusion_C)[others].sum()
        expected -= float((weight[places[target]] / (weight[places[target]] + rest)).log()) / 3
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("interests", [1, 3])
def test_its_gradients_are_those_of_the_definition(interests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_tower_loss, "_AT_A_TIME", 4)  # so that the last part is a shorter one
    generator = torch.Generator().manual_seed(4)
    users = torch.randn(10, interests, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    items = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    places, user_T = torch.randint(0, 7, (10,), generator=generator), torch.arange(10) // 3
    weights, present = torch.rand(2, 10, generator=generator, dtype=torch.float64)

    loss = sampled_softmax(
        users, items, places, inclusion_C=present[:7], temperature=0.5, weight_T=weights, user_T=user_T
    )
    found = torch.autograd.grad(loss, [users, items])

    logits = (users @ items.t()).amax(dim=1) / 0.5
    expected = logits.new_zeros(())
    for target in range(10):
        wanted = places[user_T == user_T[target]].tolist()
        rest = sum(logits[target, item].exp() / present[item] for item in range(7) if item not in wanted)
        own = logits[target, places[target]].exp()
        expected = expected - weights[target] / weights.sum() * (own / (own + rest)).log()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for mine, right in zip(found, torch.autograd.grad(expected, [users, items]), strict=True):
        assert torch.allclose(mine, right, rtol=1e-5, atol=1e-8)


def test_a_step_of_one_item_costs_nothing_and_moves_nothing() -> None:
    users, items = torch.randn(3, 1, 4, requires_grad=True), torch.randn(1, 4, requires_grad=True)
    loss = sampled_softmax(users, items, torch.zeros(3, dtype=torch.int64), inclusion_C=torch.ones(1), temperature=1.0)
    loss.backward()
    assert loss.item() == 0.0
    assert users.grad is not None and not users.grad.any() and items.grad is not None and not items.grad.any()


def test_the_score_is_that_of_the_best_interest_and_a_sum_is_another() -> None:
    """Of two interests that want opposite things, a sum over interests, such as MUVERA's fixed dimensional encodings
    give in expectation, prefers what neither wants much; the maximum what one of them wants."""
    interests = torch.tensor([[[1.0, 0.0], [-1.0, 0.2]]])
    items = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    best = scores(interests, items)[0]
    summed = (interests[0] @ items.t()).sum(dim=0)
    assert int(best.argmax()) in (0, 1) and int(best.argmin()) == 2
    assert int(summed.argmax()) == 2


def test_hard_negatives_are_what_search_finds_and_move_users_alone() -> None:
    torch.manual_seed(2)
    users, items = torch.randn(3, 2, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    left_out = torch.arange(9) == 5
    read = torch.tensor([[0, 0], [1, 2], [3, 3]])
    hard = hard_negatives(users, items.detach(), left_out_M=left_out, read_TL=read, count=8)
    for t in range(3):
        allowed = [item for item in range(9) if item != 5 and item not in read[t].tolist()]
        expected = (users[t] @ items.t()).amax(dim=0)[allowed].sort(descending=True).values
        assert torch.allclose(hard[t, : len(allowed)], expected)
        assert (hard[t, len(allowed) :] == -torch.inf).all()
    loss = sampled_softmax(
        users,
        items[:2],
        torch.tensor([0, 1, 0]),
        inclusion_C=torch.ones(2),
        temperature=1.0,
        hard_TK=hard,
    )
    rest = torch.cat([(users @ items[:2].t()).amax(dim=1), hard], dim=1)
    expected = torch.nn.functional.cross_entropy(rest, torch.tensor([0, 1, 0]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert users.grad is not None and bool(users.grad.any(dim=(1, 2)).all())
    assert items.grad is not None and not items.grad[2:].any()
