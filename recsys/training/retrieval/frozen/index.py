"""Items of a bundle that a run leaves as they are: an index, and the users that were trained against it.

Legend: ``N`` users, ``M`` items of the interactions, ``F`` items of the index, ``D`` width, ``E`` training pairs.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import MANIFEST, Bundle, Manifest, open_bundle
from recsys.bundle.index import fingerprint_of_files, index_fingerprint
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, Pairs, ids_of
from recsys.errors import BundleError, ConfigError, DataFileError, InvalidInputError
from recsys.files import atomic_file
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.trainers import RetrievalTrainer
from recsys.training.retrieval.warm_start import take_known
from recsys.training.run.folder import is_retrieval_run

FROZEN = "frozen_items.npz"
"""The index in a run's folder: the bundle that it came from may be gone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenIndex:
    """An index that is kept.

    Attributes:
        name: of the bundle that it came from.
        item_keys: ascending, int64 [F].
        items_FD: their vectors, float32.
        item_names: the texts that the keys are of; None where items are named by integers.
    """

    name: str
    item_keys: Int64Array
    items_FD: Float32Array
    item_names: tuple[str, ...] | None

    @property
    def fingerprint(self) -> str:
        """The fingerprint that a bundle of it has."""
        return index_fingerprint(self.item_keys, self.items_FD)

    def rows_of(self, item_keys_M: Int64Array) -> Int64Array:
        """The row of each key, -1 for a key that is not in the index."""
        rows_M = np.minimum(np.searchsorted(self.item_keys, item_keys_M), len(self.item_keys) - 1)
        return np.where(self.item_keys[rows_M] == item_keys_M, rows_M, -1)

    def beside(self, interactions: Interactions) -> Interactions:
        """The interactions with the items of the index that they lack behind their own: these are in lists, too."""
        ids = ids_of(interactions)
        lacking_F = ~np.isin(self.item_keys, ids.item_keys_M)
        if not lacking_F.any():
            return interactions
        names = None
        if ids.item_names_M is not None:
            assert self.item_names is not None  # of items that are named by texts, as is checked
            names = (*ids.item_names_M, *(self.item_names[row] for row in np.flatnonzero(lacking_F)))
        both = PairIds(
            features=ids.features,
            user_keys_N=ids.user_keys_N,
            item_keys_M=np.concatenate([ids.item_keys_M, self.item_keys[lacking_F]]),
            item_names_M=names,
        )
        # Features of items are of the log's own; no model with an index to keep reads them.
        return replace(interactions, num_items=len(both.item_keys_M), ids=both, item_columns={})

    def part(self, interactions: Interactions) -> Interactions:
        """The training pairs of items of the index, by their rows in it: what there is to learn from.

        Raises:
            InvalidInputError: there is none.
        """
        train = interactions.train
        row_E = self.rows_of(ids_of(interactions).item_keys_M)[train.item_E]
        order_E = np.lexsort((row_E, train.user_E))
        chosen_E = order_E[row_E[order_E] >= 0]
        if not len(chosen_E):
            raise InvalidInputError(
                f"{interactions.source}: no training pair is of one of the {len(self.item_keys):,} items of "
                f"{self.name}, which train.freeze_items keeps; give a bundle of the same log"
            )
        own = Pairs(
            train.user_E[chosen_E],
            row_E[chosen_E],
            None if train.weight_E is None else train.weight_E[chosen_E],
            None if train.time_ms_E is None else train.time_ms_E[chosen_E],
        )
        fresh_E = interactions.fresh_E
        return Interactions(
            num_users=interactions.num_users,
            num_items=len(self.item_keys),
            train=own,
            validation=own.where(np.zeros(len(own), dtype=np.bool_)),
            test=own.where(np.zeros(len(own), dtype=np.bool_)),
            source=interactions.source,
            ids=PairIds(
                features=ids_of(interactions).features,
                user_keys_N=ids_of(interactions).user_keys_N,
                item_keys_M=self.item_keys,
                item_names_M=self.item_names,
            ),
            fresh_E=None if fresh_E is None else fresh_E[chosen_E],
            notes=interactions.notes,
        )

    def known(self, interactions: Interactions, learnt: Interactions) -> Known:
        """The items of the index, and users with a pair of one of them.

        Args:
            interactions: :meth:`beside` the index.
            learnt: :meth:`part` of it.
        """
        return Known(
            users_N=np.bincount(learnt.train.user_E, minlength=interactions.num_users) > 0,
            items_M=self.rows_of(ids_of(interactions).item_keys_M) >= 0,
        )

    def told(self, interactions: Interactions, learnt: Interactions) -> str:
        """A sentence on what is kept and what is left out.

        Args:
            interactions: as they came.
            learnt: :meth:`part` of it.
        """
        missing_M = self.rows_of(ids_of(interactions).item_keys_M) < 0
        pairs, ended = len(interactions.train) - len(learnt.train), len(self.item_keys) - int((~missing_M).sum())
        lacks = f"{missing_M.sum():,} of {len(missing_M):,} items of the log are not in it"
        return (
            f"items stay those of {self.name}, index {self.fingerprint}, {len(self.item_keys):,} items; {lacks}"
            + (f": they are in no list, and their {pairs:,} training pairs are left out" if missing_M.any() else "")
            + (f"; {ended:,} of its items are not in the log: they stay" if ended else "")
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenUsers:
    """Users of the bundle whose index is kept.

    Attributes:
        keys: int64 [N].
        vectors_ND: float32.
    """

    keys: Int64Array
    vectors_ND: Float32Array

    def begin(self, trainer: RetrievalTrainer, interactions: Interactions, learnt: Interactions) -> tuple[Known, str]:
        """Let users whose pairs are not all drawn begin with their vectors; those that did, and a sentence on it.

        The others begin with the sums of their items: on Gowalla that ends at recall@20 .1777, their vectors at .1747.

        Args:
            trainer: of the users.
            interactions: beside the index.
            learnt: the part of it that is learnt.
        """
        drawn_E = np.ones(len(learnt.train), dtype=np.bool_) if learnt.fresh_E is None else learnt.fresh_E
        left_N, drawn_N = (
            np.bincount(learnt.train.user_E[chosen_E], minlength=learnt.num_users) for chosen_E in (~drawn_E, drawn_E)
        )
        keeping_N = (left_N > 0) | (drawn_N == 0)
        users_ND, items_MD = trainer.first()
        own_ND, keys_N = users_ND.clone(), ids_of(interactions).user_keys_N
        everyone = np.ones(len(self.keys), dtype=np.bool_)
        there_N = take_known(own_ND, keys_N, torch.from_numpy(self.vectors_ND), self.keys, everyone)
        taken_N = there_N & keeping_N
        users_ND[torch.from_numpy(taken_N)] = own_ND[torch.from_numpy(taken_N)]
        trainer.begin(users_ND, items_MD, {})
        gone = len(self.keys) - int(there_N.sum())
        said = (
            f"of {len(there_N):,} users it has {there_N.sum():,}; {taken_N.sum():,} begin with their vectors there"
            + (f"; its {gone:,} other users are not in the log, and left out" if gone else "")
        )
        return Known(users_N=taken_N, items_M=np.zeros(interactions.num_items, dtype=np.bool_)), said


def frozen_for(
    config: RetrievalRunConfig, interactions: Interactions, resumed: Path | None
) -> tuple[FrozenIndex | None, FrozenUsers | None]:
    """The index that a run keeps, if it keeps one, and the users that it begins with.

    Args:
        config: of the run.
        interactions: of the run.
        resumed: the folder of a run that goes on, which holds the index; where it is lost, the bundle is read again.
            None: the run begins.

    Raises:
        ConfigError, BundleError, DataFileError: as :func:`open_frozen`.
    """
    if not config.train.freeze_items:
        return None, None
    index = None if resumed is None else kept_frozen(resumed)
    return (index, None) if index is not None else open_frozen(config, interactions)


def open_frozen(config: RetrievalRunConfig, interactions: Interactions) -> tuple[FrozenIndex, FrozenUsers]:
    """The index of the bundle that ``train.freeze_items`` names, and its users.

    Raises:
        ConfigError: it is no bundle of vectors of users and items, or one of another model, width or loss, of another
            FeatureSet, or of ids of another type.
        BundleError: it is damaged.
        DataFileError: it holds no table of users or items.
    """
    path = Path(config.train.freeze_items)
    where = f"train.freeze_items {path}"
    if not (path / MANIFEST).exists() and (path / "bundle" / MANIFEST).exists():
        path = path / "bundle"
    if not (path / MANIFEST).exists():
        raise ConfigError(f"{where}: {_no_bundle(path)}")
    bundle = open_bundle(path)
    _check(bundle.manifest, config, interactions, where)
    try:
        return _read(bundle)
    except (KeyError, ValueError, OSError) as error:
        raise DataFileError(f"{path}: holds no tables of users and items: {error}") from error


def _no_bundle(path: Path) -> str:
    if not path.exists():
        return "there is no such folder; give a bundle, or a run's folder with one in it"
    if path.is_dir() and is_retrieval_run(path):
        return f"a run without a bundle; write one first: `recsys export {path} --out {path / 'bundle'}`"
    return "neither a bundle of a model that ranks all items nor a run's folder with one in it"


def _check(manifest: Manifest, config: RetrievalRunConfig, interactions: Interactions, where: str) -> None:
    if manifest.kind != "retrieval":
        raise ConfigError(f"{where}: a {manifest.kind} bundle, which has no index; expected a retrieval bundle")
    if manifest.knows_users_by != "id":
        raise ConfigError(
            f"{where}: it knows users by their {manifest.knows_users_by}, new ones too: there is nothing to train; "
            "expected a bundle of mf, lightgcn or ngcf"
        )
    older = manifest.training.get("config", {})
    for part, name in (("model", "kind"), ("model", "dim"), ("model", "layers"), ("train", "loss")):
        now = getattr(getattr(config, part), name)
        was = older.get(part, {}).get(name, 0 if name == "layers" else None)
        if was != now:
            raise ConfigError(f"{where}: its {part}.{name} is {was!r}, that of this run {now!r}; allowed: the same")
    features = ids_of(interactions).features
    for side in ("user_id", "item_id"):
        was, now = getattr(manifest.feature_set, side), getattr(features, side)
        if was.id_type != now.id_type:
            raise ConfigError(
                f"{where}: its {side} are of type {was.id_type}, those of the data {now.id_type}; allowed: the same"
            )
        if was.name != now.name:
            raise ConfigError(
                f"{where}: its {side} is the feature {was.name!r}, that of the data {now.name!r}; allowed: the same"
            )
    # Integers of two logs look alike: 7 is an item of each.
    if manifest.feature_set.name != features.name:
        raise ConfigError(
            f"{where}: it is of the FeatureSet {manifest.feature_set.name!r}, the data of {features.name!r}, whose ids "
            "name other users and items; give a bundle of the same log"
        )


def _read(bundle: Bundle) -> tuple[FrozenIndex, FrozenUsers]:
    path, tables = bundle.path, bundle.manifest.tables
    item_keys = tables["item_id.keys"].read(path)[1:].astype(np.int64)
    items_FD = tables["item_id.rows"].read(path)[1:].astype(np.float32)
    names = None
    if bundle.features.item_id.id_type == "string":
        names = tuple(bundle.names()[bundle.features.item_id.table].of(item_keys))
    slots_TW, rows_TW = np.split(tables["user_id.ids"].read(path).astype(np.int64), 2, axis=1)
    filled = rows_TW > 0
    user_keys, user_rows = slots_TW[filled], rows_TW[filled]
    order = np.argsort(user_keys)
    users_ND = tables["user_id.rows"].read(path)[user_rows[order]].astype(np.float32)
    index = FrozenIndex(name=path.name, item_keys=item_keys, items_FD=items_FD, item_names=names)
    if index.fingerprint != fingerprint_of_files(bundle.manifest.files):
        raise BundleError(f"{path}: its tables of items are not laid out as an index (docs/specs/bundle.md)")
    return index, FrozenUsers(keys=user_keys[order], vectors_ND=users_ND)


def keep_frozen(index: FrozenIndex, run_dir: Path) -> None:
    """Write the index to a run's folder."""
    with atomic_file(run_dir / FROZEN) as stream:
        np.savez(
            stream,
            name=np.array(index.name),
            item_keys=index.item_keys,
            items_FD=index.items_FD,
            item_names=np.array(index.item_names or (), dtype=np.str_),
        )


def kept_frozen(run_dir: Path) -> FrozenIndex | None:
    """The index in a run's folder; None: the run trains items.

    Raises:
        DataFileError: its file is damaged.
    """
    path = run_dir / FROZEN
    if not path.exists():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names = tuple(arrays["item_names"].tolist())
            return FrozenIndex(
                name=str(arrays["name"]),
                item_keys=arrays["item_keys"],
                items_FD=arrays["items_FD"],
                item_names=names or None,
            )
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{path}: not readable as the index of a run: {error}") from error
