"""Pods: labels, containers, probes, resources, rights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from manifest_checks.manifests import (
    LONG_RUNNING,
    Manifests,
    Object,
    Problem,
    Rule,
    part,
    probed_port,
    probes,
    quantity,
    selects,
)

GRACE_S = 30
"""The grace period of a pod that names none."""


def selector_matches_its_template(manifests: Manifests) -> Iterator[Problem]:
    """A selector that does not find the pods of its own template: the API server refuses the object."""
    for workload in manifests.workloads():
        if workload.kind in LONG_RUNNING and not selects(workload.owner["spec"].get("selector"), workload.labels):
            yield (
                workload.where,
                f"selector {workload.owner['spec'].get('selector')} does not find {dict(workload.labels)}",
            )


def container_ports_are_distinct(manifests: Manifests) -> Iterator[Problem]:
    """Two containers of a pod with one port, or two ports of one name: the second cannot listen, or is not found."""
    for workload in manifests.workloads():
        ports = [p for c in workload.containers for p in c.get("ports", ())]
        for what, counted in (
            ("port", Counter((p["containerPort"], p.get("protocol", "TCP")) for p in ports)),
            ("name", Counter((p["name"],) for p in ports if "name" in p)),
        ):
            for value, times in counted.items():
                if times > 1:
                    yield workload.where, f"{what} {value[0]} is declared {times} times"


def probes_ask_a_port_that_is_served(manifests: Manifests) -> Iterator[Problem]:
    """A probe of a port that no container declares: the pod is never ready, or is restarted for ever."""
    for workload in manifests.workloads():
        for container in workload.containers:
            own = {key for p in container.get("ports", ()) for key in (p["containerPort"], p.get("name"))}
            for name, probe in probes(container):
                port = probed_port(probe)
                if port is not None and port not in own:
                    yield workload.where, f"{name} of {container['name']} asks port {port}; it has {_listed(own)}"
                if "grpc" in probe and isinstance(port, str):
                    yield workload.where, f"{name} of {container['name']}: a gRPC probe takes a number, not {port!r}"


def what_serves_is_probed(manifests: Manifests) -> Iterator[Problem]:
    """A server without a readiness probe gets calls before it can answer them."""
    for workload in manifests.workloads():
        for container in workload.pod.get("containers", ()):
            if workload.kind in LONG_RUNNING and container.get("ports") and not container.get("readinessProbe"):
                yield workload.where, f"{container['name']} has ports and no readinessProbe"


def liveness_is_the_last_resort(manifests: Manifests) -> Iterator[Problem]:
    """A liveness probe that gives up before readiness does: a pod that is slow for a moment is killed, not spared."""
    for workload in manifests.workloads():
        for container in workload.containers:
            found = dict(probes(container))
            if "readinessProbe" not in found or "livenessProbe" not in found:
                continue
            live_s, ready_s = (part(found[name], "periodSeconds") or 10 for name in ("livenessProbe", "readinessProbe"))
            live_s *= found["livenessProbe"].get("failureThreshold", 3)
            ready_s *= found["readinessProbe"].get("failureThreshold", 3)
            if live_s <= ready_s:
                yield (
                    workload.where,
                    f"{container['name']} is killed after {live_s} s, and is not ready after {ready_s} s",
                )


def hooks_end_before_the_pod(manifests: Manifests) -> Iterator[Problem]:
    """A preStop as long as the grace period: the program is killed without having been told to stop."""
    for workload in manifests.workloads():
        for container in workload.containers:
            hook_s, grace_s = pre_stop_s(container), grace(workload.pod)
            if hook_s >= grace_s:
                yield (
                    workload.where,
                    f"preStop of {container['name']} takes {hook_s:g} s, the grace period is {grace_s} s",
                )


def images_are_pinned(manifests: Manifests) -> Iterator[Problem]:
    """An image without a tag, or with latest: pods of one Deployment may run different programs; no rollback is one."""
    for workload in manifests.workloads():
        for container in workload.containers:
            image = container["image"]
            name, _, tag = image.rpartition("/")[2].partition(":")
            if "@sha256:" not in image and tag in ("", "latest"):
                yield workload.where, f"{container['name']} has image {image!r}; name a version, or a digest"


def resources_are_said(manifests: Manifests) -> Iterator[Problem]:
    """No request: the scheduler puts the pod anywhere, and an autoscaler has nothing to count by. No limit of memory: a
    leak takes the node."""
    for workload in manifests.workloads():
        for container in workload.containers:
            found = container.get("resources") or {}
            for kind, resource in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
                if part(found, kind, resource) is None:
                    yield workload.where, f"{container['name']} has no {kind}.{resource}"


def limits_cover_requests(manifests: Manifests) -> Iterator[Problem]:
    """A limit below the request: the API server refuses the pod. Of extended resources (a GPU) both must be equal."""
    for workload in manifests.workloads():
        for container in workload.containers:
            requests, limits = (part(container, "resources", kind) or {} for kind in ("requests", "limits"))
            for name, asked in requests.items():
                limit = limits.get(name)
                if limit is not None and quantity(limit) < quantity(asked):
                    yield workload.where, f"{container['name']}: limit of {name} {limit} is below the request {asked}"
                if "/" in name and limit != asked:
                    yield workload.where, f"{container['name']}: {name} needs a limit that is its request, {asked}"


def pods_are_restricted(manifests: Manifests) -> Iterator[Problem]:
    """A pod with more rights than it needs: what breaks into it has them, too (Pod Security Standards, restricted)."""
    for workload in manifests.workloads():
        for problem in _rights(workload.pod):
            yield workload.where, problem


def service_links_are_off(manifests: Manifests) -> Iterator[Problem]:
    """With service links a Service named recsys sets RECSYS_PORT=tcp://10.0.0.1:50051, a setting of the server's."""
    for workload in manifests.workloads():
        if workload.pod.get("enableServiceLinks") is not False:
            yield workload.where, "enableServiceLinks is not false"


def variables_are_set_once(manifests: Manifests) -> Iterator[Problem]:
    """A variable that is set twice: the last one counts, and nobody sees which that is."""
    for workload in manifests.workloads():
        for container in workload.containers:
            for name, times in Counter(v["name"] for v in container.get("env", ())).items():
                if times > 1:
                    yield workload.where, f"{container['name']} sets {name} {times} times"


def grace(pod: Object) -> int:
    """Seconds from the order to end until a pod is killed."""
    return int(pod.get("terminationGracePeriodSeconds", GRACE_S))


def pre_stop_s(container: Object) -> float:
    """Seconds that a container's preStop takes: of a sleep, or of a command that is one."""
    hook = part(container, "lifecycle", "preStop") or {}
    if "sleep" in hook:
        return float(hook["sleep"]["seconds"])
    command = " ".join(part(hook, "exec", "command") or ())
    return sum(float(found) for found in re.findall(r"\bsleep (\d+(?:\.\d+)?)", command))


def _rights(pod: Object) -> Iterator[str]:
    context = pod.get("securityContext") or {}
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false: the pod has a token for the API server"
    if pod.get("serviceAccountName", "default") == "default":
        yield "it runs as the namespace's default ServiceAccount"
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "runAsNonRoot is not true, or runAsUser is not set"
    if part(context, "seccompProfile", "type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is not RuntimeDefault"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is set"
    for volume in pod.get("volumes", ()):
        if "hostPath" in volume:
            yield f"volume {volume['name']!r} is a path of the node"
    for container in [*pod.get("containers", ()), *pod.get("initContainers", ())]:
        own = container.get("securityContext") or {}
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{container['name']}: allowPrivilegeEscalation is not false"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']}: readOnlyRootFilesystem is not true"
        if part(own, "capabilities", "drop") != ["ALL"] or part(own, "capabilities", "add"):
            yield f"{container['name']}: capabilities are not all dropped"
        if own.get("runAsUser") == 0 or own.get("runAsNonRoot") is False:
            yield f"{container['name']}: it runs as root"


def _listed(ports: set[int | str | None]) -> str:
    return ", ".join(sorted(str(port) for port in ports if port is not None)) or "none"


RULES: tuple[Rule, ...] = (
    selector_matches_its_template,
    container_ports_are_distinct,
    probes_ask_a_port_that_is_served,
    what_serves_is_probed,
    liveness_is_the_last_resort,
    hooks_end_before_the_pod,
    images_are_pinned,
    resources_are_said,
    limits_cover_requests,
    pods_are_restricted,
    service_links_are_off,
    variables_are_set_once,
)
