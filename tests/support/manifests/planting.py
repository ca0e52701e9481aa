"""A fault that is planted in an overlay's objects, and how to reach them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from manifest_checks import Finding, Manifests, check
from manifest_checks import settings as server_settings
from manifest_checks.render import load

from support.manifests.overlays import outside, rendered

Objects = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    """A fault: what it is, where it is planted, and the rule that finds it."""

    what: str
    overlay: str
    rule: str
    plant: Callable[[Objects], Any]


@cache
def _objects(name: str) -> tuple[dict[str, Any], ...]:
    return tuple(load(rendered(name)).objects)  # type: ignore[arg-type]


def findings(fault: Fault) -> Sequence[Finding]:
    """Findings in the overlay with the fault planted."""
    objects = list(planted(fault).values())
    return check(Manifests(objects, outside(fault.overlay)), server_settings.RULES)


def planted(fault: Fault) -> Objects:
    """The overlay's objects by Kind/name, with the fault."""
    objects = {f"{o['kind']}/{o['metadata']['name']}": copy.deepcopy(o) for o in _objects(fault.overlay)}
    fault.plant(objects)
    return objects


RANKER, LOOP, JOB = "Deployment/recsys-ranker", "CronJob/recsys-loop", "Job/recsys-train"


def pod(objects: Objects, name: str = RANKER) -> Any:
    """The pod's spec."""
    spec = objects[name]["spec"]
    return (spec["jobTemplate"]["spec"] if name.startswith("CronJob") else spec)["template"]["spec"]


def first(objects: Objects, name: str = RANKER) -> Any:
    """Its first container."""
    return pod(objects, name)["containers"][0]


def setting(objects: Objects, name: str, value: str) -> None:
    """Set a variable of the ranker."""
    env = first(objects)["env"]
    env[:] = [v for v in env if v["name"] != name] + [{"name": name, "value": value}]


def argument(objects: Objects, begins: str, value: str) -> None:
    """Put an argument of the training Job in place of the one that begins like this."""
    args = first(objects, JOB)["args"]
    args[:] = [value if a.startswith(begins) else a for a in args]


def hpa(objects: Objects) -> Any:
    """The autoscaler's spec."""
    return objects["HorizontalPodAutoscaler/recsys-ranker"]["spec"]


def policy(objects: Objects, name: str = "recsys-ranker") -> Any:
    """A network policy's spec."""
    return objects[f"NetworkPolicy/{name}"]["spec"]


def service(objects: Objects, name: str = "recsys-ranker") -> Any:
    """A Service's spec."""
    return objects[f"Service/{name}"]["spec"]


def without(items: list[Any], name: str) -> None:
    """Take what has a name out of a list."""
    items[:] = [item for item in items if item["name"] != name]
