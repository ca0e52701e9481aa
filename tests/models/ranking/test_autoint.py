"""AutoInt: the two halves of the exported model are the trained one, and the model is its definition."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.errors import ConfigError
from recsys.models.ranking.autoint import AutoInt, AutoIntConfig
from recsys.models.ranking.blocks import freeze_activations
from recsys.models.ranking.widths import Widths

WIDTHS = Widths((8, 1, 8), (8, 8), (8, 1))
IDS_ONLY = Widths((8, 8), (8,), ())
PLAIN = AutoIntConfig(layers=1, attention_width=8, heads=2, residual=False)
FULL = AutoIntConfig(
    layers=2,
    attention_width=12,
    heads=3,
    projections="relu",
    scale=True,
    layer_norm=True,
    wide=True,
    head=(6, 5),
    batch_norm=True,
    dropout=0.3,
    history="mean",
)
CONFIGS = [
    PLAIN,
    FULL,
    AutoIntConfig(layers=3, attention_width=8, heads=2),
    AutoIntConfig(layers=2, attention_width=8, heads=1, wide=True, history="mean", field_norm=True),
    AutoIntConfig(layers=1, attention_width=4, heads=2, head=(7,), head_act="dice"),
    AutoIntConfig(layers=1, attention_width=8, heads=4, head=(5, 4), head_act="prelu", batch_norm=True),
]


def trained(config: AutoIntConfig, widths: Widths = WIDTHS) -> AutoInt:
    """Random weights and, by a few training batches, random running statistics."""
    torch.manual_seed(8)
    net = AutoInt(widths, config=config).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.5)
        for _ in range(3):
            net(*inputs(widths, [2, 0, 3]))
    return net.eval()


def inputs(widths: Widths, lengths: list[int]) -> tuple[Tensor, ...]:
    """A random batch of samples with histories of these lengths."""
    made = [torch.randn(len(lengths), width).double() for width in (widths.user, widths.key, widths.item)]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)])
    return (*made, torch.randn(sum(lengths), widths.key).double(), offsets)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("candidates", [1, 4])
@pytest.mark.parametrize("widths", [WIDTHS, IDS_ONLY])
@pytest.mark.parametrize("events", [0, 3])
def test_user_side_and_rank_side_equal_forward(
    config: AutoIntConfig, candidates: int, widths: Widths, events: int
) -> None:
    net = trained(config, widths)
    user, query, item, keys, _ = inputs(widths, [events] + [0] * (candidates - 1))
    offsets = torch.arange(candidates + 1) * events
    user = user[:1]
    expected = net(user.expand(candidates, -1), query, item, keys.repeat(candidates, 1), offsets)
    padded = torch.cat([keys, torch.randn(2, widths.key).double()])
    present = torch.tensor([1.0] * events + [0.0, 0.0]).double()
    for _ in range(2):  # as trained, and as exported
        side = net.user_side(user, padded, present)
        assert len(side) == len(net.side_dimensions)
        torch.testing.assert_close(net.rank_side(side, query, item), expected)
        freeze_activations(net)


def test_a_layer_is_the_papers_formula() -> None:
    """Equations 5 to 8 of the paper, with W_Res: field by field, head by head."""
    config = AutoIntConfig(layers=1, attention_width=6, heads=2)
    net = trained(config, IDS_ONLY)
    user, query, item, keys, offsets = inputs(IDS_ONLY, [0])
    e_FW = torch.cat([user, query], dim=1).view(3, 8)
    w_query, w_key, w_value, w_residual = net.layers[0].projections.weight.chunk(4)
    made = []
    for m in range(3):
        heads = []
        for h in (slice(0, 3), slice(3, 6)):
            psi = torch.stack([(w_query[h] @ e_FW[m]) @ (w_key[h] @ e_FW[k]) for k in range(3)])
            alpha = psi.exp() / psi.exp().sum()
            heads.append(sum(alpha[k] * (w_value[h] @ e_FW[k]) for k in range(3)))
        made.append(torch.relu(torch.cat(heads) + w_residual @ e_FW[m]))
    expected = net.output.weight[0] @ torch.cat(made) + net.output.bias[0]
    torch.testing.assert_close(net(user, query, item, keys, offsets), expected[None])


def test_the_official_codes_layer_rectifies_projections_scales_scores_and_normalises() -> None:
    config = AutoIntConfig(layers=1, attention_width=8, heads=2, projections="relu", scale=True, layer_norm=True)
    net = trained(config, IDS_ONLY)
    layer = net.layers[0]
    e_FW = torch.randn(3, 8).double()
    query, key, value = (torch.relu(e_FW @ w.T) for w in layer.projections.weight.chunk(3))
    mixed = []
    for h in (slice(0, 4), slice(4, 8)):
        mixed.append(torch.softmax(query[:, h] @ key[:, h].T / 2.0, dim=1) @ value[:, h])
    total = torch.cat(mixed, dim=1) + e_FW  # widths are equal: what it reads is added as it is
    centred = total - total.mean(dim=1, keepdim=True)
    normal = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(e_FW[None])[0], torch.relu(normal * layer.norm.weight + layer.norm.bias))


def test_without_residual_only_attention_is_read() -> None:
    net = trained(PLAIN, IDS_ONLY)
    assert net.layers[0].projections.out_features == 3 * 8
    e_FW = torch.randn(3, 8).double()
    value = e_FW @ net.layers[0].projections.weight[16:].T
    net.layers[0].projections.weight.data[:8] = 0.0  # all scores are equal: every field reads the mean
    torch.testing.assert_close(net.layers[0](e_FW[None])[0], torch.relu(value.mean(dim=0)).expand(3, -1))


def test_wide_and_deep_parts_add_their_logits() -> None:
    net = trained(FULL)
    data = inputs(WIDTHS, [1, 0, 2])
    x = net.fields(*data)
    attention = x
    for layer in net.layers:
        attention = layer(attention)
    flat = x.flatten(1)
    expected = net.output(attention.flatten(1)) + flat @ net.wide.weight.T + net.deep(flat)
    torch.testing.assert_close(net(*data), expected.squeeze(1))


def test_a_number_is_a_multiple_of_its_learned_vector() -> None:
    net = trained(PLAIN)
    user, query, item, keys, offsets = inputs(WIDTHS, [0, 0])
    fields = net.fields(user, query, item, keys, offsets)
    torch.testing.assert_close(fields[:, 0], user[:, :8])
    torch.testing.assert_close(fields[:, 1], user[:, 8:9] * net.numbers_NW[0])
    torch.testing.assert_close(fields[:, -1], item[:, -1:] * net.numbers_NW[1])
    torch.testing.assert_close(fields[:, 3:5], query.view(2, 2, 8))


def test_normalised_fields_have_mean_0_and_variance_1_in_training() -> None:
    net = trained(CONFIGS[3], IDS_ONLY).train()
    for norm in (net.user_norm, net.item_norm):
        norm.norm.weight.data.fill_(1.0)
        norm.norm.bias.data.zero_()
    x = net.fields(*inputs(IDS_ONLY, [2, 1, 4, 3])).flatten(1)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.shape[1]).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(x.var(dim=0, unbiased=False), torch.ones(x.shape[1]).double(), atol=2e-3, rtol=0)


def test_the_history_is_read_as_the_mean_of_each_attribute_or_not_at_all() -> None:
    reads, ignores = trained(dataclasses.replace(CONFIGS[3], field_norm=False)), trained(CONFIGS[2])
    data = inputs(WIDTHS, [2, 0])
    user, query, item, keys, offsets = data
    fields = reads.fields(*data)
    torch.testing.assert_close(fields[0, 3:5], ((keys[0] + keys[1]) / 2).view(2, 8))
    assert not fields[1, 3:5].any()
    assert torch.equal(ignores(*data), ignores(user, query, item, keys[:0], torch.zeros(3, dtype=torch.int64)))


def test_attention_maps_are_the_weights_that_the_layers_use() -> None:
    net = trained(FULL)
    data = inputs(WIDTHS, [1, 2, 0])
    maps = net.attention_maps(*data)
    assert maps.shape == (2, 3, 3, 9, 9)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(2, 3, 3, 9).double())
    # Head h of the first layer mixes the values with the first map of head h: rebuild the layer from the maps.
    layer = net.layers[0]
    x = net.fields(*data)
    _, _, value, residual = torch.relu(layer.projections(x)).chunk(4, dim=2)
    mixed = torch.cat([maps[0, :, h] @ part for h, part in enumerate(value.split(4, dim=2))], dim=2)
    torch.testing.assert_close(layer(x), torch.relu(layer.norm(mixed + residual)))


@pytest.mark.parametrize("config", CONFIGS[1:4])
def test_autoint_passes_gradcheck(config: AutoIntConfig) -> None:
    # ReLU has no derivative at 0, where exact zeros of padded fields would be: every sample has events.
    net = trained(dataclasses.replace(config, dropout=0.0), Widths((4, 1), (4,), ()))
    *data, offsets = inputs(Widths((4, 1), (4,), ()), [1, 2])

    def run(*values: Any) -> Tensor:
        result: Tensor = net(*values, offsets)
        return result

    assert torch.autograd.gradcheck(run, tuple(tensor.requires_grad_() for tensor in data))


def test_a_batch_without_samples_trains() -> None:
    """One of several processes may have none."""
    net = trained(FULL).train()
    logits = net(*inputs(WIDTHS, []))
    logits.sum().backward()
    assert logits.shape == (0,)
    assert net.layers[0].projections.weight.grad is not None


@pytest.mark.parametrize(
    ("projected", "widths", "parameters"),
    [
        (8, IDS_ONLY, 3 * 8 * 8 + 3 * 8 + 1),  # the residual needs no weights
        (12, IDS_ONLY, 4 * 8 * 12 + 3 * 12 + 1),
        (8, Widths((8, 1), (8,), ()), 8 + 3 * 8 * 8 + 3 * 8 + 1),
    ],
)
def test_the_number_of_parameters_follows_from_the_definition(projected: int, widths: Widths, parameters: int) -> None:
    net = AutoInt(widths, config=AutoIntConfig(layers=1, attention_width=projected, heads=2))
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_fuxictrs_frappe_network_has_its_251_040_parameters_and_the_output_layer() -> None:
    """5,120 + 245,760 in the layers and 1,281 behind them, as its log says; its tables are apart."""
    config = AutoIntConfig(layers=6, attention_width=128, heads=4)
    net = AutoInt(Widths((10,) * 9, (10,), ()), config=config)
    assert sum(p.numel() for p in net.parameters()) == 5_120 + 245_760 + 1_281


def test_normalised_units_use_running_statistics_at_inference() -> None:
    net = trained(FULL)
    data = inputs(WIDTHS, [1, 0, 2, 2])
    alone = torch.cat([net(*(t[b : b + 1] for t in data[:3]), data[3][o:e], torch.tensor([0, e - o]))
                       for b, (o, e) in enumerate(itertools.pairwise(data[4].tolist()))])  # fmt: skip
    torch.testing.assert_close(alone, net(*data))
    net.train()
    assert not torch.allclose(alone, net(*data))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, r"model\.layers is 0; allowed: 1 or more"),
        ({"heads": 0}, r"model\.heads is 0; allowed: 1 or more"),
        ({"attention_width": 0}, r"model\.attention_width is 0; allowed: 1 or more"),
        ({"attention_width": 30, "heads": 4}, r"is 30 for 4 heads; allowed: a multiple of model\.heads"),
    ],
)
def test_layers_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoIntConfig(**settings)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (Widths((16, 1), (32,), ()), "got vectors of widths 16, 32; allowed: one width for the vectors of all"),
        (Widths((), (), ()), "got 0 fields, none with ids; allowed: one width"),
        (Widths((1,), (1,), ()), "got 2 fields, none with ids; allowed: one width"),
    ],
)
def test_fields_that_cannot_be_compared_are_refused(widths: Widths, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoInt(widths, config=PLAIN)


def test_equal_scores_do_not_make_equal_softmaxes_of_large_ones() -> None:
    """A softmax over whole scores, not of their exponentials: large scores do not overflow."""
    net = trained(PLAIN, IDS_ONLY)
    net.layers[0].projections.weight.data *= 1e4
    assert torch.isfinite(net(*inputs(IDS_ONLY, [0, 0]))).all()
    assert F.relu(net.attention_maps(*inputs(IDS_ONLY, [0]))).max() <= 1.0
