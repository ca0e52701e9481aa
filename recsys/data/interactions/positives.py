"""Positive samples of a prepared log as interactions: for models that rank all items beside its ranking model."""

from __future__ import annotations

from recsys.arrays import Int64Array
from recsys.data.interactions.from_log import without
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, Pairs, hold_out, make_pairs
from recsys.data.samples.dataset import Dataset
from recsys.errors import DataFileError


def positive_pairs(dataset: Dataset, *, validation_share: float = 0.0, source: str) -> Interactions:
    """Users and items of samples labelled 1, in the parts of the dataset's split; a pair stays in its first part.

    Args:
        dataset: with keys.
        validation_share: of each user's training pairs that are held out, where the dataset has no validation part.
        source: for reports.

    Raises:
        DataFileError: an item's id is a text that the log does not hold.
    """
    table = dataset.table

    def pairs(rows: Int64Array) -> Pairs:
        chosen = rows[dataset.samples.label[rows] == 1]
        return make_pairs(dataset.sample_user[chosen], dataset.sample_item[chosen])

    train, test = pairs(dataset.split("train")), pairs(dataset.split("test"))
    validation = without(pairs(dataset.split("validation")), train)
    test = without(without(test, train), validation)
    if not len(validation):
        train, validation = hold_out(train, share=validation_share, seed=0)
    names: tuple[str, ...] | None = None
    if table.features.item_id.id_type == "string":
        found = table.names[table.features.item_id.table].find(table.item_keys)
        if None in found:
            raise DataFileError(f"{source}: an item has no name; prepare the log again")
        names = tuple(name for name in found if name is not None)
    return Interactions(
        num_users=len(table.user_keys),
        num_items=len(table.item_keys),
        train=train,
        validation=validation,
        test=test,
        source=source,
        ids=PairIds(
            features=table.features, user_keys_N=table.user_keys, item_keys_M=table.item_keys, item_names_M=names
        ),
    )
