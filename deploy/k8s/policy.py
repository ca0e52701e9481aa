"""Check overlays by others' tools: ``make policy``, or ``python deploy/k8s/policy.py [FOLDER ...]``.

Schemas of three versions of Kubernetes (kubernetes-validate), and checkov's policies, of which ``exceptions.yaml`` says
what we leave as it is and why. The tools are in ``.venv-policy`` (``requirements/policy.txt``), or in the folder that
``RECSYS_POLICY`` names. Exit code 1 if anything is found that is not explained.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from manifest_checks.render import render

HERE = Path(__file__).resolve().parent
EXCEPTIONS = HERE / "exceptions.yaml"
VERSIONS = ("1.31", "1.34", "1.37")
"""The oldest that has what we use by default (a sleep as preStop, matchLabelKeys), the newest, and one between."""


@dataclass(frozen=True)
class Explained:
    """An exception: a check of checkov's, the objects that it is about (Kind/name, * for any), and the reason."""

    check: str
    objects: tuple[str, ...]
    why: str

    def covers(self, check: str, where: str) -> bool:
        """True if it is about a finding."""
        return check == self.check and any(fnmatch.fnmatch(where, pattern) for pattern in self.objects)


def tools() -> Path | None:
    """The folder of the tools' programs; None: they are not installed."""
    folder = Path(os.environ.get("RECSYS_POLICY", HERE.parents[1] / ".venv-policy" / "bin"))
    return folder if (folder / "checkov").exists() and (folder / "kubernetes-validate").exists() else None


def read_exceptions(file: Path = EXCEPTIONS) -> list[Explained]:
    """The exceptions.

    Raises:
        ValueError: one gives no reason.
    """
    found = [Explained(e["check"], tuple(e["objects"]), e.get("why") or "") for e in yaml.safe_load(file.read_text())]
    for exception in found:
        if not exception.why.strip():
            raise ValueError(f"{file}: {exception.check} gives no reason (why)")
    return found


def schema_problems(rendered: str, versions: Sequence[str] = VERSIONS) -> list[str]:
    """Problems by the schemas of some versions, unknown fields among them. Objects of operators have no schema here."""
    known = [obj for obj in yaml.safe_load_all(rendered) if obj and _is_kubernetes_own(obj["apiVersion"])]
    problems = []
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(known, file)
        file.flush()
        for version in versions:
            done = _run("kubernetes-validate", "--strict", "--no-warn", "-k", version, file.name)
            if done.returncode != 0:
                problems.append(f"Kubernetes {version}: {(done.stdout + done.stderr).strip()}")
    return problems


def policy_findings(rendered: str) -> Iterator[tuple[str, str, str]]:
    """checkov's findings: its check, Kind/name of the object, the check in words."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(rendered)
        file.flush()
        done = _run("checkov", "-f", file.name, "--framework", "kubernetes", "-o", "json", "--quiet", "--skip-download")
    reports = json.loads(done.stdout)
    for report in reports if isinstance(reports, list) else [reports]:
        if report["summary"]["parsing_errors"]:
            raise RuntimeError(f"checkov cannot read what is rendered: {report['results']['parsing_errors']}")
        for found in report["results"]["failed_checks"]:
            kind, *_, name = found["resource"].split(".")
            yield found["check_id"], f"{kind}/{name}", found["check_name"]


def unexplained(overlays: Mapping[str, str], exceptions: Sequence[Explained]) -> list[str]:
    """Findings in rendered overlays (name -> YAML) that no exception explains, and exceptions that explain nothing."""
    lines, used = [], set()
    for name, rendered in overlays.items():
        lines += [f"{name}: {problem}" for problem in schema_problems(rendered)]
        for check, where, words in policy_findings(rendered):
            covering = [exception for exception in exceptions if exception.covers(check, where)]
            used.update(covering)
            if not covering:
                lines.append(f"{name}: {where}: {words} ({check})")
    return lines + [f"exceptions.yaml: {e.check} explains nothing any more" for e in exceptions if e not in used]


def _is_kubernetes_own(api_version: str) -> bool:
    group = api_version.partition("/")[0] if "/" in api_version else ""
    return "." not in group or group.endswith(".k8s.io")


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder = tools()
    if folder is None:
        raise RuntimeError("checkov and kubernetes-validate are not installed: make policy")
    return subprocess.run([str(folder / program), *arguments], capture_output=True, text=True, check=False)


def main(folders: list[Path]) -> int:
    """Print what is found, a line each; the exit code."""
    found = unexplained({str(folder): render(folder) for folder in folders}, read_exceptions())
    for line in found:
        print(line)
    print(f"{len(folders)} overlays, {len(found)} findings that are not explained; {len(read_exceptions())} exceptions")
    return 1 if found else 0


if __name__ == "__main__":
    overlays = sorted(path for path in (HERE / "overlays").iterdir() if path.is_dir())
    sys.exit(main([Path(given) for given in sys.argv[1:]] or overlays))
