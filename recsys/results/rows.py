"""Rows of the tables of results: recipe, published figures with their source, departures from their protocol.

Longer than other files: nothing but declarations, read in one go.

A row is filled by the runs recorded under its name (``records.py``); one without runs says "not run".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of ``docs/results.md``.

    Attributes:
        name: of its markers and its picture.
        metrics: name in the records -> heading.
        departures: from the published protocol, of every row.
        intervals: whether cells show 95 % intervals.
        picture: ``dots``: ours beside published; ``lengths``: the first metric over the rows' ``length``.
    """

    name: str
    metrics: Mapping[str, str]
    departures: tuple[str, ...] = ()
    intervals: bool = False
    picture: Literal["dots", "lengths"] = "dots"


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


CTR = {"auc": "AUC", "log_loss": "log loss"}
CTR_OF_USERS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}
RETRIEVAL = {"recall": "recall@20", "ndcg": "NDCG@20"}
LISTS = {"hit_rate_at_10": "HR@10", "ndcg_at_10": "NDCG@10"}

_OWN_OPTIMISER = (
    "row-wise Adagrad on the tables with DIN's per-id regularisation, Adam on the network; rates, widths and epochs "
    "are ours, chosen on validation"
)

TABLES: tuple[Table, ...] = (
    Table(
        name="frappe",
        metrics=CTR,
        departures=(
            "the published training negatives were not to be had: ours are drawn anew by the published procedure; "
            "training positives, validation and test are the published ones",
            "published rows are single runs, ours means over seeds",
            _OWN_OPTIMISER,
        ),
    ),
    Table(
        name="movielens_rechorus",
        metrics=CTR_OF_USERS,
        intervals=True,
        departures=(
            "histories are all earlier ratings with their stars, not the positives only, so that the model also sees "
            "what a user disliked",
            "gender, age, occupation, zip, genres and year are read beside the ids",
            "no event with a sample's own timestamp is in its history; events of one second are in the order of the "
            "store's rules, not in the file's, as a store could not know it",
            _OWN_OPTIMISER,
            "30 % of the timestamps of the copy used are estimated, their order within a user exact; none of them in "
            "validation or test",
            "the test set is small: the standard error of AUC is .006 if its samples were independent, .014 with users "
            "drawn anew, as in the brackets",
        ),
    ),
    Table(
        name="movielens_temporal",
        metrics=CTR_OF_USERS,
        intervals=True,
        departures=(
            "our own split, nothing published: the last tenth of each user's ratings for test, the tenth before for "
            "validation; users are split one by one, so what one is tested on may be earlier than what another is "
            "trained on",
        ),
    ),
    Table(
        name="long_histories",
        metrics=CTR_OF_USERS,
        picture="lengths",
        departures=(
            "our own split, nothing published: the 1,589 users of MovieLens-1M with at least 200 ratings, 80/10/10 of "
            "each user's ratings in time; the SDIM paper's data sets are not public in its form",
            "a user's 80 newest ratings before the validation part are the training samples, older ones are history "
            "only, so that a run takes minutes",
        ),
    ),
    Table(
        name="synthetic_long",
        metrics=CTR,
        departures=(
            "a generated log whose labels hang on events far back; the best possible AUC is that of a Bayesian who "
            "knows how the log was drawn and reads so many of a user's newest events",
        ),
    ),
    Table(
        name="gowalla",
        metrics=RETRIEVAL,
        departures=(
            "epochs and rates were chosen on a tenth of the training pairs held out; NGCF's code, which published "
            "figures come from, picks its epoch on the test set",
            "a pair's negative is the one of 32 draws that its user scores highest (`train.negatives`), where the "
            "papers draw one; none is ever a user's positive, as in the papers' text",
            "batches of 100,000 pairs (MF 25,000) for 25 to 40 epochs, where the papers have 1,024 or 2,048 for up to "
            "1,000",
            "the published test part is no uniform sample: it holds 29 % of the pairs of the 77 items with 400 or "
            "more, and 21 % of all others; a validation part drawn from the training pairs does not, so that what it "
            "chooses recommends popular items less than the test rewards",
        ),
    ),
    Table(
        name="movielens_lcfn",
        metrics=RETRIEVAL,
        departures=("the published split of LCFN, trained on its train part only; chosen on its validation part",),
    ),
    Table(
        name="sequences",
        metrics=LISTS,
        departures=(
            "the 99 negatives of LastFM's test are the published ones; those of its validation and of Beauty are "
            "drawn uniformly by a seed from the items the user never had, as the paper says",
        ),
    ),
)

_BARS = "openbenchmark/BARS, docs/CTR/leaderboard, Frappe_x1"
_RECHORUS = "ReChorus 2.0, RecSys 2024, table 6"
_GOWALLA = "README of xue-pai/UltraGCN"
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


def _sequence_rows() -> tuple[Row, ...]:
    published = {
        "LastFM": ((0.2596, 0.1285), (0.4706, 0.2755)),
        "Beauty": ((0.2872, 0.1440), (0.4696, 0.3156)),
    }
    rows: list[Row] = []
    for name, (autoint, sasrec) in published.items():
        for model in ("DIN", "SDIM"):
            recipe = f"{model}_{name}".lower()
            rows.append(
                Row(
                    name=recipe,
                    table="sequences",
                    model=f"{name}: {model}, beside AutoInt",
                    recipe=recipe,
                    published=dict(zip(LISTS, autoint, strict=True)),
                    source=_S3REC,
                )
            )
        rows.append(
            Row(
                name=f"sasrec_{name}".lower(),
                table="sequences",
                model=f"{name}: SASRec (published)",
                published=dict(zip(LISTS, sasrec, strict=True)),
                source=_S3REC,
            )
        )
    return tuple(rows)


ROWS: tuple[Row, ...] = (*_CTR_ROWS, *_long_rows(), *_SYNTHETIC_ROWS, *_GRAPH_ROWS, *_sequence_rows())
