"""A run's configuration: overrides, JSON, and every refusal."""

import re
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.embeddings.row_maps.registry import ROW_MAPS
from recsys.errors import ConfigError
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.models.ranking.din import DinConfig
from recsys.training.config import RowConfig, RunConfig, TableConfig, TrainConfig
from recsys.training.settings import from_json, override, setting_paths, to_json

BASE = RunConfig(recipe="r")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.epochs=3", replace(BASE, train=TrainConfig(epochs=3))),
        ("train.learning_rate=1", replace(BASE, train=TrainConfig(learning_rate=1.0))),
        ("train.learning_rate=1e-4", replace(BASE, train=TrainConfig(learning_rate=1e-4))),
        ("model.head=[64,32]", replace(BASE, model=DinConfig(head=(64, 32)))),
        ("model.head=[]", replace(BASE, model=DinConfig(head=()))),
        ("model.attention=[8,4]", replace(BASE, model=DinConfig(attention=(8, 4)))),
        ("model.softmax=true", replace(BASE, model=DinConfig(softmax=True))),
        ("model.head_act=prelu", replace(BASE, model=DinConfig(head_act="prelu"))),
        ('model.head_act="prelu"', replace(BASE, model=DinConfig(head_act="prelu"))),
        ("tables.dims.movie_id=32", replace(BASE, tables=TableConfig(dims={"movie_id": 32}))),
        ('tables.dims={"a":8}', replace(BASE, tables=TableConfig(dims={"a": 8}))),
        ("rows.map=unified", replace(BASE, rows=RowConfig(map="unified"))),
        ("rows.maps.movie_id=graph", replace(BASE, rows=RowConfig(maps={"movie_id": "graph"}))),
        ("rows.budget=0.25", replace(BASE, rows=RowConfig(budget=0.25))),
        ("rows.rows.movie_id=99", replace(BASE, rows=RowConfig(rows={"movie_id": 99}))),
        ("rows.widths=[8,4]", replace(BASE, rows=RowConfig(widths=(8, 4)))),
        ("rows.chunks_of.genre=3", replace(BASE, rows=RowConfig(chunks_of={"genre": 3}))),
        ("rows.graph_with.genre=user_id", replace(BASE, rows=RowConfig(graph_with={"genre": "user_id"}))),
        ("model.kind=dcn", replace(BASE, model=DcnConfig())),
    ],
)
def test_an_override_sets_that_setting_and_no_other(assignment: str, expected: RunConfig) -> None:
    assert override(BASE, [assignment]) == expected


def test_overrides_apply_in_order_and_leave_the_recipe_alone() -> None:
    changed = override(BASE, ["tables.dims.a=8", "tables.dims.b=16", "tables.dims.a=4", "train.seed=1", "train.seed=2"])
    assert changed == replace(BASE, tables=TableConfig(dims={"a": 4, "b": 16}), train=TrainConfig(seed=2))
    assert BASE == RunConfig(recipe="r")
    assert override(BASE, []) == BASE


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epoch=3", "unknown setting 'train.epoch': did you mean 'train.epochs'? valid: "),
        ("epochs=3", "unknown setting 'epochs': did you mean 'train.epochs'? valid: "),
        ("recipe=x", "unknown setting 'recipe': "),
        ("train=3", "unknown setting 'train': "),
        ("train.epochs", "override 'train.epochs': expected path=value, for example train.epochs=3"),
        ("train.epochs=many", "train.epochs is 'many'; expected int"),
        ("train.epochs=1.5", "train.epochs is 1.5; expected int"),
        ("train.epochs=true", "train.epochs is True; expected int"),
        ("train.learning_rate=true", "train.learning_rate is True; expected float"),
        ("train.learning_rate=fast", "train.learning_rate is 'fast'; expected float"),
        ("model.softmax=1", "model.softmax is 1; expected bool"),
        ("model.head=64", "model.head is 64; expected tuple"),
        ("model.head=[64,true]", "model.head is True; expected int"),
        ("model.attention=[8]", "model.attention is [8]; allowed: 2 values"),
        ("model.head_act=diec", "model.head_act is 'diec': did you mean 'dice'? valid: dice, prelu, relu"),
        ("tables.optimizer=adagrd", "tables.optimizer is 'adagrd': did you mean 'adagrad'? valid: adagrad, adam, row"),
        ("data.dataset=movielens", "data.dataset is 'movielens': did you mean 'movielens_1m'? valid: "),
        ("tables.dims.a=wide", "tables.dims.a is 'wide'; expected int"),
        ("tables.dims=8", "tables.dims is 8; expected Mapping"),
        ("data.recent=-1", "recipe 'r': data.recent is -1; allowed: 0 or more"),
        ("tables.dim=0", "recipe 'r': tables.dim is 0; allowed: a multiple of 4"),
        ("tables.dim=-4", "recipe 'r': tables.dim is -4; allowed: a multiple of 4"),
        ("tables.dims.a=6", "recipe 'r': tables.dims.a is 6; allowed: a multiple of 4"),
        ("rows.min_count=0", "recipe 'r': rows.min_count is 0; allowed: 1 or more"),
        ("rows.min_count=1.5", "rows.min_count is 1.5; expected int"),
        ("rows.map=hsah", "rows.map is 'hsah': did you mean 'hash'? valid: "),
        ("rows.maps.a=uinified", "rows.maps.a is 'uinified': did you mean 'unified'? valid: "),
        ("rows.maps=hash", "rows.maps is 'hash'; expected Mapping"),
        ("rows.budgte=1", "unknown setting 'rows.budgte': did you mean 'rows.budget'? valid: "),
        ("rows.budget=-1", "recipe 'r': rows.budget is -1.0; allowed: 0 or more"),
        ("rows.budget=Infinity", "recipe 'r': rows.budget is inf; allowed: 0 or more, finite"),
        ("rows.budget=NaN", "recipe 'r': rows.budget is nan; allowed: 0 or more"),
        ("rows.unknown_rows=-1", "recipe 'r': rows.unknown_rows is -1; allowed: 0 or more"),
        ("rows.spare_rows=-0.5", "recipe 'r': rows.spare_rows is -0.5; allowed: 0 or more"),
        ("rows.exact_below=-1", "recipe 'r': rows.exact_below is -1; allowed: 0 or more"),
        ("rows.resolution=-1", "recipe 'r': rows.resolution is -1.0; allowed: 0 or more"),
        ("rows.seed=-1", "recipe 'r': rows.seed is -1; allowed: 0 or more"),
        ("rows.frequent=-0.1", "recipe 'r': rows.frequent is -0.1; allowed: 0 or more"),
        ("rows.chunks=0", "recipe 'r': rows.chunks is 0; allowed: 1 or more"),
        ("rows.chunks_of.a=0", "recipe 'r': rows.chunks_of.a is 0; allowed: 1 or more"),
        ("rows.rows.a=-1", "recipe 'r': rows.rows.a is -1; allowed: 1 or more"),
        ("rows.widths=[6]", "recipe 'r': rows.widths is 6; allowed: a multiple of 4"),
        ("model.kind=dcnn", "model.kind is 'dcnn': did you mean 'dcn'? valid: autoint, dcn, din"),
        ("model.cross_layers=1", "unknown setting 'model.cross_layers': "),
        ("tables.learning_rate=-0.1", "recipe 'r': tables.learning_rate is -0.1; allowed: 0 or more"),
        ("tables.regularization=NaN", "recipe 'r': tables.regularization is nan; allowed: 0 or more"),
        ("model.head=[8,0]", "recipe 'r': hidden units of the model is 0; allowed: 1 or more"),
        ("model.attention=[0,8]", "recipe 'r': hidden units of the model is 0; allowed: 1 or more"),
        ("model.dropout=-0.5", "recipe 'r': model.dropout is -0.5; allowed: 0 or more"),
        ("model.dropout=1", "recipe 'r': model.dropout is 1.0; allowed: below 1"),
        ("train.batch_size=0", "recipe 'r': train.batch_size is 0; allowed: 1 or more"),
        ("train.epochs=0", "recipe 'r': train.epochs is 0; allowed: 1 or more"),
        ("train.checkpoint_steps=0", "recipe 'r': train.checkpoint_steps is 0; allowed: 1 or more"),
        ("train.learning_rate=NaN", "recipe 'r': train.learning_rate is nan; allowed: 0 or more"),
        ("train.warmup_steps=-1", "recipe 'r': train.warmup_steps is -1; allowed: 0 or more"),
        ("train.weight_decay=-1", "recipe 'r': train.weight_decay is -1.0; allowed: 0 or more"),
        ("train.clip_norm=-1", "recipe 'r': train.clip_norm is -1.0; allowed: 0 or more"),
        ("train.seed=-1", "recipe 'r': train.seed is -1; allowed: 0 or more"),
    ],
)
def test_a_bad_override_is_refused_with_what_is_allowed(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        override(BASE, [assignment])


def test_rows_of_a_table_are_checked_whatever_its_chunks_are() -> None:
    with pytest.raises(ConfigError, match=re.escape("recipe 'r': rows.rows.a is 0; allowed: 1 or more")):
        override(BASE, ["rows.chunks_of.a=2", "rows.rows.a=0"])


heads = st.lists(st.integers(1, 9), max_size=3).map(tuple)
configs = st.builds(
    RunConfig,
    recipe=st.text(),
    model=st.one_of(
        st.builds(DinConfig, head=heads, softmax=st.booleans(), attention_act=st.sampled_from(["dice", "prelu"])),
        st.builds(DcnConfig, head=heads, structure=st.sampled_from(["stacked", "parallel"])),
        st.builds(AutoIntConfig, head=heads, history=st.sampled_from(["none", "mean"])),
    ),
    rows=st.builds(
        RowConfig,
        map=st.sampled_from(list(ROW_MAPS)),
        maps=st.dictionaries(st.text(), st.sampled_from(list(ROW_MAPS))),
        budget=st.floats(0, 2),
        rows=st.dictionaries(st.text(), st.integers(1, 99)),
        widths=st.lists(st.sampled_from([4, 8]), max_size=2).map(tuple),
        graph_with=st.dictionaries(st.text(), st.text()),
    ),
    tables=st.builds(
        TableConfig,
        dim=st.sampled_from([4, 8]),
        dims=st.dictionaries(st.text(), st.sampled_from([4, 64])),
        learning_rate=st.floats(0, 10),
    ),
    train=st.builds(TrainConfig, seed=st.integers(0, 2**31), learning_rate=st.floats(0, 10)),
)


@given(configs)
def test_json_gives_the_configuration_back(config: RunConfig) -> None:
    assert from_json(RunConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a run configuration: "),
        ("[]", "not a run configuration: "),
        ("{}", "not a run configuration: "),
        ('{"recipe": "r", "train": 3}', "not a run configuration: "),
        ('{"recipe": 3}', "recipe is 3; expected str"),
        ('{"recipe": "r", "trian": {}}', "unknown setting 'trian': did you mean 'train'? valid: data, model, recipe"),
        (
            '{"recipe": "r", "model": {"kind": "dcnn"}}',
            "model.kind is 'dcnn': did you mean 'dcn'? valid: autoint, dcn, din",
        ),
        ('{"recipe": "r", "train": {"epoch": 1}}', "unknown setting 'train.epoch': did you mean 'epochs'? valid: "),
    ],
)
def test_json_of_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_json(RunConfig, text)


def test_every_setting_but_the_recipes_name_has_a_path() -> None:
    sections = {f.name: asdict(BASE)[f.name] for f in fields(RunConfig) if f.name != "recipe"}
    expected = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    assert setting_paths(BASE) == expected
    dcn = replace(BASE, model=DcnConfig())
    of_dcn = asdict(dcn)["model"]
    assert {name for name in setting_paths(dcn) if name.startswith("model.")} == {f"model.{name}" for name in of_dcn}


def test_another_kind_of_model_begins_with_its_defaults_whatever_the_order() -> None:
    changed = override(BASE, ["model.cross_layers=3", "model.head=[8]", "model.kind=dcn"])
    assert changed.model == DcnConfig(cross_layers=3, head=(8,))
    assert override(changed, ["model.kind=din"]).model == DinConfig()
