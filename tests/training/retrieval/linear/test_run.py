"""A run of a closed form: what it finds and chooses, how it is resumed, what it refuses, what its bundle answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.planted import ITEMS, LOST, USERS, planted, popularity_metrics

from recsys.bundle import RETRIEVE_INPUTS, open_bundle
from recsys.data.interactions.candidates import CandidateLists
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, joined, make_pairs
from recsys.errors import BundleError, ConfigError, DataFileError, InvalidInputError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.export.retrieval.by_history.linear import model as history_bundle
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import string_keys
from recsys.features.history.records import make_events
from recsys.models.retrieval.history_weights import HistoryWeights
from recsys.models.retrieval.linear import Linear, LinearConfig
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.training.retrieval.config import RetrievalRunConfig, RetrievalTrainConfig
from recsys.training.retrieval.evaluate import details_of_run, evaluate_retrieval_run
from recsys.training.retrieval.folder import fingerprint
from recsys.training.retrieval.linear import fit
from recsys.training.retrieval.linear.choice import Trial, at_edge, choose
from recsys.training.retrieval.linear.histories import histories, pair_events
from recsys.training.retrieval.loop import RetrievalProgress
from recsys.training.retrieval.run import train_any
from recsys.training.run.folder import CHECKPOINT
from recsys.training.settings import from_json, override, to_json

SMALL = RetrievalRunConfig(
    recipe="small",
    model=LinearConfig(
        ranks=(4, 16),
        user_degrees=(0.3, 0.5),
        degrees=(0.25, 0.5),
        low_pass=(0.3, 3.0),
        sharpen=(0.0, 0.7),
        neighbours=(2, 50),
        half_life_events=(0.0,),
        half_life_days=(0.0,),
    ),
    train=RetrievalTrainConfig(list_length=5),
)
NOW_MS = 1_700_000_000_000
FIXED = [
    "model.ranks=[4]",
    "model.user_degrees=[0.5]",
    "model.degrees=[0.5]",
    "model.low_pass=[1.0]",
    "model.sharpen=[0.0]",
    "model.neighbours=[50]",
]


def named(data: Interactions) -> Interactions:
    """The same with texts for items, and an item and a user that no training pair has."""
    kept = (data.train.user_E != 3) & (data.train.item_E != 5)
    names = tuple(f"item {number}" for number in np.random.default_rng(0).permutation(ITEMS))
    features = FeatureSet(
        name="shop",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="sku", id_type="string"),
        history=History(),
    )
    return dataclasses.replace(
        data,
        train=make_pairs(data.train.user_E[kept], data.train.item_E[kept]),
        ids=PairIds(
            features=features,
            user_keys_N=np.arange(USERS) + 1000,
            item_keys_M=string_keys(names),
            item_names_M=names,
        ),
    )


def test_it_finds_planted_communities_and_says_what_it_chose(tmp_path: Path) -> None:
    data, seen = planted(), list[RetrievalProgress]()
    result = train_any(SMALL, data, tmp_path / "run", report=seen.append)
    popular = popularity_metrics(data)
    assert result.test.ndcg > 2.5 * popular.ndcg and result.test.recall > 2.5 * popular.recall
    assert (result.epochs, result.best_epoch, result.test.users) == (0, None, USERS)
    note, refit = (each for each in result.notes if not each.startswith("at the edge"))
    assert note.startswith("chosen on validation of ") and "rank " in note and "recall@5" in note
    assert refit.startswith("measured on the validation part as fitted to ")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["notes"] == list(result.notes) and record["metrics"]["test"]["recall"] == result.test.recall
    for split, metrics in (("test", result.test), ("validation", result.validation)):
        assert evaluate_retrieval_run(tmp_path / "run", data, split) == metrics
    assert {"eigenvectors", "settings tried", "neighbours of items"} <= {each.stage for each in seen}
    again = train_any(SMALL, data, tmp_path / "again")
    assert again.test == result.test, "the seed decides it"
    assert from_json(RetrievalRunConfig, to_json(SMALL)) == SMALL


def test_the_settings_are_those_with_the_best_recall_of_validation(tmp_path: Path) -> None:
    """Each setting alone, tried as a run of its own: none is better than what was chosen, by more than it is worth."""
    data = planted()
    given = ["model.ranks=[16]", "model.user_degrees=[0.5]", "model.degrees=[0.5]", "model.low_pass=[1.0]"]
    config = override(SMALL, [*given, "model.neighbours=[2]", "model.sharpen=[0.0,0.7,1.5]"])
    chosen = train_any(config, data, tmp_path / "chosen")
    recalls = []
    for number, value in enumerate(config.model.sharpen):  # type: ignore[attr-defined]
        run = train_any(override(config, [f"model.sharpen=[{value}]"]), data, tmp_path / str(number))
        assert run.validation is not None
        recalls.append(run.validation.recall)
    assert chosen.validation is not None and chosen.validation.recall == max(recalls) > min(recalls)
    assert f"(recall@5 {chosen.validation.recall:.4f} of a sample" in chosen.notes[0], (
        "what is compared is what is served"
    )


def test_where_there_are_candidates_the_hit_rate_among_them_counts_as_much(tmp_path: Path) -> None:
    data = planted()
    first = np.unique(data.validation.user_E, return_index=True)[1]
    one_each = make_pairs(data.validation.user_E[first], data.validation.item_E[first])
    negative_GC = np.random.default_rng(0).integers(0, ITEMS, (len(first), 30))
    lists = CandidateLists(user_G=one_each.user_E, item_GC=np.column_stack([one_each.item_E, negative_GC]))
    with_lists = dataclasses.replace(data, validation=one_each, candidates={"validation": lists})
    given = ["model.user_degrees=[0.5]", "model.degrees=[0.5]", "model.sharpen=[0.0]", "model.neighbours=[50]"]
    config = override(SMALL, [*given, "model.ranks=[16]", "model.low_pass=[0.0,0.05,1.0,50.0]", "train.list_length=2"])
    values = []
    for number, value in enumerate(config.model.low_pass):  # type: ignore[attr-defined]
        run = train_any(override(config, [f"model.low_pass=[{value}]"]), with_lists, tmp_path / str(number)).validation
        assert run is not None and run.hit_rate_at_10 is not None
        values.append((run.recall * run.hit_rate_at_10) ** 0.5)
    chosen = train_any(config, with_lists, tmp_path / "run")
    assert chosen.validation is not None and chosen.validation.hit_rate_at_10 is not None
    assert (chosen.validation.recall * chosen.validation.hit_rate_at_10) ** 0.5 == max(values) > min(values)
    assert f"HR@10 among candidates {chosen.validation.hit_rate_at_10:.4f} of a sample" in chosen.notes[0]


def test_settings_at_the_edge_of_their_values_are_named() -> None:
    config = LinearConfig()
    weights = HistoryWeights(half_life_events=2.0, half_life_days=30.0)
    edge = Linear(rank=448, user_degree=0.3, degree=0.5, low_pass=0.05, sharpen=0.0, neighbours=128, weights=weights)
    found = ["rank 448", "user_degree 0.3", "low_pass 0.05", "half_life_events 2"]
    assert at_edge(config, edge) == found, "nor 0, 1/2 of a power, or the longest halving, are edges"
    middle = dataclasses.replace(edge, rank=64, low_pass=0.3, weights=HistoryWeights())
    assert at_edge(dataclasses.replace(config, user_degrees=(0.3,)), middle) == []


def test_the_model_learns_from_validation_pairs_after_it_was_measured_on_them(tmp_path: Path) -> None:
    data = planted()
    both = train_any(SMALL, data, tmp_path / "both")
    first = train_any(override(SMALL, ["model.refit=false"]), data, tmp_path / "first")
    assert both.validation == first.validation and both.notes[0] == first.notes[0]
    settings = fit.load_fitted(tmp_path / "both", data)[1].model.settings
    fixed = [f"model.ranks=[{settings.rank}]", f"model.degrees=[{settings.degree}]"]
    fixed += [f"model.user_degrees=[{settings.user_degree}]"]
    fixed += [f"model.{name}=[{getattr(settings, name)}]" for name in ("low_pass", "sharpen", "neighbours")]
    all_pairs = dataclasses.replace(
        data, train=joined(data.train, data.validation), validation=data.validation.where(np.zeros(240, dtype=bool))
    )
    assert train_any(override(SMALL, fixed), all_pairs, tmp_path / "all").test == both.test != first.test
    resumed = train_any(SMALL, data, tmp_path / "both", resume=True)
    assert (resumed.validation, resumed.test) == (both.validation, both.test)
    with pytest.raises(ConfigError, match="has learnt from the validation part, too .model.refit.; lists of its users"):
        details_of_run(tmp_path / "both", data, "validation")
    kept_apart = train_any(override(SMALL, ["data.mask_validation=false"]), data, tmp_path / "apart")
    assert not any("model.refit" in note for note in kept_apart.notes), (
        "validation pairs that do not count as taken are not learnt from"
    )


def test_the_test_part_has_no_say_in_the_choice(tmp_path: Path) -> None:
    data = planted()
    first = train_any(SMALL, data, tmp_path / "first")
    other = dataclasses.replace(data, test=make_pairs(data.test.user_E[:50], (data.test.item_E[:50] + 1) % ITEMS))
    assert train_any(SMALL, other, tmp_path / "second").notes == first.notes


def test_a_run_that_was_killed_begins_anew_and_one_that_was_fitted_measures_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = planted(), tmp_path / "run"

    def killed(progress: RetrievalProgress) -> None:
        if progress.stage == "neighbours of items":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_any(SMALL, data, run, report=killed)
    with pytest.raises(ConfigError, match="holds a run"):
        train_any(SMALL, data, run)
    result = train_any(SMALL, data, run, resume=True)
    assert result.notes[0] == "the run was killed before it was fitted; it began anew"
    monkeypatch.setattr(fit, "largest_eigenvalues", None)
    again = train_any(SMALL, data, run, resume=True)
    assert again.test == result.test and again.notes == result.notes[1:]


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    data = planted()
    bare = dataclasses.replace(data, validation=make_pairs(data.train.user_E[:0], data.train.item_E[:0]))
    with pytest.raises(ConfigError, match=r"model.ranks has several values, but .* such as model.ranks=\[4\]"):
        train_any(SMALL, bare, tmp_path / "run")
    assert train_any(override(SMALL, FIXED), bare, tmp_path / "fixed").notes == (LOST,)
    with pytest.raises(ConfigError, match=r"would take 0\.\d GiB of memory .* allowed by model.memory_gib: 0.001"):
        train_any(override(SMALL, ["model.memory_gib=0.001"]), data, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train.epochs is 3, but linear is a closed form, which takes no steps"):
        override(SMALL, ["train.epochs=3"])
    nothing = make_pairs(data.train.user_E[:0], data.train.item_E[:0])
    with pytest.raises(InvalidInputError, match="the train part is empty"):
        train_any(SMALL, dataclasses.replace(data, train=nothing), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "what is refused leaves no run in the way"
    train_any(override(SMALL, FIXED), data, tmp_path / "damaged")
    with pytest.raises(ConfigError, match=r"model.half_life_days is \[3.0\], but the data are pairs without times"):
        train_any(override(SMALL, ["model.half_life_days=[3]"]), data, tmp_path / "run2")
    for times, name in ((None, "half_life_days"), (np.arange(1), "")):
        events = UserEvents(user_E=np.zeros(1, int), item_E=np.zeros(1, int), time_ms_E=times, attributes={})
        of_events = dataclasses.replace(data, histories={"validation": events, "test": events})
        given = override(SMALL, ["model.half_life_days=[3]", "model.half_life_events=[3]"])
        if name:
            with pytest.raises(
                ConfigError, match=rf"model.{name} is \[3.0\], but the data are sequences without times"
            ):
                train_any(given, of_events, tmp_path / "run3")
        else:
            train_any(given, of_events, tmp_path / "run3")
    (tmp_path / "damaged" / CHECKPOINT).write_bytes(b"half")
    with pytest.raises(DataFileError):
        evaluate_retrieval_run(tmp_path / "damaged", data, "test")


def test_a_log_of_one_item_is_trained_on(tmp_path: Path) -> None:
    pairs = make_pairs(np.arange(4), np.zeros(4, dtype=np.int64))
    data = Interactions(
        num_users=6, num_items=1, train=pairs, validation=make_pairs(np.array([4]), np.array([0])),
        test=make_pairs(np.array([5]), np.array([0])), source="one item",
    )  # fmt: skip
    result = train_any(override(SMALL, ["train.list_length=1"]), data, tmp_path / "run")
    assert result.test.recall == 1.0 and "there is 1 item:" in " ".join(result.notes)


def rated() -> Interactions:
    """Planted pairs as a log has them: beside each user's own events others, rated 1, of items that are not liked."""
    data, random = named(planted()), np.random.default_rng(0)
    histories = {}
    for part, parts in (("validation", [data.train]), ("test", [data.train, data.validation])):
        liked = pair_events(parts)
        user_E = np.concatenate([liked.user_E, np.repeat(np.arange(USERS), 12)])
        item_E = np.concatenate([liked.item_E, random.integers(0, ITEMS, 12 * USERS)])
        rating_E = np.repeat([5, 1], [len(liked.user_E), 12 * USERS])
        order = np.lexsort((random.random(len(user_E)), user_E))
        histories[part] = UserEvents(
            user_E=user_E[order],
            item_E=item_E[order],
            time_ms_E=NOW_MS + np.arange(len(order)),
            attributes={"rating": rating_E[order]},
        )
    assert data.ids is not None
    features = dataclasses.replace(
        data.ids.features, history=History(attributes=(Categorical(name="rating", storage="u8"),))
    )
    return dataclasses.replace(data, histories=histories, ids=dataclasses.replace(data.ids, features=features))


def test_actions_weigh_by_the_share_of_positives_where_validation_is_better_for_it(tmp_path: Path) -> None:
    data = rated()
    plain = train_any(override(SMALL, ["model.actions=false"]), data, tmp_path / "plain")
    alone = train_any(override(SMALL, FIXED), data, tmp_path / "alone")
    assert any("chosen on validation" in note and "weigh by rating" in note for note in alone.notes)
    nothing = data.validation.where(np.zeros(len(data.validation), dtype=bool))
    bare = train_any(override(SMALL, FIXED), dataclasses.replace(data, validation=nothing), tmp_path / "bare")
    assert "there is no validation part: weights of events by action are not tried" in bare.notes
    result = train_any(SMALL, data, tmp_path / "run")
    chosen = next(note for note in result.notes if note.startswith("chosen"))
    assert "events weigh by rating {1: 0." in chosen and ", 5: 1.0}" in chosen
    assert result.validation is not None and plain.validation is not None
    assert result.validation.recall > plain.validation.recall
    manifest = export_retrieval_bundle(tmp_path / "run", data, tmp_path / "bundle", name="finder")
    assert set(manifest.graphs["retrieve"].inputs) == {*RETRIEVE_INPUTS, "history.sku", "history.rating"}


def test_recent_events_weigh_more_where_it_is_asked_for_and_the_bundle_reads_their_times(tmp_path: Path) -> None:
    data = rated()
    given = ["model.half_life_days=[0.00000002]", "model.half_life_events=[3]", "model.actions=false"]
    train_any(override(SMALL, given), data, tmp_path / "run")
    manifest = export_retrieval_bundle(tmp_path / "run", data, tmp_path / "bundle", name="finder")
    assert "history.timestamp" in manifest.graphs["retrieve"].inputs and manifest.certificate.requests > 100


def test_each_setting_is_chosen_again_beside_what_was_chosen_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-life is tried beside the first rank and degree and beside the chosen ones, where those are others."""
    tried, chosen = list[Linear](), list[Linear]()

    def recorded(*args: Any, **given: Any) -> tuple[Linear, list[Trial]]:
        best, trials = choose(*args, **given)
        tried.extend(trial.settings for trial in trials)
        chosen.append(best)
        return best, trials

    monkeypatch.setattr(fit, "choose", recorded)
    train_any(override(SMALL, ["model.half_life_events=[0,3]"]), rated(), tmp_path / "run")
    beside: dict[tuple[int, float], set[float]] = {}
    for each in tried:
        beside.setdefault((each.rank, each.degree), set()).add(each.weights.half_life_events)
    (first, *_), (best,) = tried, chosen
    assert (first.rank, first.degree) != (best.rank, best.degree)
    assert beside[first.rank, first.degree] == beside[best.rank, best.degree] == {0.0, 3.0}


def test_a_bundle_answers_any_history_as_the_run_does(tmp_path: Path) -> None:
    data = named(planted())
    assert data.ids is not None
    result = train_any(override(SMALL, ["model.refit=false"]), data, tmp_path / "run")
    manifest = export_retrieval_bundle(tmp_path / "run", data, tmp_path / "bundle", name="finder")
    assert manifest.knows_users_by == "history" and manifest.certificate.requests > 100
    assert manifest.metrics["recall"] == pytest.approx(result.test.recall)
    session = open_retrieval(open_bundle(tmp_path / "bundle"))
    fitted = fit.load_fitted(tmp_path / "run", data)[1]
    score = fit.scores_of(fitted.model, histories(SMALL, data, fitted.model.settings.weights, test=True))
    for user in (0, 7, 3):
        items = np.concatenate([part.item_E[part.user_E == user] for part in (data.train, data.validation)])
        keys = data.ids.item_keys_M[items]
        names = [f"{(data.ids.item_names_M or ())[item]}" for item in items]
        events = make_events(data.ids.features, item=names, timestamp_ms=np.arange(len(items)))
        found = session.retrieve(10**9, keys, 5, events)
        (scores_M,) = score(np.array([user])).numpy()
        scores_M[items] = -np.inf
        np.testing.assert_allclose(found.scores, np.sort(scores_M)[::-1][:5], rtol=1e-4)
        assert found.history_unknown == int((items == 5).sum()) and found.known
    everything = session.retrieve(10**9, np.empty(0, dtype=np.int64), ITEMS)
    known = len(np.unique(data.train.item_E))
    assert not everything.known and len(everything.items) == known < ITEMS, "of items without a pair nothing is known"


def test_who_did_nothing_but_with_items_of_which_nothing_was_learnt_is_unknown_to_run_and_bundle(
    tmp_path: Path,
) -> None:
    data, only = rated(), 3
    own = {
        part: events.where((events.user_E != only) | (events.item_E == 5)) for part, events in data.histories.items()
    }
    one = np.flatnonzero(data.histories["test"].user_E == only)[0]
    events = own["test"]
    own["test"] = dataclasses.replace(
        events,
        user_E=np.insert(events.user_E, one, only),
        item_E=np.insert(events.item_E, one, 5),
        time_ms_E=np.insert(events.time_ms_E, one, NOW_MS),  # type: ignore[call-overload]
        attributes={"rating": np.insert(events.attributes["rating"], one, 5)},
    )
    data = dataclasses.replace(data, histories=own)
    config = override(SMALL, [*FIXED, "model.actions=false", "model.refit=false"])
    train_any(config, data, tmp_path / "run")
    fitted = fit.load_fitted(tmp_path / "run", data)[1]
    score = fit.scores_of(fitted.model, histories(config, data, fitted.model.settings.weights, test=True))
    (scores_M,) = score(np.array([only])).numpy()
    known = fitted.model.popularity_M > 0
    np.testing.assert_array_equal(scores_M[known], fitted.model.popularity_M[known])
    export_retrieval_bundle(tmp_path / "run", data, tmp_path / "bundle", name="finder")


def test_a_run_that_is_begun_by_resume_was_not_killed(tmp_path: Path) -> None:
    config = override(SMALL, [*FIXED, "model.refit=false"])
    assert train_any(config, planted(), tmp_path / "run", resume=True).notes == (LOST,)


def test_other_histories_other_ids_and_other_features_are_other_data() -> None:
    data = rated()
    later = {
        part: dataclasses.replace(events, time_ms_E=events.time_ms_E + 1) for part, events in data.histories.items()
    }  # type: ignore[operator]
    assert data.ids is not None
    renamed = dataclasses.replace(data.ids, user_keys_N=data.ids.user_keys_N + 1)
    brands = np.arange(ITEMS)
    others = [dataclasses.replace(data, histories=later), dataclasses.replace(data, ids=renamed)]
    others += [dataclasses.replace(data, item_columns={"brand": brands + more}) for more in (0, 1)]
    assert len({fingerprint(each) for each in (data, *others)}) == 5


def test_a_graph_that_answers_otherwise_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = named(planted())
    train_any(override(SMALL, FIXED), data, tmp_path / "run")
    tables = history_bundle.history_tables

    def other(*arguments: object) -> object:
        made = tables(*arguments)  # type: ignore[arg-type]
        made.added_MJ[:] *= 1.001
        return made

    monkeypatch.setattr(history_bundle, "history_tables", other)
    with pytest.raises(BundleError, match="a score of ONNX Runtime's list differs from the model's by"):
        export_retrieval_bundle(tmp_path / "run", data, tmp_path / "bundle", name="finder")
    assert not (tmp_path / "bundle").exists()
