"""NGCF against the paper's per-node equations and the authors' matrix form, both on dense matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.errors import InvalidInputError
from recsys.models.retrieval.hops import Hop, drop_messages, full_hop
from recsys.models.retrieval.ngcf import Ngcf, NgcfLayer, Variant

# User 2 and item 3 have no neighbours.
USERS = torch.tensor([0, 0, 0, 1, 3, 3])
ITEMS = torch.tensor([0, 1, 4, 0, 0, 2])
NUM_USERS, NUM_ITEMS, DIM, SLOPE = 4, 5, 3, 0.2


@pytest.fixture(autouse=True)
def seeded_doubles() -> object:
    torch.manual_seed(6)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def hop(variant: Variant) -> Hop:
    kind = "row" if variant == "code" else "symmetric"
    return full_hop(USERS, ITEMS, num_users=NUM_USERS, num_items=NUM_ITEMS, normalization=kind)


def adjacency() -> Tensor:
    matrix = torch.zeros(NUM_USERS + NUM_ITEMS, NUM_USERS + NUM_ITEMS)
    matrix[USERS, NUM_USERS + ITEMS] = matrix[NUM_USERS + ITEMS, USERS] = 1.0
    return matrix


def node_by_node(layer: NgcfLayer, everyone: Tensor) -> Tensor:
    """Wang et al., SIGIR 2019, equations 3 to 6."""
    edges = adjacency()
    degree = edges.sum(dim=1)
    new = []
    for node, own in enumerate(everyone):
        total = own @ layer.sum_weight
        for other in edges[node].nonzero().flatten().tolist():
            weight = 1.0 / torch.sqrt(degree[node] * degree[other])
            total = total + weight * (everyone[other] @ layer.sum_weight)
            total = total + weight * ((everyone[other] * own) @ layer.product_weight)
        new.append(F.leaky_relu(total, SLOPE))
    return torch.stack(new)


def as_in_the_code(layer: NgcfLayer, everyone: Tensor) -> Tensor:
    """The authors' _create_ngcf_embed: A = D^-1 (adjacency + I), the two terms activated separately."""
    looped = adjacency() + torch.eye(NUM_USERS + NUM_ITEMS)
    side = (looped / looped.sum(dim=1, keepdim=True)) @ everyone
    summed = F.leaky_relu(side @ layer.sum_weight + layer.sum_bias, SLOPE)
    return summed + F.leaky_relu((everyone * side) @ layer.product_weight + layer.product_bias, SLOPE)


@pytest.mark.parametrize("variant", ["equation", "code"])
def test_layers_their_concatenation_and_gradients_are_those_of_the_definition(variant: Variant) -> None:
    model = Ngcf(DIM, layers=2, variant=variant, dropout=(0.0, 0.0), slope=SLOPE)
    users, items = torch.randn(NUM_USERS, DIM, requires_grad=True), torch.randn(NUM_ITEMS, DIM, requires_grad=True)
    step = node_by_node if variant == "equation" else as_in_the_code
    layers = [torch.cat([users, items])]
    for layer in model.layers:
        assert isinstance(layer, NgcfLayer)
        layers.append(step(layer, layers[-1]))
    shown = layers if variant == "equation" else [layers[0], *(F.normalize(layer, dim=1) for layer in layers[1:])]
    theirs = torch.cat(shown, dim=1)
    ours = model(users, items, [hop(variant)] * 2)
    torch.testing.assert_close(torch.cat(ours), theirs)
    upstream, leaves = torch.randn_like(theirs), (users, items, *model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(torch.cat(ours), leaves, upstream), torch.autograd.grad(theirs, leaves, upstream)
    )


def test_dropout_acts_in_training_only() -> None:
    model = Ngcf(DIM, layers=1, dropout=(0.5, 0.5))
    sides = torch.randn(NUM_USERS, DIM), torch.randn(NUM_ITEMS, DIM)
    torch.manual_seed(1)
    assert not torch.equal(model(*sides, [hop("equation")])[0], model(*sides, [hop("equation")])[0])
    model.eval()
    assert torch.equal(model(*sides, [hop("equation")])[0], model(*sides, [hop("equation")])[0])


def test_dropped_messages_are_made_up_for_by_the_others() -> None:
    own, whole = torch.rand(NUM_ITEMS, DIM), hop("equation")
    mean = sum(drop_messages(whole, 0.5).to_users @ own for _ in range(4000)) / 4000
    torch.testing.assert_close(mean, whole.to_users @ own, atol=0.05, rtol=0.0)
    assert drop_messages(whole, 0.0) is whole


def test_no_layers_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="layers is 0; allowed: 1 or more"):
        Ngcf(DIM, layers=0)
