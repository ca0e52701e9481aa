"""Routes: a call's release follows from the model's name and the user alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from support.tiny_bundle import FEATURES

from recsys.errors import NotFoundError
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recommender import Recommender
from recsys.serving.handlers.routes import LoadedRelease, Route, Routes, user_point

USERS = range(20_000)


def release(name: str, *, ranks: bool = True) -> LoadedRelease:
    ranker = cast(Ranker, object()) if ranks else None
    return LoadedRelease(name=name, features=FEATURES, ranker=ranker, recommender=None, close=lambda: None)


LIVE, B, C = release("live"), release("b"), release("c")


def test_each_release_of_a_split_answers_its_percentage_of_the_users() -> None:
    route = Route(name="m", live=LIVE, split=((B, 10.0), (C, 2.5)))
    found = [route.of_user(user).name for user in USERS]
    shares = {name: 100 * found.count(name) / len(found) for name in ("live", "b", "c")}
    for name, percent in {"live": 87.5, "b": 10.0, "c": 2.5}.items():
        spread = 4 * np.sqrt(percent * (100 - percent) / len(USERS))
        assert abs(shares[name] - percent) < spread, shares


def test_a_split_that_grows_keeps_the_users_it_had() -> None:
    small, large = Route(name="m", live=LIVE, split=((B, 5.0),)), Route(name="m", live=LIVE, split=((B, 20.0),))
    had = {user for user in USERS if small.of_user(user) is B}
    assert had and had < {user for user in USERS if large.of_user(user) is B}


def test_two_models_split_their_users_independently() -> None:
    points = np.array([[user_point("a", user), user_point("b", user)] for user in range(5_000)])
    assert abs(np.corrcoef(points.T)[0, 1]) < 0.06


def test_a_split_of_all_leaves_the_live_release_none() -> None:
    route = Route(name="m", live=LIVE, split=((B, 100.0),))
    assert {route.of_user(user).name for user in USERS} == {"b"}


def test_a_name_that_is_not_served_is_answered_with_the_nearest_one() -> None:
    routes = Routes(models={"din": Route(name="din", live=LIVE)}, default="din", loaded=(LIVE,))
    assert routes.ranking("").live is LIVE and routes.ranking("din").live is LIVE
    with pytest.raises(NotFoundError, match="model 'dinn' is not served here: did you mean 'din'"):
        routes.ranking("dinn")
    with pytest.raises(NotFoundError, match="no retrieval model; serve one"):
        routes.retrieval("")


def test_a_name_without_a_ranking_model_says_which_have_one() -> None:
    finder = release("f", ranks=False)
    models = {"finder": Route(name="finder", live=finder), "din": Route(name="din", live=LIVE)}
    routes = Routes(models=models, default="din", loaded=(LIVE, finder))
    with pytest.raises(NotFoundError, match="'finder' has no ranking model.* valid: din"):
        routes.ranking("finder")


def test_a_served_name_comes_before_the_name_of_a_retrieval_model_and_the_default_before_others() -> None:
    finder = cast(Recommender, SimpleNamespace(index=SimpleNamespace(model="tower")))
    names = ("a", "tower", "z")
    models = {name: Route(name=name, live=replace(release(name), recommender=finder)) for name in names}
    for default in names:
        routes = Routes(models=models, default=default, loaded=())
        assert [routes.retrieval(name).name for name in names] == list(names)
    others = {name: models[name] for name in ("a", "z")}
    for default in others:
        assert Routes(models=others, default=default, loaded=()).retrieval("tower").name == default
