"""The interactions that recipes name, ready to train on."""

from __future__ import annotations

from pathlib import Path

from recsys.data.datasets import load_dataset
from recsys.data.interactions.pairs import Interactions, find_interactions, load_interactions
from recsys.data.interactions.positives import PairRule, positive_pairs
from recsys.data.interactions.sequences import refuse_rule, sequence_pairs
from recsys.data.sources.raw_log import DATASETS, SEQUENCES

_FOLDERS = {"gowalla": "gowalla", "movielens_lcfn": "movielens_1m/lcfn_split"}
"""Name -> the folder among the data."""

INTERACTION_SETS = (*_FOLDERS, *DATASETS)
"""All names. Those of ``DATASETS`` are of logs: positive samples, in the parts that ranking models have of them; of
``SEQUENCES`` all items of a user but the last two."""


def load_interaction_set(name: str, rule: PairRule, *, work_dir: Path, path: Path | None = None) -> Interactions:
    """Find and read interactions.

    Args:
        name: one of ``INTERACTION_SETS``, or with a ``/`` in it a folder that ``recsys prepare`` wrote, or one of
            train.txt and test.txt.
        rule: what of a log is a pair. Of text files there are pairs alone: it is without effect but for
            ``validation_share``, where there is no published validation part.
        work_dir: where downloads and prepared data are kept.
        path: where the raw data is; default: where ``find_interactions`` and ``load_dataset`` look.

    Raises:
        ConfigError: the rule asks of text files or sequences what a log tells.
        DataFileError: the data is malformed, or absent.
    """
    if name in DATASETS or ("/" in name and (Path(name) / "events" / "meta.json").is_file()):
        loaded = load_dataset(name, work_dir=work_dir, path=path)
        make = sequence_pairs if name in SEQUENCES else positive_pairs
        return make(loaded.dataset, rule, source=loaded.raw.source)
    refuse_rule(rule, "text files of pairs")
    folder = find_interactions(_FOLDERS.get(name, name), path)
    return load_interactions(
        folder, name=name if name in _FOLDERS else "interactions", validation_share=rule.validation_share
    )
