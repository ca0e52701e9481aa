"""Tiny logs and tables shared by the tests of the offline side."""

import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.data.log.event_table import EventTable, open_event_table, write_event_table
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric

USERS = "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117-1234\n"
MOVIES = "1::Toy Story (1995)::Animation|Children's|Comedy\n2::Jumanji (1995)::Adventure\n7::Am\xe9lie::Romance\n"
RATINGS = "1::1::5::978300760\n1::2::3::978300761\n2::7::4::978300762\n3::1::1::978300763\n"
CHRONO = (
    "user_id,movie_id,rating,timestamp,exact,ts_lo,ts_hi\n"
    "1,1,5,978300760,1,,\n1,2,3,978300761,0,978300760,978300800\n2,7,4,978300762,1,,\n3,1,1,978300763,0,,978300800\n"
)

SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="city", id_type="string"), Numeric(name="age")),
    item=(Categorical(name="brand"), Categorical(name="tags", max_values=2, table="tag")),
    context=(Categorical(name="hour"),),
    history=History(attributes=(Categorical(name="brand"), Categorical(name="action", storage="u8")), recent=3),
)
SHOP_USERS = {"user": [10, 20, 30], "city": ["Bonn", None, "Köln"], "age": [30, None, 50]}
SHOP_ITEMS = {"item_id": [5, 6, 7], "brand": [1, None, 3], "tags": [[1, 2], [], [2]]}
SHOP_EVENTS: dict[str, Any] = {
    "user": [30, 10, 10, 30, 10],
    "item_id": [5, 6, 7, 7, 5],
    "timestamp_ms": [4000, 3000, 1000, 4000, 2000],
    "action": [1, 2, 3, None, 1],
    "hour": [8, 9, 10, 11, 12],
}

Variant = Callable[..., Path]


@pytest.fixture
def shop() -> SimpleNamespace:
    return SimpleNamespace(features=SHOP, users=SHOP_USERS, items=SHOP_ITEMS, events=SHOP_EVENTS)


@pytest.fixture
def ml1m(tmp_path: Path) -> Variant:
    """Write a small data set of the original format, with some files replaced (None: left out)."""

    def write(**replaced: str | None) -> Path:
        folder = tmp_path / "ml-1m"
        folder.mkdir()
        texts = {"ratings": RATINGS, "users": USERS, "movies": MOVIES, **replaced}
        for name, text in texts.items():
            if text is not None:
                (folder / f"{name}.dat").write_bytes(text.encode("latin-1"))
        return folder

    return write


@pytest.fixture
def chrono(tmp_path: Path) -> Variant:
    """The same in the chronological format; the arguments replace uncompressed texts."""

    def write(**replaced: str) -> Path:
        folder = tmp_path / "movielens_1m"
        folder.mkdir()
        texts = {"ratings_chrono.csv": CHRONO, "users.dat": USERS, "movies.dat": MOVIES, **replaced}
        for name, text in texts.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode("latin-1")))
        return folder

    return write


@pytest.fixture
def ml1m_zip(tmp_path: Path) -> Path:
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("ratings", RATINGS), ("users", USERS), ("movies", MOVIES)):
            archive.writestr(f"ml-1m/{name}.dat", text.encode("latin-1"))
    return path


@pytest.fixture
def shop_table(tmp_path: Path) -> EventTable:
    write_event_table(SHOP, SHOP_USERS, SHOP_ITEMS, SHOP_EVENTS, tmp_path / "shop")
    return open_event_table(tmp_path / "shop")


@pytest.fixture(scope="session")
def movielens_folder() -> Path:
    for folder in (os.environ.get("RECSYS_DATA_DIR"), "../shared/data"):
        if folder and (Path(folder) / "movielens_1m").is_dir():
            return Path(folder) / "movielens_1m"
    pytest.skip("MovieLens-1M not found: set RECSYS_DATA_DIR to a folder that holds movielens_1m")
