"""Manifests: rendered objects, the pod templates in them, and the selectors by which they find each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

Object = Mapping[str, Any]
"""A Kubernetes object, or a part of one, as YAML gives it."""

Problem = tuple[str, str]
"""Kind/name of an object, and what is wrong with it."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Kind -> where its pod template is."""

LONG_RUNNING = ("Deployment", "StatefulSet", "DaemonSet")

_SUFFIXES = {"m": "0.001", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"}
_SUFFIXES |= {"Ki": str(2**10), "Mi": str(2**20), "Gi": str(2**30), "Ti": str(2**40)}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the rule's name, the object as Kind/name, the problem in words."""

    rule: str
    where: str
    problem: str


@dataclass(frozen=True)
class Workload:
    """An object that makes pods, with one of its pod templates."""

    owner: Object
    template: Object

    @property
    def where(self) -> str:
        """Kind/name of the owner."""
        return name_of(self.owner)

    @property
    def kind(self) -> str:
        """Kind of the owner."""
        return str(self.owner["kind"])

    @property
    def pod(self) -> Object:
        """The pod's spec."""
        spec: Object = self.template["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of its pods."""
        found: Mapping[str, str] = part(self.template, "metadata", "labels") or {}
        return found

    @property
    def containers(self) -> Sequence[Object]:
        """Its containers, those that run before the others last."""
        return [*self.pod.get("containers", ()), *self.pod.get("initContainers", ())]

    def ports(self) -> dict[int, str | None]:
        """Ports that its containers declare -> their names."""
        return {p["containerPort"]: p.get("name") for c in self.containers for p in c.get("ports", ())}

    def port_number(self, port: int | str) -> int | None:
        """The number of a port that is given by name or number; None if no container has it."""
        return next((number for number, name in self.ports().items() if port in (number, name)), None)


@dataclass(frozen=True)
class Manifests:
    """All objects of one overlay; ``outside``: those that somebody else brings, as Kind/name."""

    objects: Sequence[Object]
    outside: frozenset[str] = field(default=frozenset())

    def of_kind(self, *kinds: str) -> list[Object]:
        """Objects of these kinds, in their order."""
        return [o for o in self.objects if o["kind"] in kinds]

    def has(self, kind: str, name: str) -> bool:
        """True if an object is here, or is brought by somebody else."""
        return f"{kind}/{name}" in self.outside or any(name_of(o) == f"{kind}/{name}" for o in self.objects)

    def workloads(self) -> list[Workload]:
        """Every pod template, with its owner."""
        found = []
        for owner in self.objects:
            if owner["kind"] in TEMPLATES:
                found.append(Workload(owner, part(owner, *TEMPLATES[owner["kind"]])))
            for job in part(owner, "spec", "template", "spec", "replicatedJobs") or ():  # Kubeflow's TrainingRuntime
                found.append(Workload(owner, part(job, "template", "spec", "template")))
        return found

    def selected(self, selector: Object | None) -> list[Workload]:
        """Workloads whose pods a label selector finds."""
        return [w for w in self.workloads() if selects(selector, w.labels)]

    def fewest(self, workload: Workload) -> int:
        """Smallest number of pods that a workload may have, by its autoscaler if it has one."""
        for scaler in self.of_kind("HorizontalPodAutoscaler", "ScaledObject"):
            if scale_target(scaler) == workload.where:
                least = part(scaler, "spec", "minReplicas") or part(scaler, "spec", "minReplicaCount")
                return int(1 if least is None else least)
        return int(workload.owner["spec"].get("replicas", 1))


class Rule(Protocol):
    """A check: problems of manifests. Its name is what a finding is called."""

    __name__: str

    def __call__(self, manifests: Manifests, /) -> Iterable[Problem]: ...


def name_of(obj: Object) -> str:
    """Kind/name of an object."""
    return f"{obj['kind']}/{obj['metadata']['name']}"


def part(obj: Any, *path: str) -> Any:
    """A part of an object; None where there is none."""
    for key in path:
        if not isinstance(obj, Mapping):
            return None
        obj = obj.get(key)
    return obj


def scale_target(scaler: Object) -> str:
    """Kind/name that an autoscaler scales."""
    target = scaler["spec"]["scaleTargetRef"]
    return f"{target.get('kind', 'Deployment')}/{target['name']}"


def selects(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """True if a label selector finds these labels; an empty one finds all, None nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(term, labels) for term in selector.get("matchExpressions") or ())


def _holds(term: Object, labels: Mapping[str, str]) -> bool:
    key, values = term["key"], term.get("values") or ()
    match term["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def quantity(text: str | int | float) -> Decimal:
    """A quantity (``250m``, ``1Gi``) as a number.

    >>> quantity("250m") < quantity("1Gi"), quantity(2)
    (True, Decimal('2'))
    """
    written = str(text)
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if written.endswith(suffix):
            return Decimal(written.removesuffix(suffix)) * Decimal(_SUFFIXES[suffix])
    return Decimal(written)


def probes(container: Object) -> Iterator[tuple[str, Object]]:
    """A container's probes with their names."""
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if container.get(name):
            yield name, container[name]


def probed_port(probe: Object) -> int | str | None:
    """The port that a probe asks from outside the pod; None: it runs a command."""
    for kind in ("grpc", "httpGet", "tcpSocket"):
        if found := probe.get(kind):
            port: int | str = found["port"]
            return port
    return None


def share(value: int | str, of: int, *, up: bool = True) -> int:
    """A number of pods that is given as such, or in per cent of ``of``, rounded up or down.

    >>> share("50%", 3), share("50%", 3, up=False), share(1, 3)
    (2, 1, 1)
    """
    if isinstance(value, int):
        return value
    percent = int(value.removesuffix("%"))
    return -(-percent * of // 100) if up else percent * of // 100
