"""Availability: budgets, autoscalers, spread, rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from manifest_checks.manifests import (
    LONG_RUNNING,
    Manifests,
    Problem,
    Rule,
    name_of,
    part,
    scale_target,
    selects,
    share,
)

SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")


def budgets_let_a_node_drain(manifests: Manifests) -> Iterator[Problem]:
    """A budget that allows no disruption: nodes cannot be drained, and a cluster's upgrade stands still."""
    for budget in manifests.of_kind("PodDisruptionBudget"):
        pods = manifests.selected(budget["spec"].get("selector"))
        if not pods:
            yield name_of(budget), f"selector {budget['spec'].get('selector')} finds no pods"
        for pod in pods:
            fewest = manifests.fewest(pod)
            most = budget["spec"].get("maxUnavailable")
            least = budget["spec"].get("minAvailable")
            allowed = share(most, fewest) if most is not None else fewest - share(1 if least is None else least, fewest)
            if allowed < 1:
                yield (
                    name_of(budget),
                    f"of {fewest} pods of {pod.where} none may be away: no node with one can be drained",
                )


def autoscalers_have_something_to_scale(manifests: Manifests) -> Iterator[Problem]:
    """An autoscaler of what is not there, or of what another one scales too, does nothing, or never stops."""
    targets = Counter(scale_target(scaler) for scaler in manifests.of_kind(*SCALERS))
    workloads = {w.where: w for w in manifests.workloads()}
    for scaler in manifests.of_kind(*SCALERS):
        target = scale_target(scaler)
        if target not in workloads:
            yield name_of(scaler), f"it scales {target}, which is not there"
            continue
        if targets[target] > 1:
            yield name_of(scaler), f"{target} is scaled by {targets[target]} autoscalers"
        if "replicas" in workloads[target].owner["spec"]:
            yield name_of(scaler), f"{target} has replicas, so that each apply undoes what the autoscaler did"


def autoscalers_have_a_range(manifests: Manifests) -> Iterator[Problem]:
    """A minimum above the maximum: the API server refuses it."""
    for scaler in manifests.of_kind(*SCALERS):
        spec = scaler["spec"]
        least = spec.get("minReplicas", spec.get("minReplicaCount", 1))
        most = spec.get("maxReplicas", spec.get("maxReplicaCount", 100))
        if least > most:
            yield name_of(scaler), f"at least {least}, at most {most}"


def utilisation_is_of_a_request(manifests: Manifests) -> Iterator[Problem]:
    """Utilisation is a share of the request: where a container has none, the autoscaler stands still."""
    for scaler in manifests.of_kind("HorizontalPodAutoscaler"):
        for metric in scaler["spec"].get("metrics", ()):
            if part(metric, "resource", "target", "type") != "Utilization":
                continue
            resource = metric["resource"]["name"]
            for workload in manifests.workloads():
                for container in workload.containers if workload.where == scale_target(scaler) else ():
                    if part(container, "resources", "requests", resource) is None:
                        yield name_of(scaler), f"{container['name']} of {workload.where} has no request of {resource}"


def spread_is_of_the_own_pods(manifests: Manifests) -> Iterator[Problem]:
    """A spread that counts other pods, or none: all may be on one machine."""
    for workload in manifests.workloads():
        for spread in workload.pod.get("topologySpreadConstraints", ()):
            if not selects(spread.get("labelSelector"), workload.labels):
                yield workload.where, f"{spread['topologyKey']}: {spread.get('labelSelector')} is not of its own pods"


def several_pods_are_spread(manifests: Manifests) -> Iterator[Problem]:
    """Several pods without a spread or anti-affinity: all may be on one machine, and go with it."""
    for workload in manifests.workloads():
        several = workload.kind in LONG_RUNNING and manifests.fewest(workload) > 1
        spread = workload.pod.get("topologySpreadConstraints") or part(workload.pod, "affinity", "podAntiAffinity")
        if several and not spread:
            yield workload.where, f"its {manifests.fewest(workload)} pods are spread by nothing"


def rollouts_can_go_on(manifests: Manifests) -> Iterator[Problem]:
    """A rollout that may neither take a pod away nor add one: the API server refuses it."""
    for workload in manifests.workloads():
        rolling = part(workload.owner, "spec", "strategy", "rollingUpdate")
        if rolling and workload.kind == "Deployment":
            away, more = rolling.get("maxUnavailable", "25%"), rolling.get("maxSurge", "25%")
            if str(away).rstrip("%") == "0" and str(more).rstrip("%") == "0":
                yield workload.where, "maxUnavailable and maxSurge are both 0"


RULES: tuple[Rule, ...] = (
    budgets_let_a_node_drain,
    autoscalers_have_something_to_scale,
    autoscalers_have_a_range,
    utilisation_is_of_a_request,
    spread_is_of_the_own_pods,
    several_pods_are_spread,
    rollouts_can_go_on,
)
