"""Downloads: whole and checked, or as if they had never been; against a server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recsys.data.sources.download import download, md5_of
from recsys.data.sources.movielens.prepare import load_movielens
from recsys.errors import DataFileError


class Server:
    """Serves ``content``; ``mode`` says how well."""

    content = b"x" * 300_000
    mode = "ok"
    requests = 0
    url = ""

    @property
    def md5(self) -> str:
        return hashlib.md5(self.content).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests += 1
            if state.mode == "garbage":
                self.wfile.write(b"SSH-2.0\r\n\r\n")
                return
            self.send_response(404 if state.mode == "missing" else 200)
            if state.mode != "unannounced":
                self.send_header("Content-Length", str(len(state.content)))
            self.end_headers()
            self.wfile.write(state.content[: len(state.content) // (2 if state.mode in ("cut", "stall") else 1)])
            if state.mode == "stall":
                released.wait(5)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_port}/ml-1m.zip"
        yield state
        released.set()
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.delenv("RECSYS_DATA_DIR", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("mode", ["ok", "unannounced"])
def test_a_whole_file_appears_under_its_name(server: Server, tmp_path: Path, mode: str) -> None:
    server.mode = mode
    path = tmp_path / "cache" / "ml-1m.zip"
    download(server.url, path, md5=server.md5)
    assert path.read_bytes() == server.content
    assert md5_of(path) == server.md5
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        ("cut", ConnectionError, r"broken off after 150000 of 300000 bytes"),
        ("missing", OSError, r"404"),
        ("stall", TimeoutError, r"timed out"),
        ("garbage", ConnectionError, r"BadStatusLine"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    server: Server, tmp_path: Path, mode: str, error: type[Exception], message: str
) -> None:
    server.mode = mode
    with pytest.raises(error, match=message):
        download(server.url, tmp_path / "cache" / "ml-1m.zip", md5=server.md5, timeout_s=0.3)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_with_another_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=rf"expected md5 {'0' * 32}, got {server.md5}: .* not the published one"):
        download(server.url, tmp_path / "cache" / "ml-1m.zip", md5="0" * 32)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_that_takes_too_long_is_given_up(server: Server, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="not finished after 0 s"):
        download(server.url, tmp_path / "cache" / "ml-1m.zip", md5=server.md5, limit_s=0)
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreachable_server_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="refused"):
        download("http://127.0.0.1:9/ml-1m.zip", tmp_path / "ml-1m.zip", md5="0" * 32)


def test_movielens_is_downloaded_once(server: Server, tmp_path: Path, ml1m_zip: Path) -> None:
    server.content = ml1m_zip.read_bytes()
    for _ in range(2):
        raw = load_movielens(None, cache_dir=tmp_path / "cache", url=server.url, md5=server.md5)
        assert raw.rating.tolist() == [5, 3, 4, 1]
    assert server.requests == 1
    load_movielens(None, cache_dir=tmp_path / "cache", allow_download=False, md5=server.md5)


def test_a_damaged_cached_download_is_fetched_again(server: Server, tmp_path: Path, ml1m_zip: Path) -> None:
    server.content = ml1m_zip.read_bytes()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "ml-1m.zip").write_bytes(server.content[:-5])
    raw = load_movielens(None, cache_dir=tmp_path / "cache", url=server.url, md5=server.md5)
    assert len(raw) == 4
    assert md5_of(tmp_path / "cache" / "ml-1m.zip") == server.md5


@pytest.mark.parametrize(("mode", "reason"), [("cut", "broken off after"), ("ok", "expected md5")])
def test_a_failed_download_falls_back_to_synthetic_data_and_says_why(
    server: Server, tmp_path: Path, mode: str, reason: str
) -> None:
    server.mode = mode
    raw = load_movielens(None, cache_dir=tmp_path / "cache", url=server.url, md5="0" * 32)
    assert raw.source.startswith("synthetic log")
    assert f"MovieLens-1M was not found and it could not be downloaded: {server.url}: {reason}" in raw.source
    assert list((tmp_path / "cache").iterdir()) == []
