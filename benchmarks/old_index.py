"""A new model on an old index: users of a new training beside the items of an older one, by each way there is.

LightGCN on Gowalla, three trainings: the older one, without a random tenth of the users; a new one of everybody, from
another seed; and users of everybody trained against the older one's items (``train.freeze_items``). Each way gives a
vector to every user and leaves the older items as they are; its figure is recall@20 of the test part, of all users and
of those who came since. Ways that map one training onto the other are fitted on the items that both have:

- ``raw``: none, the new users' vectors as they are;
- ``relative``: users and items by their cosines to 1,000 items, each in its own training (relative representations,
  Moschella et al., ICLR 2023);
- ``procrustes``: the rotation that takes the new items closest to the old ones;
- ``linear``: the matrix that foretells the new items from the old ones best, by least squares;
- ``basis``: a rotation learnt from the training pairs by BPR, at the width of the index, beginning with that of
  ``procrustes``, in the manner of BT2's learnt orthonormal bases (Zhou et al., ICCV 2023), which also add columns: an
  index that is kept has none to add.

``new`` is the new training's users beside its own items. Trainings are kept in ``--work``, and not done again; one of
other settings or of another seed is refused. Lines say the seeds, and the commits of the code that trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness.common import Line, line, machine, main, parser, say
from torch import Tensor

from recsys.data.interactions.datasets import load_interaction_set
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.errors import ConfigError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.models.retrieval.mf import bpr_loss, training_pairs
from recsys.recipes import RETRIEVAL_RECIPES
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import read_retrieval_config
from recsys.training.retrieval.loop import train_retrieval_run
from recsys.training.retrieval.pairs.negatives import NegativeSampler
from recsys.training.retrieval.ranking import rank_all
from recsys.training.retrieval.trained import load_trained
from recsys.training.run.record import read_record
from recsys.training.settings import differences, override

CAME_SINCE = 0.1
"""Share of the users that the older training lacks."""

ANCHORS = 1_000
STEPS = 300
"""Of the learnt rotation."""

TINY = ("data.dataset=synthetic", "model.dim=8", "train.epochs=3", "train.list_length=5", "train.validation_users=50")


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    config = RETRIEVAL_RECIPES["lightgcn_gowalla"]()
    # Each user's loss is convex here, and most begin with their old vector: a few epochs do.
    shorter = ["train.epochs=10"]
    if options.size != "full":
        config = override(config, TINY if options.size == "tiny" else [*TINY, "train.epochs=20"])
        shorter = ["train.epochs=2"]
    pairs = load_interaction_set(config.data.dataset, config.data, work_dir=Path("runs"), path=options.data)
    came_N = np.random.Generator(np.random.PCG64(1)).random(pairs.num_users) < CAME_SINCE
    before = dataclasses.replace(pairs, train=pairs.train.where(~came_N[pairs.train.user_E]))
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        folder = options.work if options.size == "full" else Path(name)
        old = _trained(override(config, ["train.seed=1"]), before, folder / "old")
        if not (folder / "old" / "bundle").exists():
            export_retrieval_bundle(folder / "old", before, folder / "old" / "bundle", name="old")
        new = _trained(override(config, ["train.seed=2"]), pairs, folder / "new")
        kept = [*shorter, f"train.freeze_items={folder / 'old'}"]
        frozen = _trained(override(config, kept), pairs, folder / "frozen")
        trained_by = {name: read_record(folder / name) for name in ("old", "new", "frozen")}
    facts = {
        "seeds": {name: record.seed for name, record in trained_by.items()},
        "commits": {name: f"{record.commit}{' with changes' * record.changed}" for name, record in trained_by.items()},
    }
    yield from _lines(options, config, pairs, came_N, (old, new, frozen), facts)


def _trained(config: RetrievalRunConfig, pairs: Interactions, folder: Path) -> tuple[Tensor, Tensor]:
    """Vectors of all users and items of a run, which is trained unless it is there.

    Raises:
        ConfigError: the run that is there has other settings or another seed.
    """
    if (folder / "config.json").exists() and (differ := differences(read_retrieval_config(folder), config)):
        raise ConfigError(f"{folder} holds another training: {differ}; allowed: another --work, or remove the folder")
    if not (folder / "metrics.json").exists():
        say(f"training {folder.name}")
        train_retrieval_run(config, pairs, folder, resume=folder.exists())
    return load_trained(folder, pairs)[1].vectors()


def _lines(
    options: argparse.Namespace,
    config: RetrievalRunConfig,
    pairs: Interactions,
    came_N: np.ndarray[Any, np.dtype[np.bool_]],
    results: Sequence[tuple[Tensor, Tensor]],
    facts: Mapping[str, Any],
) -> Iterator[Line]:
    (_, old_MD), (new_ND, new_MD), frozen = results
    both_M = torch.from_numpy(
        np.bincount(pairs.train.item_E[~came_N[pairs.train.user_E]], minlength=pairs.num_items) > 0
    )
    rotated_ND = new_ND @ rotation(new_MD[both_M], old_MD[both_M])
    ways = {
        "new": (new_ND, new_MD),
        "frozen": frozen,
        "procrustes": (rotated_ND, old_MD),
        "linear": (new_ND @ least_squares(old_MD[both_M], new_MD[both_M]).t(), old_MD),
        "basis": (rotated_ND @ learnt_basis(rotated_ND, old_MD, pairs), old_MD),
        "relative": relative(new_ND, new_MD, old_MD, both_M),
        "raw": (new_ND, old_MD),
    }
    on = machine(("torch", "numpy"), users=pairs.num_users, items=pairs.num_items, came_since=int(came_N.sum()))
    length = config.train.list_length
    about = "Gowalla, LightGCN" if options.size == "full" else "synthetic pairs"
    since: Pairs = pairs.test.where(came_N[pairs.test.user_E])
    for name, vectors in ways.items():
        say(name)
        of_all = rank_all(*vectors, relevant=pairs.test, excluded=(pairs.train,), list_length=length)
        of_new = rank_all(*vectors, relevant=since, excluded=(pairs.train,), list_length=length)
        yield line(
            f"old_index.{name}",
            of_all.recall,
            f"recall@{length}",
            higher_is_better=True,
            compared_with=f"the new training beside its own items; {about}",
            on=on,
            ndcg=of_all.ndcg,
            came_since=of_new.recall,
            **facts,
        )


def rotation(from_MD: Tensor, to_MD: Tensor) -> Tensor:
    """The orthogonal matrix that takes some rows closest to others (Schoenemann, 1966), [D, D]."""
    left, _, right = torch.linalg.svd(from_MD.t() @ to_MD)
    return left @ right


def least_squares(from_MD: Tensor, to_MD: Tensor) -> Tensor:
    """The matrix that takes some rows closest to others, [D, D]."""
    return torch.linalg.lstsq(from_MD.double(), to_MD.double()).solution.float()


def relative(users_ND: Tensor, new_MD: Tensor, old_MD: Tensor, both_M: Tensor) -> tuple[Tensor, Tensor]:
    """Users and items by their cosines to the same items, each in its own training."""
    candidates = torch.nonzero(both_M).flatten()
    drawn = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(0))[:ANCHORS]
    anchors = candidates[drawn]
    new, old = F.normalize(new_MD, dim=1), F.normalize(old_MD, dim=1)
    return F.normalize(users_ND, dim=1) @ new[anchors].t(), old @ old[anchors].t()


def learnt_basis(users_ND: Tensor, items_MD: Tensor, pairs: Interactions) -> Tensor:
    """The rotation of users that BPR finds beside given items, [D, D]: the exponential of a skew matrix."""
    train, width = pairs.train, users_ND.shape[1]
    sizes = {"num_users": pairs.num_users, "num_items": pairs.num_items}
    user_E, item_E = torch.from_numpy(train.user_E), torch.from_numpy(train.item_E)
    sampler, generator = NegativeSampler(user_E, item_E, **sizes), torch.Generator().manual_seed(0)
    free = torch.nn.Parameter(1e-3 * torch.randn(width, width, generator=generator))
    # A rotation cannot scale: without a scale of their own, scores of two trainings fit BPR badly.
    scale = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([free, scale], lr=0.01)
    items_MD = items_MD.contiguous()
    for _ in range(STEPS):
        chosen = torch.randint(len(user_E), (min(50_000, len(user_E)),), generator=generator).sort().values
        batch = training_pairs(user_E[chosen], item_E[chosen], **sizes)
        basis = torch.linalg.matrix_exp(free - free.t())
        loss = bpr_loss(
            scale.exp() * (users_ND @ basis), items_MD, batch, sampler.draw(user_E[chosen], generator)[:, 0]
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return torch.linalg.matrix_exp(free - free.t()).detach()


def options() -> argparse.ArgumentParser:
    """The options of every benchmark, and the folder of the trainings."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--work", type=Path, default=Path("runs/old_index"), help="where trainings of a full run are kept"
    )
    return made


if __name__ == "__main__":
    main("old_index", run, options())
