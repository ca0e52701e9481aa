"""deploy/monitoring: every expression speaks of what a server's page has, and Prometheus takes it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority, mtls
from support.metrics_page import page_text
from support.paths import DOCS, ROOT
from support.prometheus import MISSING, program, query, running_prometheus
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import server_process
from support.tls_server import tls_of, variables_of

from recsys.client import Client, RpcError, Tls
from recsys.feature_store.embedded.server import EmbeddedRedis

MONITORING = ROOT / "deploy" / "monitoring"
RULES, BOARD = MONITORING / "rules.yml", MONITORING / "dashboard.json"


def alerts() -> dict[str, str]:
    """Alert -> its text in the rules. Read without a YAML parser, which is no dependency of ours."""
    parts = re.split(r"^      - alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0]: part for part in parts}


def expression_of(text: str) -> str:
    """The expression of an alert."""
    found = re.search(r"^        expr: (?:\|\n((?:          .*\n)+)|(.*)\n)", text, flags=re.MULTILINE)
    assert found is not None, text
    return " ".join((found[1] or found[2]).split())


def panels() -> list[dict[str, Any]]:
    """The board's panels that draw something."""
    return [panel for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] != "row"]


def board_expressions() -> list[str]:
    """Queries of the board, with Grafana's variables filled in."""
    texts = [target["expr"] for panel in panels() for target in panel["targets"]]
    texts = [text.replace("$__rate_interval", "1m") for text in texts]
    return [re.sub(r"\$(job|instance|method)\b", ".*", text) for text in texts]


EXPRESSIONS = [*(expression_of(text) for text in alerts().values()), *board_expressions()]


@dataclass(frozen=True)
class Served:
    """A running server, its page and its callers' certificates."""

    address: str
    page: str
    tls: Tls

    def call(self, times: int) -> None:
        """Make calls, the last one of which fails."""
        with Client(self.address, timeout_s=20, tls=self.tls) as client:
            for number in range(times):
                client.rank(user=number, candidates=list(range(1, 200)))
            client.append_events(user=1, items=[3], timestamps_ms=[1_700_000_000_000])
            with pytest.raises(RpcError):
                client.rank(user=1, candidates=[1], model="none")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[Served]:
    """A real server with mTLS that has answered calls, also some that fail."""
    folder = tmp_path_factory.mktemp("monitored")
    write_tiny_bundle(folder / "bundle")
    secret = mtls(Authority(), folder / "secret")
    settings = {"RECSYS_BUNDLE": str(folder / "bundle"), "REDIS_URL": redis_server.url, "RECSYS_METRICS_PORT": "0"}
    settings |= {"RECSYS_STORE_TIMEOUT_MS": "5000", "RECSYS_WORKERS": "2"}
    with server_process(folder, **settings, **variables_of(secret)) as running:
        served = Served(str(running.address), str(running.facts["metrics"]), tls_of(secret))
        served.call(10)
        yield served


def families_of(text: str) -> set[str]:
    """Names that a page's families have in queries."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, flags=re.MULTILINE):
        parts = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
        names |= {f"{name}{part}" for part in parts.get(kind, ("",))}
    return names


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_of_an_expression_is_on_the_page_of_a_server(expression: str, server: Served) -> None:
    names = set(re.findall(r"\b(?:recsys_\w+|up)\b", expression))
    assert names
    assert names - {"up"} <= families_of(page_text(server.page))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_of_an_expression_is_one_that_its_metric_has(expression: str, server: Served) -> None:
    text = page_text(server.page)
    for name, chosen in re.findall(r"\b(recsys_\w+)\{([^}]*)\}", expression):
        shown = re.search(rf"^{name}\{{([^}}]*)\}}", text, flags=re.MULTILINE)
        if shown is None:
            continue  # shown once it is counted, as drift and shadows are
        has = set(re.findall(r"(\w+)=", shown[1])) | {"job", "instance"}
        assert set(re.findall(r"(\w+)\s*(?:=~|!=|=)", chosen)) <= has, name


def test_every_alert_has_a_heading_of_the_runbook_that_says_what_to_do() -> None:
    runbook = (DOCS / "operate" / "runbook.md").read_text()
    for name, text in alerts().items():
        assert re.search(rf"runbook_url: docs/operate/runbook\.md#{name.lower()}\n", text), name
        assert re.search(rf"^### {name}\n\n\S", runbook, flags=re.MULTILINE), name
        assert re.search(r"severity: (page|ticket)\b", text), name


def test_alerts_and_board_are_in_the_documentation() -> None:
    page = (DOCS / "operate" / "monitoring.md").read_text()
    severities = {name: re.search(r"severity: (\w+)", text) for name, text in alerts().items()}
    for name, severity in severities.items():
        assert severity is not None
        assert re.search(rf"^\| `{name}` \| .* \| {severity[1]} \|$", page, flags=re.MULTILINE), name
    assert len(re.findall(r"^\| `Recsys\w+` \|", page, flags=re.MULTILINE)) == len(severities)


def test_every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tests = (MONITORING / "rules_test.yml").read_text()
    for name in alerts():
        assert re.search(rf"alertname: {name}\n +exp_alerts:", tests), f"{name} never fires"
    quiet = set(re.findall(r"- \{eval_time: \w+, alertname: (\w+)\}", tests))
    assert set(alerts()) - quiet <= {"RecsysWorkersRestarting", "RecsysReleaseWentBack"}, "one group with their like"


def test_the_board_is_what_its_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location("generate_dashboard", ROOT / "scripts" / "generate_dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert BOARD.read_text() == module.dashboard_text()
    numbers = [panel["id"] for panel in json.loads(BOARD.read_text())["panels"]]
    assert len(numbers) == len(set(numbers)) > 30


@pytest.mark.prove
@pytest.mark.skipif(program("promtool") is None, reason=MISSING.format(name="promtool"))
@pytest.mark.parametrize("arguments", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_takes_the_rules_and_their_tests_pass(arguments: tuple[str, ...]) -> None:
    path = program("promtool")
    assert path is not None
    done = subprocess.run([path, *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


QUIET = {"refused_total", "shadow", "drift", "code=~"}
"""Parts of names of which this server has nothing to show."""


@pytest.mark.prove
@pytest.mark.skipif(program("prometheus") is None, reason=MISSING.format(name="prometheus"))
def test_a_real_prometheus_that_scrapes_a_real_server_takes_every_expression(server: Served, tmp_path: Path) -> None:
    target = server.page.removeprefix("http://").removesuffix("/metrics")
    with running_prometheus(tmp_path, target=target, rules=RULES) as url:
        deadline_s = time.monotonic() + 60
        while not query(url, "rate(recsys_requests_total[1m])"):
            assert time.monotonic() < deadline_s, "nothing was scraped"
            server.call(3)
            time.sleep(1)
        server.call(20)
        time.sleep(3)
        for text in alerts().values():
            assert query(url, expression_of(text)) == [], f"fires on a healthy server: {expression_of(text)}"
        empty = [expression for expression in board_expressions() if not query(url, expression)]
        assert [text for text in empty if not any(word in text for word in QUIET)] == [], "these draw nothing"
        firing = query(url, "ALERTS{alertstate='firing'}")
        assert firing == []
