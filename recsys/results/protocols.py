"""Tables of results: their metrics, and how our runs depart from the published protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


CTR = {"auc": "AUC", "log_loss": "log loss"}
CTR_OF_USERS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}
RETRIEVAL = {"recall": "recall@20", "ndcg": "NDCG@20"}
LISTS = {"hit_rate_at_10": "HR@10", "ndcg_at_10": "NDCG@10"}
LISTS_AND_ALL = {**LISTS, "hit_rate": "HR@10 of all items", "ndcg": "NDCG@10 of all items"}

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
        metrics=LISTS_AND_ALL,
        departures=(
            "the 99 negatives of LastFM's test are the published ones; those of its validation and of the other sets "
            "are drawn uniformly by a seed from the items the user never had, as the paper says",
            "DIN and SDIM rank given candidates: they have no figures of all items",
            "models that rank all items leave out users whose last item is one that they had before: 2,027 of Yelp's "
            "30,431",
        ),
    ),
)
