"""Look up the installed packages among known vulnerabilities with pip-audit: ``make audit``.

Ends with code 1 if one is found. Where pip-audit is not installed, or no database of advisories can be reached, it says
that it was skipped, and ends well: a machine without a network can still run every check.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

_LIMIT_S = 180.0
_COMMAND = ("-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable")


def found_in(report: str) -> list[str] | None:
    """The vulnerabilities that a report names, a line each; None if it is none.

    >>> found_in('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}]}')
    ['a 1: X-1, mended in 2']
    >>> found_in("") is None
    True
    """
    try:
        packages = json.loads(report)["dependencies"]
        return [
            f"{one['name']} {one['version']}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'none'}"
            for one in packages
            for each in one.get("vulns", ())
        ]
    except (ValueError, KeyError, TypeError):
        return None


def main() -> int:
    """Print what was found, or why nothing was looked up."""
    if importlib.util.find_spec("pip_audit") is None:
        print("audit skipped: pip-audit is not installed (pip install 'recsys[audit]')")
        return 0
    try:
        done = subprocess.run(
            [sys.executable, *_COMMAND], capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
        found = found_in(done.stdout)
    except subprocess.TimeoutExpired:
        found = None
    if found is None:
        print("audit skipped: no advisory database reachable")
        return 0
    print("\n".join(found) or "audit: no known vulnerability in the installed packages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
