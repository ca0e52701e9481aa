"""Sampled hops: exact where the fan-out holds all neighbours, right on average where it does not."""

import pytest
import torch

from recsys.errors import InvalidInputError
from recsys.models.retrieval.hops import Normalization, full_hop
from recsys.models.retrieval.lightgcn import LightGcnLayers
from recsys.models.retrieval.neighbour_sampling import NeighbourSampler
from recsys.models.retrieval.ngcf import Ngcf

USERS, ITEMS = 12, 9
PAIRS = (torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(3)) < 0.4).nonzero()
PAIRS = PAIRS[(PAIRS[:, 0] != 5) & (PAIRS[:, 1] != 7)]  # user 5 and item 7 have no neighbours
SIZES = {"num_users": USERS, "num_items": ITEMS}
ASKED = torch.tensor([0, 4, 5, 11]), torch.tensor([2, 7])


def sides(dim: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(USERS, dim, generator=generator), torch.randn(ITEMS, dim, generator=generator)


def sampler(normalization: Normalization = "symmetric") -> NeighbourSampler:
    return NeighbourSampler(PAIRS[:, 0].contiguous(), PAIRS[:, 1].contiguous(), **SIZES, normalization=normalization)


@pytest.mark.parametrize("kind", ["lightgcn", "equation", "code"])
def test_a_fan_out_of_all_neighbours_gives_the_vectors_of_the_whole_graph(kind: str) -> None:
    normalization: Normalization = "row" if kind == "code" else "symmetric"
    model = LightGcnLayers() if kind == "lightgcn" else Ngcf(4, layers=3, variant=kind).eval()  # type: ignore[arg-type]
    users, items = sides()
    hop = full_hop(PAIRS[:, 0].contiguous(), PAIRS[:, 1].contiguous(), **SIZES, normalization=normalization)
    whole = model(users, items, [hop] * 3)
    part = sampler(normalization).sample(*ASKED, fan_outs=(20, 20, 20), generator=torch.Generator())
    got = model(users[part.users], items[part.items], part.hops)
    torch.testing.assert_close(got, (whole[0][ASKED[0]], whole[1][ASKED[1]]))


def test_the_mean_over_samples_is_the_whole_sum() -> None:
    users, items = sides()
    generator, draws = torch.Generator().manual_seed(0), 600
    own = sampler()
    mean = torch.zeros(len(ASKED[0]), 4)
    for _ in range(draws):
        part = own.sample(*ASKED, fan_outs=(2,), generator=generator)
        mean += LightGcnLayers()(users[part.users], items[part.items], part.hops)[0] / draws
    hop = full_hop(PAIRS[:, 0].contiguous(), PAIRS[:, 1].contiguous(), **SIZES)
    torch.testing.assert_close(mean, LightGcnLayers()(users, items, [hop])[0][ASKED[0]], atol=0.07, rtol=0.0)


def test_a_batch_touches_no_more_nodes_than_its_fan_outs_allow() -> None:
    part = sampler().sample(torch.tensor([0]), torch.tensor([2]), fan_outs=(2, 1), generator=torch.Generator())
    # Depth 1: 2 items and 2 users at most beside the batch's own; depth 2: one more for each of them.
    assert len(part.users) <= 1 + 2 + 3 and len(part.items) <= 1 + 2 + 3
    assert 0 in part.users.tolist() and 2 in part.items.tolist()


def test_no_neighbours_at_all_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"fan_outs are \(3, 0\); allowed: 1 or more each"):
        sampler().sample(*ASKED, fan_outs=(3, 0), generator=torch.Generator())
