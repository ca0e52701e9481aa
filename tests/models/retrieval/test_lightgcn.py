"""LightGCN against its dense definition."""

import pytest
import torch
from torch import Tensor

from recsys.errors import InvalidInputError
from recsys.models.retrieval.lightgcn import LightGcn, normalized_graph, propagate
from recsys.models.retrieval.mf import IdVectors, full_rows
from recsys.models.retrieval.sparse import SparseMatrix

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


def graph() -> SparseMatrix:
    return normalized_graph(USERS, ITEMS, num_users=NUM_USERS, num_items=NUM_ITEMS)


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
    ours = propagate(graph(), users, items, layers=layers)
    theirs = dense_lightgcn(users, items, layers)
    upstream = [torch.randn_like(x) for x in theirs]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (users, items), upstream), torch.autograd.grad(theirs, (users, items), upstream)
    )


def test_an_id_without_neighbours_keeps_a_share_of_its_own_vector() -> None:
    users, items = torch.randn(NUM_USERS, 3), torch.randn(NUM_ITEMS, 3)
    users_ND, items_MD = propagate(graph(), users, items, layers=2)
    torch.testing.assert_close(users_ND[2], users[2] / 3)
    torch.testing.assert_close(items_MD[3], items[3] / 3)


def test_the_model_propagates_its_vectors() -> None:
    users, items = IdVectors(full_rows(NUM_USERS), dim=3), IdVectors(full_rows(NUM_ITEMS), dim=3)
    got = LightGcn(users, items, graph=graph(), layers=2)()
    torch.testing.assert_close(got, dense_lightgcn(users.weight_RD, items.weight_RD, 2))


def test_no_layers_are_refused() -> None:
    sides = IdVectors(full_rows(NUM_USERS), dim=3), IdVectors(full_rows(NUM_ITEMS), dim=3)
    with pytest.raises(InvalidInputError, match="layers is 0; allowed: 1 or more"):
        LightGcn(*sides, graph=graph(), layers=0)
