"""Models of candidates: training, what they find of items and users that came later, how fast they follow a user.

Training: the recipe ``linear_gowalla`` on Gowalla, in a process of its own: seconds from
pairs to the fitted model, the memory that this takes beyond libraries and data, and the run's own recall and NDCG.

Cold items and users (``retrieving/cold.py``): Beauty with a tenth of the items, or of the users, held out of training;
``cold.items_hr10.MODEL`` is the share of users whose last item was held out and is among the ten first of all items.

Serving: a bundle that knows users by their history, of random numbers in the shape of that model, through gRPC and
Redis. ``retrieve.fresh_event``: a caller appends an event and asks at once; the seconds from before the append to the
answer, which must be another one than before. ``retrieve.fresh_item``: a caller puts an item that the bundle has not
and asks until it is in the list, with the server's own settings. Beside it the same table served by a bundle that knows
users by their ids, and by one that takes new items, which has none and then as many as a server takes by default; calls
taking turns; the servers on the first core, Redis and the caller on the last.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from harness.common import Line, cores, line, machine, main, parser, pinned, rounded, say, spread
from harness.workers import worker

if TYPE_CHECKING:
    from recsys.client import Client

LIBRARIES = ("torch", "onnxruntime", "grpcio", "numpy", "scipy", "redis")
K = 100


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement; ``dim`` and ``neighbours`` are those of the recipe's model."""

    items: int = 40_981
    dim: int = 448
    neighbours: int = 512
    events: int = 50
    users: int = 32
    calls: int = 400
    added: int = 10_000
    trains: bool = True
    sequences: str = "beauty_sequences"
    cold_models: tuple[str, ...] = ("linear", "two_tower")


SIZES = {
    "full": Size(),
    "quick": Size(calls=60, sequences=""),
    "tiny": Size(items=300, dim=8, neighbours=4, events=5, users=2, calls=4, added=20, trains=False, sequences=""),
}


def training(data: Path | None, gowalla: bool) -> Callable[[float], dict[str, float]]:
    """Train once, and measure."""
    from recsys.data.interactions.datasets import load_interaction_set
    from recsys.recipes import RETRIEVAL_RECIPES
    from recsys.training.retrieval.linear.fit import evaluate_model, fit
    from recsys.training.settings import override

    config = RETRIEVAL_RECIPES["linear_gowalla"]()
    if not gowalla:
        config = override(config, ["data.dataset=synthetic", "model.ranks=[8]", "model.neighbours=[4]"])
    pairs = load_interaction_set(config.data.dataset, config.data, work_dir=Path("runs"), path=data)

    def measure(_: float) -> dict[str, float]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _peak_mib()
        fitted = fit(config, pairs)
        peak = _peak_mib()
        test, _ = evaluate_model(fitted.model, config, pairs, pairs.test, test=True)
        return {"s": fitted.train_s, "mib": peak - before, "recall": test.recall, "ndcg": test.ndcg}

    return measure


def bundles(folder: Path, size: Size) -> tuple[Path, ...]:
    """A bundle that knows users by their history, one by ids, and one by history that takes new items; of one size, ids
    are 0, 1, 2 and so on. Of the new items' categories, the first two make one for everybody's first place."""
    from harness.reference import CATEGORIES, FEATURES

    from recsys.bundle import Certificate, Manifest, bundle_writer
    from recsys.export.retrieval.by_history.linear.graph import HistoryTables, write_history_graph
    from recsys.export.retrieval.by_history.linear.item_graph import write_item_graph
    from recsys.export.retrieval.graph import RetrievalTables, write_retrieve_graph
    from recsys.models.retrieval.attributes import AttributeRows, Encoding

    random = np.random.default_rng(0)
    items_MD = random.standard_normal((size.items, size.dim), dtype=np.float32)
    popularity_M = random.integers(0, 1000, size.items).astype(np.float32)
    by_history = HistoryTables(
        item_keys=np.arange(size.items),
        history_MD=random.standard_normal((size.items, size.dim), dtype=np.float32),
        items_MD=items_MD,
        neighbours_MJ=random.integers(0, size.items, (size.items, size.neighbours)).astype(np.int32),
        added_MJ=random.random((size.items, size.neighbours), dtype=np.float32),
        popularity_M=popularity_M,
    )
    by_id = RetrievalTables(
        user_keys=np.arange(size.users),
        users_ND=random.standard_normal((size.users, size.dim), dtype=np.float32),
        item_keys=np.arange(size.items),
        items_MD=items_MD,
        popularity_M=popularity_M,
    )
    nothing = Certificate(requests=0, candidates=0, max_abs_logit_difference=0, tolerance=0, compared="none")
    weights_PR = random.standard_normal((CATEGORIES, 2 * size.dim), dtype=np.float32)
    weights_PR[0] *= 10_000.0  # of 32 users one is nearly at a right angle to it
    weights_PR[1] = -weights_PR[0]
    categories = Encoding(features=FEATURES.item, keys={"category": np.arange(CATEGORIES)}, numbers={})
    attributes = AttributeRows(
        encoding=categories, weights_PR=weights_PR, base_R=np.zeros(2 * size.dim, dtype=np.float32)
    )
    paths = folder / "by_history", folder / "by_id", folder / "with_new"
    for path in paths:
        with bundle_writer(path) as writer:
            graphs = {}
            if path == paths[1]:
                graphs["retrieve"], infos = write_retrieve_graph(by_id, writer.folder)
            else:
                graphs["retrieve"], infos = write_history_graph(
                    by_history, writer.folder, item_id=FEATURES.item_id.name, takes_added=path == paths[2]
                )
            if path == paths[2]:
                graphs["item"], of_item = write_item_graph(attributes, FEATURES, writer.folder)
                infos = {**infos, **of_item}
            writer.finish(
                Manifest(
                    model="random",
                    kind="retrieval",
                    feature_set=FEATURES,
                    graphs=graphs,
                    tables=infos,
                    certificate=nothing,
                    knows_users_by="id" if path == paths[1] else "history",
                )
            )
    return paths


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    size = SIZES[options.size]
    on = machine(LIBRARIES, k=K, **asdict(size))
    if options.only in (None, "training"):
        yield from _training_lines(options.data, size, on)
    if options.only in (None, "cold"):
        yield from _cold_lines(options.data, size, on)
    if options.only not in (None, "serving"):
        return
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        yield from _serving_lines(Path(name), size, on)


def _training_lines(data: Path | None, size: Size, on: dict[str, Any]) -> Iterator[Line]:
    say("training in closed form")
    with worker(training, data, size.trains) as measure:
        found = measure(1)
    about = "Gowalla, the recipe linear_gowalla" if size.trains else "synthetic pairs"
    yield line(
        "retrieval_models.linear_s", found["s"], "s", higher_is_better=False, compared_with=about, on=on, target=60.0
    )
    yield line("retrieval_models.linear_mib", found["mib"], "MiB", higher_is_better=False, compared_with=about, on=on)
    for metric, target in (("recall", 0.185), ("ndcg", 0.1518)):
        yield line(
            f"retrieval_models.linear_{metric}",
            found[metric],
            f"{metric}@20",
            higher_is_better=True,
            compared_with=f"GF-CF's published {target}; {about}, as it is served",
            on=on,
            target=target,
        )


def _cold_lines(data: Path | None, size: Size, on: dict[str, Any]) -> Iterator[Line]:
    for model in size.cold_models:
        say(f"{model}: items and users held out of training")
        with worker(_cold, data, size, model) as measure:
            found = measure(1)
        about = size.sequences or "made sequences"
        yield line(
            f"cold.items_hr10.{model}",
            found["items"],
            "HR@10 among all items",
            higher_is_better=True,
            compared_with=f"twice popularity's of all users; {about}, a tenth of the items held out",
            on=on,
            target=rounded(2 * found["popularity"]),
            warm_items_hr10=rounded(found["warm"]),
            popularity_hr10=rounded(found["popularity"]),
            share_of_places=rounded(found["places"]),
        )
        yield line(
            f"cold.users_recall.{model}",
            found["new"] / found["known"],
            "of the recall@20 of the same users, trained on their histories",
            higher_is_better=True,
            compared_with=f"the model that was trained on their histories; {about}, a tenth of the users held out",
            on=on,
            target=0.9,
            recall={"held out": rounded(found["new"]), "trained on": rounded(found["known"])},
        )


def _cold(data: Path | None, size: Size, model: str) -> Callable[[float], dict[str, float]]:
    """Train without some items and without some users, and measure."""
    from retrieving.cold import cold_items, cold_users, made_sequences

    from recsys.data.interactions.datasets import load_interaction_set
    from recsys.data.interactions.positives import PairRule
    from recsys.recipes import OWN_LOG_RETRIEVAL
    from recsys.training.settings import override

    config = override(OWN_LOG_RETRIEVAL[model](), ["data.dataset=beauty_sequences"])
    if size.sequences:
        pairs = load_interaction_set(size.sequences, PairRule(), work_dir=Path("runs"), path=data)
    else:
        pairs = made_sequences()
        small = {
            "linear": ["model.ranks=[8]", "model.neighbours=[8]"],
            "two_tower": ["train.epochs=2", "model.dim=8", "train.batch_size=128"],
        }
        config = override(config, small[model])

    def measure(_: float) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
            items = cold_items(config, pairs, Path(name) / "items")
            new, known = cold_users(config, pairs, Path(name) / "users")
        assert items.cold is not None
        return {
            "items": items.cold.recall,
            "warm": items.warm.recall,
            "popularity": items.popularity.recall,
            "places": items.places,
            "new": new.recall,
            "known": known.recall,
        }

    return measure


def _serving_lines(folder: Path, size: Size, on: dict[str, Any]) -> Iterator[Line]:
    from harness.reference import START_MS, STEP_MS
    from ranking import setting as rank_setting

    from recsys.client import Client

    say("serving by history, and by ids")
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(rank_setting.redis_with_items(folder, items=size.items, candidates=1))
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        clients = []
        for bundle in bundles(folder, size):
            place = folder / f"served_{bundle.name}"
            place.mkdir()
            own = rank_setting.Setting(folder=place, redis_url=setting.redis_url, candidates=1, items=setting.items)
            _, address = stack.enter_context(rank_setting.pinned_server(own, bundle))
            clients.append(stack.enter_context(Client(address, timeout_s=30.0)))
        stack.enter_context(pinned(cores()[-1]))
        by_history, _, with_new = clients
        took_ms = _in_turns(clients, histories.users, size.calls)
        fresh_s, random = [], np.random.default_rng(1)
        for number in range(max(4, size.calls // 4)):
            user = histories.users[number % len(histories.users)]
            before = by_history.retrieve(user=user, top_k=K)
            new = next(item for item in random.permutation(size.items).tolist() if item not in set(before.items))
            time_ms = START_MS + STEP_MS * size.events + 1 + number
            began = time.perf_counter()
            by_history.append_events(user=user, items=[new], timestamps_ms=[time_ms], arrivals_ms=[time_ms])
            after = by_history.retrieve(user=user, top_k=K)
            fresh_s.append(time.perf_counter() - began)
            assert after.history_events == before.history_events + 1 and list(after.scores) != list(before.scores)
        fresh_item_s = _fresh_items(with_new, histories.users, size)
        _put_items(with_new, range(size.items + 1_000, size.items + 1_000 + size.added))
        full_ms = _in_turns([with_new], histories.users, size.calls)
    about = (
        f"{size.items:,} items, {size.dim} columns, {size.neighbours} neighbours, {size.events} events; through gRPC"
    )
    yield line(
        "retrieve.fresh_event",
        median(fresh_s),
        "s",
        higher_is_better=False,
        compared_with=f"an append and the next Retrieve, whose list is another; {about}",
        on=on,
        spread=spread(fresh_s),
    )
    yield line(
        "retrieve.fresh_item",
        median(fresh_item_s),
        "s",
        higher_is_better=False,
        compared_with="a PutEntities of a new item and the first Retrieve that has it, the server looking every 0.5 s; "
        f"longest {max(fresh_item_s):.2f} s; {about}",
        on=on,
        spread=spread(fresh_item_s),
        target=1.0,
    )
    medians = [median(took_ms[side]) for side in (0, 1, 2)]
    yield line(
        "retrieve.added_over_none",
        median(full_ms[0]) / medians[2],
        "times the p50 without new items",
        higher_is_better=False,
        compared_with=f"{size.added:,} new items beside the bundle's, by the same server; {about}",
        on=on,
    )
    for name, value in zip(("history", "id", "history_with_new"), medians, strict=True):
        yield line(f"retrieve.by_{name}_p50_ms", value, "ms", higher_is_better=False, compared_with=about, on=on)
    yield line(
        "retrieve.history_over_id",
        medians[0] / medians[1],
        "times the p50 by ids",
        higher_is_better=False,
        compared_with=f"the same table, users known by their ids, calls in turns; {about}",
        on=on,
    )


def _in_turns(clients: Sequence[Client], users: Sequence[int], calls: int) -> list[list[float]]:
    """Milliseconds of calls to each server."""
    took_ms: list[list[float]] = [[] for _ in clients]
    for number in range(calls):
        user = users[number % len(users)]
        for side, client in enumerate(clients):
            began = time.perf_counter()
            answer = client.retrieve(user=user, top_k=K)
            took_ms[side].append((time.perf_counter() - began) * 1e3)
            assert answer.user_known and not answer.degraded and answer.history_events, answer
    return took_ms


def _fresh_items(client: Client, users: Sequence[int], size: Size) -> list[float]:
    """Seconds from before the put of an item to the first answer that has it."""
    fresh_s, random = [], np.random.default_rng(2)
    for number in range(max(4, size.calls // 20)):
        time.sleep(random.uniform(0.0, 0.5))  # wherever between two looks of the server
        new = [size.items + 2 * number, size.items + 2 * number + 1]  # one of them is everybody's first
        user = users[number % len(users)]
        began = time.perf_counter()
        client.put_entities(entity="item", ids=new, features={"category": [0, 1]})
        while not set(new) & set(client.retrieve(user=user, top_k=K).items):
            assert time.perf_counter() - began < 30.0
        fresh_s.append(time.perf_counter() - began)
    return fresh_s


def _put_items(client: Client, items: range) -> None:
    """Put items, and wait until one of the last is found."""
    for start in range(0, len(items), 1_000):
        part = list(items[start : start + 1_000])
        client.put_entities(entity="item", ids=part, features={"category": [2 + item % 900 for item in part]})
    time.sleep(3.0)


def _options() -> argparse.ArgumentParser:
    made = parser(__doc__ or "")
    made.add_argument("--only", choices=("training", "cold", "serving"), help="measure one part")
    return made


def _peak_mib() -> float:
    """Most memory that this process has had (Linux)."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return float(next(int(row.split()[1]) for row in rows if row.startswith("VmHWM:"))) / 1024


if __name__ == "__main__":
    main("retrieval_models", run, _options())
