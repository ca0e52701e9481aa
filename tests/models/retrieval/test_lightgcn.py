"""LightGCN against its dense definition."""

import pytest
import torch
from torch import Tensor

from recsys.errors import InvalidInputError
from recsys.models.retrieval.hops import Hop, full_hop
from recsys.models.retrieval.lightgcn import LightGcn, LightGcnLayers
from recsys.models.retrieval.mf import IdVectors, full_rows

# User 2 and item 3 have no neighbours.
USERS = torch.tensor([0, 0, 0, 1, 3, 3])
ITEMS = torch.tensor([0, 1, 4, 0, 0, 2])
NUM_USERS, NUM_ITEMS = 4, 5


@pytest.fixture(autouse=True)
def seeded_doubles() -> object:
    torch.manual_seed(6)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def hop() -> Hop:
    return full_hop(USERS, ITEMS, num_users=NUM_USERS, num_items=NUM_ITEMS)


def dense_lightgcn(users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """He et al., SIGIR 2020, equations 6 to 8: A joins both sides, E(k+1) = D^-1/2 A D^-1/2 E(k), then the mean."""
    adjacency = torch.zeros(NUM_USERS + NUM_ITEMS, NUM_USERS + NUM_ITEMS)
    adjacency[USERS, NUM_USERS + ITEMS] = 1.0
    adjacency[NUM_USERS + ITEMS, USERS] = 1.0
    degree = adjacency.sum(dim=1)
    scale = torch.diag(torch.where(degree > 0, degree, 1.0) ** -0.5)
    step = scale @ adjacency @ scale
    everyone = torch.cat([users, items])
    mean = sum(torch.linalg.matrix_power(step, k) @ everyone for k in range(layers + 1)) / (layers + 1)
    assert isinstance(mean, Tensor)
    return mean[:NUM_USERS], mean[NUM_USERS:]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_propagation_and_its_gradients_are_those_of_the_dense_formula(layers: int) -> None:
    users, items = torch.randn(NUM_USERS, 3, requires_grad=True), torch.randn(NUM_ITEMS, 3, requires_grad=True)
    ours = LightGcnLayers()(users, items, [hop()] * layers)
    theirs = dense_lightgcn(users, items, layers)
    upstream = [torch.randn_like(x) for x in theirs]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (users, items), upstream), torch.autograd.grad(theirs, (users, items), upstream)
    )


def test_an_id_without_neighbours_keeps_a_share_of_its_own_vector() -> None:
    users, items = torch.randn(NUM_USERS, 3), torch.randn(NUM_ITEMS, 3)
    users_ND, items_MD = LightGcnLayers()(users, items, [hop()] * 2)
    torch.testing.assert_close(users_ND[2], users[2] / 3)
    torch.testing.assert_close(items_MD[3], items[3] / 3)


def test_the_model_propagates_its_vectors() -> None:
    users, items = IdVectors(full_rows(NUM_USERS), dim=3), IdVectors(full_rows(NUM_ITEMS), dim=3)
    got = LightGcn(users, items, hop=hop(), layers=2)()
    torch.testing.assert_close(got, dense_lightgcn(users.weight_RD, items.weight_RD, 2))


def test_no_layers_are_refused() -> None:
    sides = IdVectors(full_rows(NUM_USERS), dim=3), IdVectors(full_rows(NUM_ITEMS), dim=3)
    with pytest.raises(InvalidInputError, match="layers is 0; allowed: 1 or more"):
        LightGcn(*sides, hop=hop(), layers=0)


def test_weights_computed_in_float64_are_rounded_once() -> None:
    torch.set_default_dtype(torch.float32)
    items = torch.arange(3).repeat_interleave(torch.tensor([3, 5, 7]))
    users = torch.cat([torch.arange(3), torch.arange(5), torch.arange(7)])
    order = torch.argsort(users * 3 + items)
    users, items = users[order], items[order]
    made = full_hop(users, items, num_users=7, num_items=3, dtype=torch.float64)
    degrees = torch.bincount(users).double()[users] * torch.bincount(items).double()[items]
    assert made.to_users.values_E is not None
    torch.testing.assert_close(made.to_users.values_E, (degrees**-0.5).float(), rtol=0.0, atol=0.0)
