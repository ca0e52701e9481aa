"""Rows of the tables of results: recipe, published figures with their source, departures from their protocol.

A row is filled by the runs recorded under its name (``records.py``); one without runs says "not run".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recsys.results.protocols import LISTS


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row.

    Attributes:
        name: of the folder with its runs.
        table: the table's name.
        model: what people read.
        recipe, overrides: of its runs, the seed left out; without a recipe the row is published figures only.
        published: metric -> value.
        source: of the published figures.
        departures: of this row alone.
        split: whose metrics are shown.
        series, length: of a ``lengths`` picture.
    """

    name: str
    table: str
    model: str
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    departures: tuple[str, ...] = ()
    split: str = "test"
    series: str = ""
    length: int = 0


_BARS = "openbenchmark/BARS, docs/CTR/leaderboard, Frappe_x1"
_RECHORUS = "ReChorus 2.0, RecSys 2024, table 6"
_GOWALLA = "README of xue-pai/UltraGCN"
_GFCF = "GF-CF, CIKM 2021 (without sharpening)"
_S3REC = "S3-Rec, CIKM 2020"
_GENERATOR = "the log's own parameters (`data/sources/synthetic/best_scores.py`)"

_GRAPH_ROWS = (
    Row(
        name="ngcf_gowalla",
        table="gowalla",
        model="NGCF",
        recipe="ngcf_gowalla",
        published={"recall": 0.1570, "ndcg": 0.1327},
        source=_GOWALLA,
    ),
    Row(
        name="ngcf_code_gowalla",
        table="gowalla",
        model="NGCF, as its code computes it",
        recipe="ngcf_code_gowalla",
        published={"recall": 0.1570, "ndcg": 0.1327},
        source=_GOWALLA,
    ),
    Row(
        name="linear_gowalla",
        table="gowalla",
        model="Linear filtering (GF-CF, one step of sharpening)",
        recipe="linear_gowalla",
        published={"recall": 0.1849, "ndcg": 0.1518},
        source=_GFCF,
        departures=("sharpened, and of each item the 512 strongest neighbours alone: what is served",),
    ),
    Row(
        name="linear_chosen_gowalla",
        table="gowalla",
        model="`linear`, which chooses its settings",
        recipe="linear",
        overrides=("data.dataset=gowalla",),
        published={"recall": 0.1849, "ndcg": 0.1518},
        source=_GFCF,
        departures=(
            "chosen on a tenth of each user's training pairs, then fitted to all: no setting was given",
            "timed beside other work",
        ),
    ),
    Row(
        name="two_tower_gowalla",
        table="gowalla",
        model="`two_tower`, ids alone, beside YoutubeDNN",
        recipe="two_tower",
        overrides=("data.dataset=gowalla", "model.layers=1", "train.batch_size=2048"),
        published={"recall": 0.1754, "ndcg": 0.1473},
        source="openbenchmark/BARS, Gowalla_m1",
        departures=("trained on nine tenths of the pairs; the rest says when to stop",),
    ),
    Row(
        name="lightgcn_gowalla",
        table="gowalla",
        model="LightGCN",
        recipe="lightgcn_gowalla",
        published={"recall": 0.1830, "ndcg": 0.1554},
        source=_GOWALLA,
    ),
    Row(
        name="lightgcn_uniform_gowalla",
        table="gowalla",
        model="LightGCN, one uniform negative",
        recipe="lightgcn_gowalla",
        overrides=(
            "train.epochs=300",
            "train.learning_rate=0.05",
            "train.negatives=1",
            "train.regularization=0.0004",
        ),
        published={"recall": 0.1830, "ndcg": 0.1554},
        source=_GOWALLA,
        departures=("one draw per pair, as the papers, and more epochs",),
    ),
    Row(
        name="lightgcn_short_gowalla",
        table="gowalla",
        model="LightGCN, 25 epochs",
        recipe="lightgcn_gowalla",
        overrides=("train.epochs=25", "train.regularization=0.0004"),
        published={"recall": 0.1830, "ndcg": 0.1554},
        source=_GOWALLA,
        departures=("chosen on validation before its longer run was; here to compare the next row with",),
    ),
    Row(
        name="lightgcn_sampled_gowalla",
        table="gowalla",
        model="LightGCN, 25 epochs, 20 sampled neighbours a layer",
        recipe="lightgcn_gowalla",
        overrides=("train.epochs=25", "train.fan_outs=[20, 20, 20]", "train.regularization=0.0004"),
        published={"recall": 0.1830, "ndcg": 0.1554},
        source=_GOWALLA,
    ),
    Row(
        name="mf_gowalla",
        table="gowalla",
        model="BPR-MF",
        recipe="mf_gowalla",
        published={"recall": 0.1627, "ndcg": 0.1378},
        source="openbenchmark/BARS, Gowalla_m1",
    ),
    Row(name="ngcf_lcfn", table="movielens_lcfn", model="NGCF", recipe="ngcf_lcfn"),
    Row(name="lightgcn_lcfn", table="movielens_lcfn", model="LightGCN", recipe="lightgcn_lcfn"),
    Row(
        name="ultragcn_lcfn",
        table="movielens_lcfn",
        model="UltraGCN (published)",
        published={"recall": 0.2787, "ndcg": 0.2642},
        source="README of xue-pai/UltraGCN",
    ),
)

_CTR_ROWS = (
    Row(
        name="autoint_frappe",
        table="frappe",
        model="AutoInt",
        recipe="autoint_frappe",
        published={"auc": 0.9831, "log_loss": 0.1637},
        source=_BARS,
    ),
    Row(
        name="autoint_plus_frappe",
        table="frappe",
        model="AutoInt+",
        recipe="autoint_plus_frappe",
        published={"auc": 0.9848, "log_loss": 0.1490},
        source=_BARS,
    ),
    Row(
        name="dcn_frappe",
        table="frappe",
        model="DCN-V2",
        recipe="dcn_frappe",
        published={"auc": 0.9845, "log_loss": 0.1491},
        source=_BARS,
    ),
    Row(
        name="finalmlp_frappe",
        table="frappe",
        model="FinalMLP, the board's best (published)",
        published={"auc": 0.9861, "log_loss": 0.1484},
        source=_BARS,
    ),
    Row(
        name="din_movielens_1m",
        table="movielens_rechorus",
        model="DIN",
        recipe="din_movielens_1m",
        published={"auc": 0.7904, "log_loss": 0.6052},
        source=_RECHORUS,
        departures=("FuxiCTR's DIN on this very data reaches .7904 with a log loss of .5467",),
    ),
    Row(
        name="din_movielens_1m_demo",
        table="movielens_rechorus",
        model="DIN, 20 events (`recsys demo`)",
        recipe="din_movielens_1m_demo",
        published={"auc": 0.7904, "log_loss": 0.6052},
        source=_RECHORUS,
    ),
    Row(
        name="autoint_movielens_1m",
        table="movielens_rechorus",
        model="AutoInt",
        recipe="autoint_movielens_1m",
        published={"auc": 0.7785, "log_loss": 0.5661},
        source=_RECHORUS,
    ),
    Row(name="din_movielens_temporal", table="movielens_temporal", model="DIN", recipe="din_movielens_temporal"),
    Row(
        name="autoint_movielens_temporal",
        table="movielens_temporal",
        model="AutoInt",
        recipe="autoint_movielens_temporal",
    ),
)


def _long_rows() -> tuple[Row, ...]:
    """A row per model and length of the history that it reads."""
    table, full = "long_histories", 2400
    models = {
        "SDIM": ("sdim_movielens_long", ()),
        "DIN-long": ("din_long_movielens", ()),
        "mean pooling": ("sdim_movielens_long", ("model.long=mean",)),
    }
    short = Row(
        name="din_short_movielens_long",
        table=table,
        model="DIN-short, 16 events",
        recipe="din_short_movielens_long",
        series="DIN-short",
        length=16,
    )
    rows = [short]
    for model, (recipe, overrides) in models.items():
        for length in (50, 200, 1000, full):
            of_length = () if length == 1000 else (f"data.recent={length}",)
            part = "mean_movielens_long" if model == "mean pooling" else recipe
            rows.append(
                Row(
                    name=f"{part}_{'full' if length == full else length}",
                    table=table,
                    model=f"{model}, {'all' if length == full else f'{length:,}'} events",
                    recipe=recipe,
                    overrides=(*of_length, *overrides),
                    series=model,
                    length=length,
                )
            )
    return tuple(rows)


_SYNTHETIC_ROWS = (
    Row(
        name="short_synthetic_long",
        table="synthetic_long",
        model="DIN-short, 16 events",
        recipe="sdim_synthetic_long",
        overrides=("model.long=none",),
    ),
    Row(name="sdim_synthetic_long", table="synthetic_long", model="SDIM", recipe="sdim_synthetic_long"),
    Row(
        name="din_synthetic_long",
        table="synthetic_long",
        model="DIN-long",
        recipe="sdim_synthetic_long",
        overrides=("model.long=din",),
    ),
    Row(
        name="best_16_synthetic_long",
        table="synthetic_long",
        model="best possible from 16 events (computed)",
        published={"auc": 0.7123},
        source=_GENERATOR,
    ),
    Row(
        name="best_synthetic_long",
        table="synthetic_long",
        model="best possible from all events (computed)",
        published={"auc": 0.8862},
        source=_GENERATOR,
    ),
)


@dataclass(frozen=True, kw_only=True)
class _Sequences:
    """A set of sequences: name of its data, and published HR@10 and NDCG@10."""

    dataset: str
    autoint: tuple[float, float]
    sasrec: tuple[float, float]
    s3rec: tuple[float, float] | None = None


_SEQUENCES = {
    "LastFM": _Sequences(dataset="lastfm", autoint=(0.2596, 0.1285), sasrec=(0.4706, 0.2755), s3rec=(0.5835, 0.3583)),
    "Beauty": _Sequences(dataset="beauty", autoint=(0.2872, 0.1440), sasrec=(0.4696, 0.3156), s3rec=(0.5506, 0.3732)),
    "Sports": _Sequences(dataset="sports", autoint=(0.2967, 0.1633), sasrec=(0.4622, 0.2869)),
    "Toys": _Sequences(dataset="toys", autoint=(0.2369, 0.1248), sasrec=(0.4663, 0.3136)),
    "Yelp": _Sequences(dataset="yelp", autoint=(0.3367, 0.1860), sasrec=(0.7373, 0.4642)),
}


_DEPARTURES = {
    "two_tower_lastfm": ("two of three were timed beside other work: the first, alone, took 79 s",),
    "two_tower_beauty": ("the second was timed beside other work: the first took 3 min",),
}


def _sequence_rows() -> tuple[Row, ...]:
    rows: list[Row] = []
    for name, of in _SEQUENCES.items():
        for model in ("DIN", "SDIM") if of.dataset in ("lastfm", "beauty") else ():
            rows.append(
                Row(
                    name=f"{model}_{name}".lower(),
                    table="sequences",
                    model=f"{name}: {model}, beside AutoInt",
                    recipe=f"{model}_{name}".lower(),
                    published=dict(zip(LISTS, of.autoint, strict=True)),
                    source=_S3REC,
                )
            )
        of_run = (f"data.dataset={of.dataset}_sequences", "train.list_length=10")
        ranking_all = {
            "linear": ("`linear`", (*of_run, "model.refit=false")),
            "two_tower": ("`two_tower`", (*of_run, "train.validation_users=3000")),
        }
        for recipe, (model, overrides) in ranking_all.items():
            rows.append(
                Row(
                    name=f"{recipe}_{of.dataset}",
                    table="sequences",
                    model=f"{name}: {model}, beside SASRec",
                    recipe=recipe,
                    overrides=overrides,
                    published=dict(zip(LISTS, of.sasrec, strict=True)),
                    source=_S3REC,
                    departures=_DEPARTURES.get(f"{recipe}_{of.dataset}", ()),
                )
            )
        for model, figures in (("SASRec", of.sasrec), ("S3-Rec", of.s3rec)):
            if figures is not None:
                rows.append(
                    Row(
                        name=f"{model}_{of.dataset}".lower().replace("-", ""),
                        table="sequences",
                        model=f"{name}: {model} (published)",
                        published=dict(zip(LISTS, figures, strict=True)),
                        source=_S3REC,
                    )
                )
    return tuple(rows)


ROWS: tuple[Row, ...] = (*_CTR_ROWS, *_long_rows(), *_SYNTHETIC_ROWS, *_GRAPH_ROWS, *_sequence_rows())
