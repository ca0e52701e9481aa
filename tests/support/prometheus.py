"""A real Prometheus, where the machine has one: Debian's package ``prometheus``, or its files in a folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = "no {name} here; `apt-get install prometheus`, or RECSYS_PROMETHEUS=FOLDER of it (docs/contribute/prove.md)"


def program(name: str) -> str | None:
    """The path of ``prometheus`` or ``promtool``; None if there is none."""
    folder = os.environ.get("RECSYS_PROMETHEUS")
    return shutil.which(name, path=folder) if folder else shutil.which(name)


@contextmanager
def running_prometheus(folder: Path, *, target: str, rules: Path) -> Iterator[str]:
    """Prometheus that scrapes a target every second, for the duration of a ``with`` block; its URL."""
    path = program("prometheus")
    assert path is not None
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "recsys", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [path, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + 60
        while True:
            assert process.poll() is None, process.communicate()[1]
            try:
                with urllib.request.urlopen(f"{url}/-/ready", timeout=1):
                    break
            except OSError:
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.communicate()


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """Answer of Prometheus to an expression now."""
    data = urllib.parse.urlencode({"query": expression}).encode()
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query", data=data, timeout=20) as answer:
            found = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{expression}: {error.read().decode()}") from None
    assert found["status"] == "success", found
    return list(found["data"]["result"])
