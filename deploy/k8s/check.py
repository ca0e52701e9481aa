"""Check overlays for what neither schemas nor the API server see: ``python deploy/k8s/check.py [FOLDER ...]``.

Without a folder: those of ``deploy/k8s/overlays``. Needs kubectl, PyYAML and recsys. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

from manifest_checks import check, settings
from manifest_checks.render import load, read_outside, render

OVERLAYS = Path(__file__).parent / "overlays"


def main(folders: list[Path]) -> int:
    """Print what is wrong with each overlay, a line each; the exit code."""
    wrong = 0
    for folder in folders:
        found = check(load(render(folder), read_outside(folder)), settings.RULES)
        for finding in found:
            print(f"{folder}: {finding.where}: {finding.problem} ({finding.rule})")
        wrong += len(found)
    print(f"{len(folders)} overlays, {wrong} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main([Path(given) for given in sys.argv[1:]] or sorted(p for p in OVERLAYS.iterdir() if p.is_dir())))
