"""The network of the two towers: attention that looks back, by differences alone."""

import pytest
import torch

from recsys.models.retrieval.two_tower.attention import GAP_BUCKETS, gap_buckets
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import TowerWidths
from recsys.models.retrieval.two_tower.network import TwoTowerNet


@pytest.fixture(scope="module")
def net() -> TwoTowerNet:
    """A network whose biases are not zero."""
    torch.manual_seed(0)
    made = TwoTowerNet(TowerWidths(8, 4, 3, 2), config=TwoTowerConfig(dim=8, interests=2, window=12)).eval()
    with torch.no_grad():
        for block in made.blocks:
            block.of_places.normal_()
            block.of_gaps.normal_()
    return made


def sequence(events: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(events)
    times = 1_700_000_000_000 + (torch.rand(events, generator=generator) * 1e9).long().cumsum(0)
    return torch.randn(events, 8, generator=generator), torch.randn(events, 3, generator=generator), times


def test_one_pass_answers_for_every_beginning_as_a_server_does(net: TwoTowerNet) -> None:
    items, attributes, times = sequence(9)
    user = torch.randn(1, 2)
    behind = [
        torch.cat([part, part[:3]])[None] for part in (items, attributes, times)
    ]  # what stands behind is not read
    read = net.read(*behind)
    for length in (1, 4, 9):
        alone = net.user(items[:length], attributes[:length], times[:length], user)
        assert torch.allclose(net.interests_of(read[:, length - 1], user)[0], alone, atol=1e-5)


def test_moved_times_change_nothing_and_other_gaps_do(net: TwoTowerNet) -> None:
    items, attributes, times = sequence(6)
    user = torch.randn(1, 2)
    known = net.user(items, attributes, times, user)
    assert torch.equal(net.user(items, attributes, times + 86_400_000, user), known)
    assert not torch.allclose(net.user(items, attributes, times * 40 - times[0] * 39, user), known, atol=1e-3)


def test_times_that_are_not_known_are_as_if_all_were_one(net: TwoTowerNet) -> None:
    items, attributes, times = sequence(6)
    without = net.user(items, attributes, None, torch.ones(1, 2))
    assert torch.allclose(net.user(items, attributes, torch.ones_like(times), torch.ones(1, 2)), without, atol=1e-5)


def test_gaps_are_counted_in_doublings_of_a_second() -> None:
    times = torch.tensor([[0, 1_000 * 2**24, 1_000 * 2**40]])
    assert gap_buckets(times)[0].tolist() == [[0, 0, 0], [GAP_BUCKETS - 1, 0, 0], [GAP_BUCKETS - 1] * 2 + [0]]


def test_vectors_have_length_one_and_an_item_without_anything_is_zero(net: TwoTowerNet) -> None:
    rows = net.item(torch.randn(5, 8), torch.randn(5, 4))
    assert torch.allclose(rows.norm(dim=1), torch.ones(5))
    bare = TwoTowerNet(TowerWidths(8, 0, 0, 0), config=TwoTowerConfig(dim=8))
    assert bare.item(torch.zeros(1, 8), torch.zeros(1, 0)).abs().sum() == 0
    items, attributes, times = sequence(3)
    interests = net.user(items, attributes, times, torch.ones(1, 2))
    assert interests.shape == (2, 8) and torch.allclose(interests.norm(dim=1), torch.ones(2))


def test_each_event_reads_of_the_older_ones_those_that_share_a_signature() -> None:
    torch.manual_seed(1)
    config = TwoTowerConfig(dim=8, window=12, long_history=100, signatures=5, bits=2, dropout=0.0)
    net = TwoTowerNet(TowerWidths(8, 4, 3, 2), config=config).train()  # reads vectors of any length as they are
    (newest, attributes, times), older = sequence(4), torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
    assert net.long is not None and net.older is not None
    directions = net.long.signatures.directions_KD.view(5, 2, 8)
    read = torch.zeros(4, 8)
    for event in range(4):
        for of_signature in directions:
            same = ((older @ of_signature.T > 0) == (newest[event] @ of_signature.T > 0)).all(dim=1)
            assert 0 < same.sum() < 60
            read[event] += torch.nn.functional.normalize(older[same].sum(dim=0), dim=0) / 5
    with_older = net.read(newest[None], attributes[None], times[None], net.buckets(older)[None])
    # The same as items that are what the events read more.
    moved = newest + net.older(read)
    assert torch.allclose(with_older, net.read(moved[None], attributes[None], times[None]), atol=1e-4)
    assert torch.allclose(
        net.read(newest[None], attributes[None], times[None], net.buckets(older[:0])[None]),
        net.read(newest[None], attributes[None], times[None]),
    )
