"""Manifests: faults that the tests plant in them and nothing finds, and findings of others' tools without a reason."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.common import Line, line, machine, say

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "deploy" / "k8s")]  # the faults are the tests'

LIBRARIES = ("PyYAML",)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Others' tools, which take a second or more for each overlay, are asked or not; schemas also of each fault."""

    tools: bool
    schemas: bool


SIZES = {
    "full": Size(tools=True, schemas=True),
    "quick": Size(tools=True, schemas=False),
    "tiny": Size(tools=False, schemas=False),
}


def manifests(folder: Path, size: Size) -> Iterator[Line]:
    """``deploy.planted_faults_missed`` and ``deploy.policy_findings_unexplained``; the latter where the tools are."""
    import policy
    import yaml
    from manifest_checks import RULES, settings
    from support.manifests import FAULTS
    from support.manifests.overlays import OPTIONS, OVERLAYS, rendered
    from support.manifests.planting import findings, planted

    on = machine(LIBRARIES, **asdict(size))
    missed = [fault.what for fault in FAULTS if fault.rule not in {found.rule for found in findings(fault)}]
    details = {}
    tools = policy.tools() is not None and size.tools
    if tools and size.schemas:
        say("asking the schemas of every planted fault")
        unseen = 0
        for fault in FAULTS:
            plain = json.loads(json.dumps(list(planted(fault).values())))  # no anchors
            unseen += not policy.schema_problems(yaml.safe_dump_all(plain), policy.VERSIONS[-1:])
        details["missed_by_schemas"] = unseen
    yield line(
        "deploy.planted_faults_missed",
        len(missed),
        "faults",
        higher_is_better=False,
        target=0,
        compared_with=f"{len(FAULTS)} faults, each planted alone; missed_by_schemas: by kubernetes-validate --strict",
        faults=len(FAULTS),
        rules=len(RULES) + len(settings.RULES),
        missed=missed,
        **details,
        on=on,
    )
    if not tools:
        say("no figures of policies: checkov and kubernetes-validate are not installed (make policy), or not asked")
        return
    overlays = {name: rendered(name) for name in (*OVERLAYS, *OPTIONS)}
    exceptions = policy.read_exceptions()
    found = policy.unexplained(overlays, exceptions)
    yield line(
        "deploy.policy_findings_unexplained",
        len(found),
        "findings",
        higher_is_better=False,
        target=0,
        compared_with="checkov, and schemas of three versions of Kubernetes, on every overlay",
        overlays=list(overlays),
        kubernetes=list(policy.VERSIONS),
        exceptions=[exception.check for exception in exceptions],
        found=found,
        on=on,
    )
