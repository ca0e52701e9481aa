"""A real Envoy with the configuration of ``deploy/k8s/components/json``, where the machine has one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.paths import ROOT

CONFIGURATION = ROOT / "deploy" / "k8s" / "components" / "json"
MISSING = "no envoy here; `make policy` installs one (40 MB), or RECSYS_ENVOY=PATH of it (docs/contribute/prove.md)"


def program() -> str | None:
    """The path of Envoy; None if there is none."""
    if named := os.environ.get("RECSYS_ENVOY"):
        return named
    of_policy = sorted(ROOT.glob(".venv-policy/lib/python*/site-packages/envoy/_bin/envoy"))
    return str(of_policy[0]) if of_policy else shutil.which("envoy")


@dataclass(frozen=True)
class Answer:
    """The HTTP status of a call and its body."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def ask(url: str, body: Any = None, **headers: str) -> Answer:
    """POST a body as JSON, or GET without one."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read())


@contextmanager
def running_envoy(folder: Path, *, ranker: str, secret: Path | None = None) -> Iterator[str]:
    """Envoy in front of the server at ``ranker`` (host:port), for the duration of a ``with`` block; its URL.

    ``secret``: folder of its certificate, as the component ``tls`` mounts it; None: in the clear.
    """
    path = program()
    assert path is not None
    port, admin_port = _free_port(), _free_port()
    host, ranker_port = ranker.split(":")
    shutil.copy(CONFIGURATION / "recsys.pb", folder)
    here = {
        "/etc/envoy": str(folder),
        "/secrets/tls": str(secret),
        "port_value: 8080": f"port_value: {port}",
        "port_value: 9901": f"port_value: {admin_port}",
        "address: recsys-ranker, port_value: 50051": f"address: {host}, port_value: {ranker_port}",
    }
    clusters = {"clusters.yaml": "clusters.yaml" if secret is None else "clusters_tls.yaml"}
    own = ("envoy.yaml", "certificate.yaml", "authority.yaml")
    for name, source in {**clusters, **{name: name for name in own}}.items():
        text = (CONFIGURATION / source).read_text()
        for deployed, tested in here.items():
            text = text.replace(deployed, tested)
        (folder / name).write_text(text)
    command = [path, "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + 60
        while not _is_ready(url):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline_s, "Envoy did not find the server"
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.communicate()


def _is_ready(url: str) -> bool:
    try:
        return ask(f"{url}/ready").status == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
