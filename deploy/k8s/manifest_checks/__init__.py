"""Checks of rendered Kubernetes manifests for what a schema cannot see: what must fit together.

A schema takes a Service whose port no container has, and so does the API server: only the callers notice. Each rule is
a function of one idea, whose docstring says what goes wrong without it. Nothing here knows recsys but ``settings.py``,
which asks the server's own parser.

- ``manifests.py``: objects, pod templates and selectors, as the rules read them.
- ``render.py``: an overlay to objects, by ``kubectl kustomize``.
- ``pods.py``: containers, probes, resources, rights. ``mounts.py``: volumes and where they are.
- ``references.py``: what is named must be there. ``network.py``: services, policies, scraping.
- ``availability.py``: budgets, autoscalers, spread. ``jobs.py``: jobs, schedules, torchrun.
- ``settings.py``: environment variables, by the program that reads them.

To add a rule: a function in the file that it belongs to, its name in that file's ``RULES``, and a planted fault in
``tests/support/manifests``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from manifest_checks import availability, jobs, mounts, network, pods, references
from manifest_checks.manifests import Finding, Manifests, Rule

RULES: tuple[Rule, ...] = (
    *pods.RULES,
    *mounts.RULES,
    *references.RULES,
    *network.RULES,
    *availability.RULES,
    *jobs.RULES,
)

__all__ = ["RULES", "Finding", "Manifests", "Rule", "check"]


def check(manifests: Manifests, more: Iterable[Rule] = ()) -> Sequence[Finding]:
    """Findings of all rules, and of ``more``, in their order; none is what one wants."""
    return [
        Finding(rule=rule.__name__, where=where, problem=problem)
        for rule in (*RULES, *more)
        for where, problem in rule(manifests)
    ]
