"""SDIM: the exported halves are the trained model, each long block is its definition, and hashing is the theory."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from recsys.embeddings.distinct_events import distinct
from recsys.errors import ConfigError
from recsys.models.ranking.blocks import freeze_activations
from recsys.models.ranking.jagged_events import nearest_events, newest_events, sum_of_rows
from recsys.models.ranking.long_attention import EtaBlock, SdimBlock
from recsys.models.ranking.sdim import Sdim, SdimConfig
from recsys.models.ranking.signatures import Signatures
from recsys.models.ranking.widths import Widths

WIDTHS = Widths((4,), (3, 2), (2,))
LONG = ("sdim", "din", "mean", "sim_hard", "eta", "none")


def config(long: str = "sdim", **given: object) -> SdimConfig:
    settings: dict[str, object] = {"long": long, "attention": (5, 4), "head": (6, 5), "dropout": 0.3, "short": 3}
    return SdimConfig(**{**settings, "signatures": 5, "bits": 2, "nearest": 2, **given})  # type: ignore[arg-type]


def trained(given: SdimConfig, widths: Widths = WIDTHS) -> Sdim:
    """Random weights and, by a few training batches, random running statistics."""
    torch.manual_seed(8)
    net = Sdim(widths, config=given).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.7)
        for _ in range(3):
            net(*inputs((3, 1, 2)))
    return net.eval()


def inputs(lengths: tuple[int, ...], widths: Widths = WIDTHS) -> tuple[Tensor, ...]:
    """Users, candidates, items, events and offsets; a category is one of two vectors."""
    samples, events = len(lengths), sum(lengths)
    shapes = [(samples, widths.user), (samples, widths.key), (samples, widths.item), (events, widths.key)]
    made = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    for vectors in (made[1], made[3]):
        vectors[:, 3:] = torch.tensor([[0.5, -1.0], [2.0, 0.25]], dtype=torch.float64)[torch.arange(len(vectors)) % 2]
    return (*made, torch.tensor([0, *itertools.accumulate(lengths)]))


@pytest.mark.parametrize("long", LONG)
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("events", [0, 1, 2, 7])
@pytest.mark.parametrize("candidates", [1, 4])
def test_user_side_and_rank_side_equal_forward(long: str, softmax: bool, events: int, candidates: int) -> None:
    net = trained(config(long, softmax=softmax))
    user, query, item, keys, _ = inputs((events,) * candidates)
    user, keys = user[:1], keys[:events]
    offsets = torch.arange(candidates + 1) * events
    expected = net(user.expand(candidates, -1), query, item, keys.repeat(candidates, 1), offsets)
    # A request without history carries one missing event, which may look like any other.
    padded = torch.cat([query[:1], keys])
    present = torch.tensor([0.0] + [1.0] * events, dtype=torch.float64)
    for _ in range(2):  # as trained, and as exported
        side = net.user_side(user, padded, present)
        assert len(side) == len(net.side_dimensions)
        torch.testing.assert_close(net.rank_side(side, query, item), expected)
        freeze_activations(net)


@pytest.mark.parametrize("covered", [0, 1, 4, 7])
def test_a_state_of_the_older_events_and_the_newer_ones_are_the_whole_history(covered: int) -> None:
    """The short block reads three events; what the state covers need not be sent, and may be."""
    net = trained(config())
    user, _, _, keys, _ = inputs((7,))
    present = torch.ones(7, dtype=torch.float64)
    whole, sums = net.user_side(user, keys, present), net.sums(keys[:covered], present[:covered])
    for begin in {0, min(covered, 7 - net.newest)}:
        fresh = (torch.arange(begin, 7) >= covered).double()
        *side, following = net.user_side_from(user, keys[begin:], present[begin:], sums=sums, fresh_S=fresh)
        torch.testing.assert_close(following, net.sums(keys, present))
        assert following.shape == net.state
        for got, expected in zip(side, whole, strict=True):
            torch.testing.assert_close(got, expected)


def test_only_sums_make_a_state() -> None:
    assert trained(config()).state == (5 * 2**2, WIDTHS.key)
    assert all(trained(config(long)).state is None for long in LONG if long != "sdim")


def l2(vector: Tensor) -> Tensor:
    return vector / vector.norm() if vector.norm() > 0 else vector


def attention_by_definition(net: Sdim, query: Tensor, events: Tensor) -> Tensor:
    """SDIM's equation 11 for one candidate, one signature after another."""
    assert isinstance(net.long, SdimBlock)
    hashed = net.long.signatures
    directions = hashed.directions_KD.view(hashed.signatures, hashed.bits, -1)
    total = torch.zeros_like(query)
    for signature in directions:
        sign = torch.sign(signature @ query)
        in_bucket = [event for event in events if torch.equal(torch.sign(signature @ event), sign)]
        total += l2(sum(in_bucket, start=torch.zeros_like(query)))
    return total / hashed.signatures


def test_the_long_interest_is_the_papers_sum_of_normalised_buckets() -> None:
    net = trained(config())
    assert isinstance(net.long, SdimBlock)
    _, query, _, keys, offsets = inputs((4, 0, 9))
    got = net.long(query, keys, torch.arange(len(keys)), offsets)
    for b in range(3):
        expected = attention_by_definition(net, query[b], keys[offsets[b] : offsets[b + 1]])
        torch.testing.assert_close(got[b], expected)
    assert got[0].any() and not got[1].any()


@pytest.mark.parametrize("long", ["din", "mean", "sim_hard", "eta"])
def test_each_ablation_is_attention_over_the_events_it_chooses(long: str) -> None:
    net = trained(config(long, nearest=3))
    _, query, _, keys, offsets = inputs((5, 1, 9))
    assert net.long is not None
    got = net.long(query, keys, torch.arange(len(keys)), offsets)
    for b in range(3):
        events = keys[offsets[b] : offsets[b + 1]]
        if long == "mean":
            torch.testing.assert_close(got[b], events.mean(dim=0))
            continue
        if long == "sim_hard":
            events = torch.stack([event for event in events if torch.equal(event[3:], query[b, 3:])])
        if long == "eta":
            assert isinstance(net.long, EtaBlock)
            signs, of_query = net.long.signatures.signs(events), net.long.signatures.signs(query[b : b + 1])
            distance = (signs != of_query).sum(dim=1).tolist()
            newer_first = sorted(range(len(events)), key=lambda e: (distance[e], -e))
            events = events[sorted(newer_first[:3])]
        expected = net.long.unit(query[b : b + 1], events, torch.tensor([0, len(events)]))[0]  # type: ignore[union-attr]
        torch.testing.assert_close(got[b], expected)


def test_the_logit_is_the_head_on_both_interests_and_their_products_with_the_candidate() -> None:
    net = trained(config())
    user, query, item, keys, offsets = inputs((5, 0, 2))
    got = net(user, query, item, keys, offsets)
    for b in range(3):
        events = keys[offsets[b] : offsets[b + 1]]
        newest = events[-3:]
        assert net.short is not None
        short = net.short(query[b : b + 1], newest, torch.tensor([0, len(newest)]))[0]
        long = attention_by_definition(net, query[b], events)
        x = torch.cat([user[b], short, long, query[b], short * query[b], long * query[b], item[b]])
        torch.testing.assert_close(net.head(x[None])[0, 0], got[b])


@pytest.mark.parametrize("long", LONG)
def test_shared_events_give_the_same_logits_as_events_of_each_sample(long: str) -> None:
    net = trained(config(long))
    user, query, item, keys, _ = inputs((4, 4, 4))
    index = torch.tensor([3, 1, 0, 2, 3, 3, 1, 1, 2])
    offsets = torch.tensor([0, 4, 4, 9])
    torch.testing.assert_close(
        net(user, query, item, keys, offsets, index), net(user, query, item, keys[index], offsets)
    )


# Not sim_hard: a category that is a step away is another category.
@pytest.mark.parametrize("long", ["sdim", "din", "mean", "eta", "none"])
def test_sdim_and_its_ablations_pass_gradcheck(long: str) -> None:
    net = trained(config(long))
    *tensors, offsets = inputs((3, 0, 2))
    index = torch.tensor([1, 0, 1, 4, 4])

    def run(*values: Tensor) -> Tensor:
        result: Tensor = net(*values, offsets, index)
        return result

    # Steps too small to change a sign: in what is chosen nothing has a gradient.
    assert torch.autograd.gradcheck(run, tuple(t.requires_grad_() for t in tensors), eps=1e-7, atol=1e-4)


def test_events_padding_and_samples_outside_the_history_do_not_count() -> None:
    net = trained(config())
    user, query, item, keys, offsets = inputs((4, 3, 5))
    expected = net(user, query, item, keys, offsets)[1]
    others = keys.clone()
    others[: offsets[1]], others[offsets[2] :] = 7.0, -7.0
    torch.testing.assert_close(net(user, query, item, others, offsets)[1], expected)


def test_signatures_collide_as_often_as_the_angle_says() -> None:
    # Cao et al., equation 12: (1 - angle / pi) ^ tau. 20,000 signatures are as many trials.
    trials, bits = 20_000, 3
    generator = torch.Generator().manual_seed(1)
    for number, cosine in enumerate((1.0, 0.95, 0.7, 0.2, 0.0, -0.5, -1.0)):
        first, second = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
        first[0], second[0], second[1] = 3.0, cosine, math.sqrt(1 - cosine**2)
        rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
        hashed = Signatures(8, signatures=trials, bits=bits, seed=number)
        buckets = hashed.buckets_of(torch.stack([first, second]) @ rotation)
        expected = (1 - math.acos(cosine) / math.pi) ** bits
        error = math.sqrt(expected * (1 - expected) / trials)
        assert (buckets[0] == buckets[1]).double().mean().item() == pytest.approx(expected, abs=4 * error + 1e-12)


def test_an_events_expected_weight_in_the_buckets_is_its_collision_probability() -> None:
    # The sum of a bucket before its normalisation is target attention with the collision rates as weights.
    trials, bits = 10_000, 2
    torch.manual_seed(2)
    query, events = torch.randn(1, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    hashed = Signatures(6, signatures=trials, bits=bits, seed=3)
    got = hashed.attend_buckets(query, hashed.bucket_sums(events, torch.ones(5, dtype=torch.float64)))[0]
    weights = (1 - torch.acos(torch.cosine_similarity(query, events)) / math.pi) ** bits
    errors = torch.sqrt(weights * (1 - weights) / trials)
    got = got / trials
    assert ((got - weights @ events).abs() <= 4 * (errors[:, None] * events.abs()).sum(dim=0)).all()


def test_the_directions_are_fixed_by_their_seed_and_kept_with_the_weights() -> None:
    first, again, other = trained(config()), trained(config()), trained(config(hash_seed=1))
    assert isinstance(first.long, SdimBlock)
    directions = first.state_dict()["long.signatures.directions_KD"]
    assert torch.equal(directions, again.state_dict()["long.signatures.directions_KD"])
    assert not torch.equal(directions, other.state_dict()["long.signatures.directions_KD"])
    other.load_state_dict(first.state_dict())
    data = inputs((3, 2))
    assert torch.equal(other(*data), first(*data))
    assert "long.signatures.directions_KD" not in dict(first.named_parameters())


def test_what_a_candidate_lacks_is_summed_but_not_hashed() -> None:
    net = trained(config(), Widths((4,), (3, 2), (2,), stand_ins=(1,)))
    assert isinstance(net.long, SdimBlock)
    _, query, _, keys, offsets = inputs((9,))
    attend, index = net.long.signatures, torch.arange(9)
    pairs = attend.matches(query, keys, index, offsets)
    keys[:, 3:], query[:, 3:] = keys[:, 3:] + 100.0, -5.0
    again = attend.matches(query, keys, index, offsets)
    assert torch.equal(pairs.index_M, again.index_M) and torch.equal(pairs.offsets, again.offsets)
    assert attend(query, keys, index, offsets)[0, 3:].norm() > 0.9 * attend(query, keys, index, offsets)[0].norm()


def test_bucket_sums_are_additive_in_the_events() -> None:
    net = trained(config())
    assert isinstance(net.long, SdimBlock)
    *_, keys, _ = inputs((9,))
    sums = net.long.signatures.bucket_sums
    ones = torch.ones(9, dtype=torch.float64)
    torch.testing.assert_close(sums(keys, ones), sums(keys[:4], ones[:4]) + sums(keys[4:], ones[4:]))


def test_sums_of_rows_are_those_of_a_loop_and_empty_ones_zero() -> None:
    rows = torch.arange(6.0).view(3, 2)
    got = sum_of_rows(rows, torch.tensor([2, 2, 0]), torch.tensor([0, 2, 2, 3]))
    assert got.tolist() == [[8.0, 10.0], [0.0, 0.0], [0.0, 1.0]]


def test_the_newest_events_of_a_short_history_are_all_of_it() -> None:
    positions, offsets = newest_events(torch.tensor([0, 1, 1, 5]), 3)
    assert positions.tolist() == [0, 2, 3, 4]
    assert offsets.tolist() == [0, 1, 1, 4]


def test_of_equally_near_events_the_newer_are_taken() -> None:
    distance = torch.tensor([2, 2, 2, 0, 9, 9])
    assert (
        nearest_events(distance, torch.tensor([0, 4, 4, 6]), 3, largest=9).tolist() == [False, True, True] + [True] * 3
    )


@pytest.mark.parametrize("sizes", [[5, 3, 4], [50_000, 40_000, 30_000]])
def test_distinct_events_are_the_distinct_rows(sizes: list[int]) -> None:
    # The second has too many possible rows for a table of flags.
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randint(0, min(size, 6), (200,), generator=generator) for size in sizes]
    index, found = distinct(columns, sizes)
    rows = torch.stack(found, dim=1)
    assert torch.equal(rows[index], torch.stack(columns, dim=1))
    assert len(rows) == len({tuple(row) for row in rows.tolist()}) == len(torch.stack(columns, dim=1).unique(dim=0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": 0}, r"model\.bits is 0; allowed: 1 to 10"),
        ({"bits": 11}, r"model\.bits is 11; allowed: 1 to 10"),
        ({"signatures": 0}, r"model\.signatures is 0; allowed: 1 to 62"),
        ({"signatures": 16, "bits": 4}, r"model\.signatures \* model\.bits is 16 \* 4; allowed: up to 62"),
        ({"nearest": 0}, r"model\.nearest is 0; allowed: 1 or more"),
        ({"short": -1}, r"model\.short is -1; allowed: 0 or more"),
        ({"hash_seed": -1}, r"model\.hash_seed is -1; allowed: 0 or more"),
        ({"short": 0, "long": "none"}, "no block reads the history"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**given)  # type: ignore[arg-type]


def test_sim_hard_without_a_shared_attribute_is_refused() -> None:
    with pytest.raises(ConfigError, match="no attribute of the history is also one of the item"):
        Sdim(Widths((4,), (3, 2), (2,), stand_ins=(1,)), config=config("sim_hard"))


def test_the_long_block_alone_is_a_model() -> None:
    net = trained(config(short=0))
    user, query, item, keys, offsets = inputs((4, 4))
    keys = keys[:4].repeat(2, 1)
    side = net.user_side(user[:1], keys[:4], torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(
        net.rank_side(side, query, item), net(user[:1].expand(2, -1), query, item, keys, offsets)
    )
