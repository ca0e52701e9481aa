"""MovieLens-1M: found in every place, read alike in every form, and what is wrong in it is named."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.sources.movielens.prepare import load_movielens
from recsys.data.sources.raw_log import RawLog
from recsys.errors import DataFileError

Variant = Callable[..., Path]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set is found but the one a test names."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.delenv("RECSYS_DATA_DIR", raising=False)


def load(path: Path | None, tmp_path: Path) -> RawLog:
    return load_movielens(path, cache_dir=tmp_path / "cache", allow_download=False)


def check_small_log(raw: RawLog) -> None:
    assert raw.user.tolist() == [1, 1, 2, 3]
    assert raw.item.tolist() == [1, 2, 7, 1]
    assert raw.rating.tolist() == [5, 3, 4, 1]
    assert raw.timestamp_ms.tolist() == [978300760000, 978300761000, 978300762000, 978300763000]
    assert raw.users["zip"] == ["48067", "70072", "55117-1234"]
    assert raw.users["gender"] == ["F", "M", "M"]
    assert raw.items["title"] == ["Toy Story (1995)", "Jumanji (1995)", "Amélie"]
    assert raw.items["genres"] == [["Animation", "Children's", "Comedy"], ["Adventure"], ["Romance"]]
    assert raw.items["main_genre"] == ["Animation", "Adventure", "Romance"]
    assert raw.items["year"] == [1995, 1995, None]


def test_the_original_folder_is_read(ml1m: Variant, tmp_path: Path) -> None:
    folder = ml1m()
    raw = load(folder, tmp_path)
    check_small_log(raw)
    assert raw.source == f"MovieLens-1M from {folder}"


def test_the_original_zip_is_read(ml1m_zip: Path, tmp_path: Path) -> None:
    check_small_log(load(ml1m_zip, tmp_path))


def test_the_chronological_folder_is_read(chrono: Variant, tmp_path: Path) -> None:
    folder = chrono()
    raw = load(folder, tmp_path)
    check_small_log(raw)
    assert raw.source == f"MovieLens-1M from {folder} (2 of 4 timestamps are estimated)"


def test_lines_may_end_in_crlf(ml1m: Variant, tmp_path: Path) -> None:
    folder = ml1m()
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    check_small_log(load(folder, tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "ratings",
            "1::1::5::978300760\n1::2::x::9\n",
            r"ratings\.dat: line 2: expected user::movie::rating::timestamp",
        ),
        ("ratings", "1::1::5::978300760\n1::2::3\n", r"ratings\.dat: line 2: .* \(integers\), found '1::2::3'"),
        ("ratings", "1::1::5::978300760\n\n1::2::3::9\n", r"ratings\.dat: line 2: .*, found ''"),
        ("ratings", "1::1::5::978300760\n1::2::-3::9\n", r"ratings\.dat: line 2: .*, found '1::2::-3::9'"),
        ("ratings", "1::1::5::978300760\n1::2::3::97830", r"ratings\.dat: line 2: cut short: .* and a line end"),
        ("ratings", "", r"ratings\.dat: line 1: cut short"),
        (
            "ratings",
            "1::1::5::9\n1::1::6::9\n",
            r"line 2: expected a rating from 1 to 5, found rating 6; lines are user",
        ),
        ("ratings", "1::1::0::9\n", r"line 1: expected a rating from 1 to 5, found rating 0"),
        ("ratings", "1::1::5::9\n4::1::5::9\n", r"line 2: expected a user of users\.dat, found user_id 4"),
        ("ratings", "1::1::5::9\n1::3::5::9\n", r"line 2: expected a movie of movies\.dat, found movie_id 3"),
        (
            "ratings",
            "1::1::5::978300760000000\n",
            r"line 1: expected seconds since 1970, found timestamp 978300760000000",
        ),
        ("ratings", "1::1::5::99999999999999999999\n", r"ratings\.dat: expected lines user::movie.*: .*conversion"),
        (
            "users",
            "1::F::1::10::48067\n2::X::56::16::70072\n",
            r"users\.dat: line 2: expected user::gender::age::.* M or F",
        ),
        ("users", "1::F::1::10\n", r"users\.dat: line 1: .*, found '1::F::1::10'"),
        ("users", "1::F::1::10::", r"users\.dat: line 1: "),
        ("movies", "1::Toy Story (1995)::Comedy\n2::Jumanji\n", r"movies\.dat: line 2: expected movie::title::genre\|"),
        ("movies", "x::Jumanji (1995)::Comedy\n", r"movies\.dat: line 1: .*, found 'x::Jumanji"),
        ("movies", "1::A::a|b|c|d|e|f|g\n", r"movies\.dat: line 1: .* with 1 to 6 genres"),
        ("movies", "1::A::\n", r"movies\.dat: line 1: "),
        ("movies", None, r"movies\.dat: does not exist; expected MovieLens-1M: ratings_chrono\.csv\.gz, users"),
        ("ratings", None, r"ratings\.dat: does not exist; expected MovieLens-1M"),
    ],
)
def test_what_is_wrong_in_an_original_folder_is_named(
    ml1m: Variant, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    with pytest.raises(DataFileError, match=message):
        load(ml1m(**{name: text}), tmp_path)


HEADER = "user_id,movie_id,rating,timestamp,exact,ts_lo,ts_hi\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,movie\n1,1\n", r"ratings_chrono\.csv\.gz: line 1: expected user_id,movie_id,.*, found 'user,movie'"),
        (HEADER + "1,1,5,9,1,,\n1,1,,9,1,,\n", r"ratings_chrono\.csv\.gz: line 3: expected .*, found '1,1,,9,1,,'"),
        (
            HEADER + "1,1,5,9,1,,\n1,1,5,9\n",
            r"line 3: expected .*\(integers; the last two may be empty\), found '1,1,5,9'",
        ),
        (HEADER + "1,1,5,9,1,,\n1,1,9,9,1,,\n", r"line 3: expected a rating from 1 to 5, found rating 9"),
        (HEADER + "1,1,5,9,1,,\n9,1,5,9,1,,\n", r"line 3: expected a user of users\.dat, found user_id 9"),
        (HEADER + "1,1,5,9,1,,\n1,1,5,9,1,", r"line 3: cut short"),
        (HEADER, r"line 2: cut short"),
    ],
)
def test_what_is_wrong_in_a_chronological_file_is_named(
    chrono: Variant, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataFileError, match=message):
        load(chrono(**{"ratings_chrono.csv": text}), tmp_path)


@pytest.mark.parametrize("name", ["ratings_chrono.csv.gz", "users.dat.gz", "movies.dat.gz"])
def test_a_gzip_file_cut_short_is_named(chrono: Variant, tmp_path: Path, name: str) -> None:
    path = chrono() / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataFileError, match=rf"{name}: damaged or cut short; expected a complete gzip file"):
        load(path.parent, tmp_path)


def test_a_gzip_file_that_is_none_is_named(chrono: Variant, tmp_path: Path) -> None:
    path = chrono() / "users.dat.gz"
    path.write_bytes(b"hello")
    with pytest.raises(DataFileError, match=r"users\.dat\.gz: damaged or cut short"):
        load(path.parent, tmp_path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", "1")
    with pytest.raises(DataFileError, match=r"other\.zip: not MovieLens-1M: expected ml-1m/ratings\.dat .* ml-100k"):
        load(tmp_path / "other.zip", tmp_path)


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: b"hello"])
def test_a_damaged_zip_is_refused(ml1m_zip: Path, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    ml1m_zip.write_bytes(change(ml1m_zip.read_bytes()))
    with pytest.raises(DataFileError, match=r"ml-1m\.zip: not a zip file, damaged or cut short"):
        load(ml1m_zip, tmp_path)


def test_a_zip_with_a_flipped_byte_is_refused(ml1m_zip: Path, tmp_path: Path) -> None:
    data = bytearray(ml1m_zip.read_bytes())
    data[60] ^= 255  # in the compressed ratings
    ml1m_zip.write_bytes(data)
    with pytest.raises(DataFileError, match=r"ml-1m\.zip: not a zip file, damaged or cut short"):
        load(ml1m_zip, tmp_path)


def test_a_path_that_does_not_exist_is_an_error_not_a_reason_to_look_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"gone: does not exist; expected MovieLens-1M: a folder or ml-1m\.zip"):
        load(tmp_path / "gone", tmp_path)


@pytest.mark.parametrize("place", ["path", "environment", "nearby", "nowhere"])
def test_the_log_is_found_in_each_place(
    place: str, ml1m: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ml1m().parent
    path = None
    if place == "path":
        path = data
    elif place == "environment":
        monkeypatch.setenv("RECSYS_DATA_DIR", str(data))
    elif place == "nearby":
        shutil.copytree(data / "ml-1m", tmp_path / "a" / "shared" / "data" / "ml-1m")
    if place == "nowhere":
        assert load(path, tmp_path).source.startswith("synthetic log")
    else:
        check_small_log(load(path, tmp_path))


def test_the_given_path_comes_before_the_environment(
    ml1m: Variant, ml1m_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_DATA_DIR", str(ml1m(ratings="broken").parent))
    check_small_log(load(ml1m_zip, tmp_path))
    with pytest.raises(DataFileError, match="cut short"):  # found, so no other place is tried
        load(None, tmp_path)


def test_without_data_the_log_is_synthetic_and_says_why(tmp_path: Path) -> None:
    raw = load(None, tmp_path)
    assert raw.best_probabilities is not None
    assert raw.source == (
        "synthetic log: 1,500 users, 800 movies, 150,000 ratings, seed 0; "
        "MovieLens-1M was not found and downloading it was not allowed"
    )


@pytest.mark.parametrize("name", ["users", "movies"])
def test_an_id_that_is_given_twice_is_named(name: str, ml1m: Variant, tmp_path: Path) -> None:
    lines = {"users": "1::F::1::10::48067\n" * 2, "movies": "1::A (1995)::Drama\n2::B::War\n1::C::War\n"}
    number = lines[name].count("\n")
    with pytest.raises(
        DataFileError, match=rf"{name}\.dat: line {number}: expected a new id, found 1, which line 1 has"
    ):
        load(ml1m(**{name: lines[name]}), tmp_path)


def test_a_folder_where_a_file_should_be_is_named(ml1m: Variant, tmp_path: Path) -> None:
    folder = ml1m(movies=None)
    (folder / "movies.dat").mkdir()
    with pytest.raises(DataFileError, match=r"movies\.dat: cannot be read: Is a directory"):
        load(folder, tmp_path)


def test_an_encrypted_zip_is_named(ml1m_zip: Path, tmp_path: Path) -> None:
    data = bytearray(ml1m_zip.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(signature, at + 4)
    ml1m_zip.write_bytes(data)
    with pytest.raises(DataFileError, match=r"ml-1m\.zip: ml-1m/ratings\.dat cannot be read: .* is encrypted"):
        load(ml1m_zip, tmp_path)


def test_the_environment_may_name_the_data_set_itself(
    ml1m: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_DATA_DIR", str(ml1m()))
    check_small_log(load(None, tmp_path))


@pytest.mark.parametrize("exists", [True, False])
def test_an_environment_that_names_no_data_set_is_an_error(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mistaken"
    if exists:
        folder.mkdir()
    monkeypatch.setenv("RECSYS_DATA_DIR", str(folder))
    with pytest.raises(DataFileError, match=r"RECSYS_DATA_DIR is '.*mistaken': .*does not exist; expected MovieLens"):
        load(None, tmp_path)
