"""Ranking every item for every user of Gowalla, with its metrics: 29,858 users, 40,981 items, 64 columns.

Beside it, in the same run, the bound: the products of the users' vectors with the items', and nothing else. Vectors are
random, as times do not depend on them. Needs Gowalla's interactions (``--gowalla``); rough forms take random pairs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from harness.common import Line, line, machine, main, parser, say, spread

from recsys.data.interactions.pairs import Interactions, hold_out, load_interactions, make_pairs
from recsys.training.retrieval.ranking import rank_all

_BLOCK = 256


def products_s(users_ND: torch.Tensor, items_MD: torch.Tensor) -> float:
    """Seconds of the products alone, into one buffer."""
    items_DM = items_MD.t().contiguous()
    scores = torch.empty(_BLOCK, len(items_MD))
    began = time.perf_counter()
    for block in users_ND.split(_BLOCK):
        torch.mm(block, items_DM, out=scores[: len(block)])
    return time.perf_counter() - began


def ranking_s(users_ND: torch.Tensor, items_MD: torch.Tensor, data: Interactions) -> float:
    """Seconds of ranking, exclusion of what was taken, and all metrics."""
    began = time.perf_counter()
    rank_all(users_ND, items_MD, relevant=data.test, excluded=(data.train, data.validation), list_length=20)
    return time.perf_counter() - began


def random_interactions(users: int, items: int) -> Interactions:
    """Pairs at random: what a rough form takes in Gowalla's place."""
    random = np.random.default_rng(0)
    pairs = make_pairs(random.integers(0, users, 30 * users), random.integers(0, items, 30 * users))
    train, test = hold_out(pairs, share=0.2, seed=0)
    train, validation = hold_out(train, share=0.1, seed=0)
    return Interactions(
        num_users=users, num_items=items, train=train, validation=validation, test=test, source="random pairs"
    )


def measure(given: argparse.Namespace) -> Iterator[Line]:
    if given.size == "full":
        if not (given.gowalla / "train.txt.gz").exists():
            say(f"skipped: {given.gowalla} holds no train.txt.gz; give the folder of Gowalla with --gowalla")
            return
        data, turns = load_interactions(given.gowalla), 5
    else:
        data, turns = random_interactions(*((2_000, 3_000) if given.size == "quick" else (200, 300))), 3
    torch.manual_seed(0)
    users_ND, items_MD = torch.randn(data.num_users, given.dim), torch.randn(data.num_items, given.dim)
    taken = [(ranking_s(users_ND, items_MD, data), products_s(users_ND, items_MD)) for _ in range(turns)]
    ranking, bound = [a for a, _ in taken], [b for _, b in taken]
    where = machine(
        ["torch"], users=data.num_users, items=data.num_items, dim=given.dim, threads=torch.get_num_threads()
    )
    about = f"{data.num_users} users, {data.num_items} items"
    yield line(
        "full_ranking.seconds",
        median(ranking),
        "s",
        higher_is_better=False,
        compared_with=about,
        on=where,
        target=20.0,
        spread=spread(ranking),
    )
    yield line(
        "full_ranking.products_s",
        median(bound),
        "s",
        higher_is_better=False,
        compared_with=about,
        on=where,
        spread=spread(bound),
    )
    yield line(
        "full_ranking.over_products",
        median(a / b for a, b in taken),
        "times the products' time",
        higher_is_better=False,
        compared_with="the products alone, same run",
        on=where,
    )


def options() -> argparse.ArgumentParser:
    made = parser(__doc__ or "")
    data = Path(os.environ.get("RECSYS_DATA_DIR", "../shared/data"))
    made.add_argument("--gowalla", type=Path, default=data / "gowalla", help="folder of Gowalla's train and test")
    made.add_argument("--dim", type=int, default=64, help="columns of the vectors; NGCF's have 256")
    return made


if __name__ == "__main__":
    main("full_ranking", measure, options())
