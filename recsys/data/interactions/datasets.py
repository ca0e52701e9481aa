"""The interactions that recipes name, ready to train on."""

from __future__ import annotations

from pathlib import Path

from recsys.data.interactions.from_log import log_interactions
from recsys.data.interactions.pairs import Interactions, find_interactions, load_interactions
from recsys.data.sources.movielens.prepare import load_movielens, rechorus_split
from recsys.data.sources.synthetic.logs import make_synthetic_log
from recsys.errors import DataFileError

_FOLDERS = {"gowalla": "gowalla", "movielens_lcfn": "movielens_1m/lcfn_split"}
"""Name -> the folder among the data."""

INTERACTION_SETS = (*_FOLDERS, "movielens_1m", "synthetic")
"""All names. The last two are of logs: positive ratings, cut in time as for ranking models."""


def load_interaction_set(
    name: str, *, validation_share: float = 0.1, work_dir: Path, path: Path | None = None
) -> Interactions:
    """Find and read interactions.

    Args:
        name: one of ``INTERACTION_SETS``, or a folder of train.txt and test.txt, with a ``/`` in its name.
        validation_share: as in ``hold_out``; without effect where there is a published validation part, or one cut in
            time.
        work_dir: where downloads are kept.
        path: where the raw data is; default: where ``find_interactions`` and ``load_movielens`` look.

    Raises:
        DataFileError: the data is malformed, or absent.
    """
    if name in ("movielens_1m", "synthetic"):
        raw = make_synthetic_log() if name == "synthetic" else load_movielens(path, cache_dir=work_dir / "downloads")
        if name != "synthetic" and raw.best_probabilities is not None:
            raise DataFileError(f"{raw.source}. Give its folder or zip with --data, or set RECSYS_DATA_DIR")
        return log_interactions(raw, rechorus_split(raw))
    folder = find_interactions(_FOLDERS.get(name, name), path)
    return load_interactions(
        folder, name=name if name in _FOLDERS else "interactions", validation_share=validation_share
    )
