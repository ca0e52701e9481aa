"""Generate the PrometheusRule of ``deploy/k8s`` from the alerts: ``python scripts/generate_prometheus_rule.py``.

``tests/deploy/test_overlays.py`` fails when it no longer says what ``deploy/monitoring/rules.yml`` does.
"""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "deploy" / "monitoring" / "rules.yml"
OUT = ROOT / "deploy" / "k8s" / "components" / "monitoring" / "prometheus_rule.yaml"


def prometheus_rule() -> str:
    """The text of the manifest: the groups of the rules, under the operator's head."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "recsys"},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    head = f"# Generated from {RULES.relative_to(ROOT)}: python scripts/{Path(__file__).name}\n"
    return head + str(yaml.safe_dump(rule, sort_keys=False, width=1_000, allow_unicode=True))


if __name__ == "__main__":
    OUT.write_text(prometheus_rule())
