"""Network: services find pods and ports, policies let in and out what must pass, Prometheus finds what it scrapes.

A workload says what it calls in the annotation ``recsys/calls`` of its pods: ``SERVICE:PORT``, with commas between.
"""

from __future__ import annotations

from collections.abc import Iterator

from manifest_checks.manifests import Manifests, Object, Problem, Rule, Workload, name_of, part, probed_port, probes

CALLS = "recsys/calls"
DNS = 53


def services_reach_pods(manifests: Manifests) -> Iterator[Problem]:
    """A Service that selects no pods, or whose port none of them has: callers find nobody, and nothing says why."""
    for service in manifests.of_kind("Service"):
        selector = service["spec"].get("selector")
        pods = manifests.selected({"matchLabels": selector}) if selector else []
        if not pods:
            yield name_of(service), f"selector {selector} finds no pods"
        for port in service["spec"].get("ports", ()):
            target = port.get("targetPort", port["port"])
            for pod in pods:
                if pod.port_number(target) is None:
                    yield (
                        name_of(service),
                        f"port {port['port']} leads to {target}, which no container of {pod.where} has",
                    )


def services_keep_to_one_workload(manifests: Manifests) -> Iterator[Problem]:
    """A selector that finds pods of two workloads: calls go to programs that do not know them."""
    for obj in manifests.of_kind("Service", "PodDisruptionBudget"):
        selector = obj["spec"].get("selector")
        pods = manifests.selected({"matchLabels": selector} if obj["kind"] == "Service" else selector)
        if len({pod.where for pod in pods}) > 1:
            yield name_of(obj), f"selector finds pods of {', '.join(sorted({pod.where for pod in pods}))}"


def headless_ports_are_the_pods_own(manifests: Manifests) -> Iterator[Problem]:
    """A headless Service translates no port: one that is not the pod's own is refused by everybody who calls it."""
    for service in manifests.of_kind("Service"):
        if service["spec"].get("clusterIP") != "None":
            continue
        for port in service["spec"].get("ports", ()):
            for pod in manifests.selected({"matchLabels": service["spec"].get("selector") or {}}):
                number = pod.port_number(port.get("targetPort", port["port"]))
                if number is not None and number != port["port"]:
                    yield name_of(service), f"port {port['port']} is {number} in {pod.where}, and it is headless"


def grpc_is_behind_a_headless_service(manifests: Manifests) -> Iterator[Problem]:
    """gRPC behind an address of the cluster: each client sits on one pod, and new pods get no calls."""
    for service in manifests.of_kind("Service"):
        if service["spec"].get("clusterIP") != "None":
            for port in service["spec"].get("ports", ()):
                if "grpc" in (port.get("appProtocol"), port.get("name")):
                    yield name_of(service), f"port {port['port']} is gRPC, and clusterIP is not None"


def monitors_find_their_port(manifests: Manifests) -> Iterator[Problem]:
    """A ServiceMonitor of a port, or of labels, that no Service has: the target is missing, and no alert is of it."""
    for monitor in manifests.of_kind("ServiceMonitor"):
        labels = monitor["spec"].get("selector")
        services = [s for s in manifests.of_kind("Service") if _has_labels(labels, s)]
        if not services:
            yield name_of(monitor), f"selector {labels} finds no Service"
        names = {p.get("name") for s in services for p in s["spec"].get("ports", ())}
        for endpoint in monitor["spec"]["endpoints"]:
            if services and endpoint.get("port") not in names:
                yield name_of(monitor), f"no Service has a port named {endpoint.get('port')!r}"
        if (label := monitor["spec"].get("jobLabel")) and any(label not in _labels(s) for s in services):
            yield name_of(monitor), f"jobLabel {label!r} is no label of the Service"


def policies_select_pods(manifests: Manifests) -> Iterator[Problem]:
    """A policy that selects no pods, or names a port that they do not have: it allows nothing."""
    for policy in manifests.of_kind("NetworkPolicy"):
        pods = manifests.selected(policy["spec"].get("podSelector"))
        if not pods:
            yield name_of(policy), f"podSelector {policy['spec'].get('podSelector')} finds no pods"
        for rule in policy["spec"].get("ingress") or ():
            for port in rule.get("ports") or ():
                for pod in pods:
                    if "port" in port and pod.port_number(port["port"]) is None:
                        yield name_of(policy), f"port {port['port']!r} is none of {pod.where}"


def policies_let_callers_in(manifests: Manifests) -> Iterator[Problem]:
    """A port that no policy opens to anybody: the program serves, and all its callers wait until they give up."""
    for pod in manifests.workloads():
        if not _is_closed(manifests, pod, "Ingress"):
            continue
        for number, name in pod.ports().items():
            if not any(_opens(rule, pod, number) for rule in _ingress(manifests, pod)):
                yield pod.where, f"no policy lets anybody in to port {name or number}"


def policies_let_probes_in(manifests: Manifests) -> Iterator[Problem]:
    """A probe's port that is open to some selectors only: kubelet is in none of them, and many networks keep it out."""
    for pod in manifests.workloads():
        if not _is_closed(manifests, pod, "Ingress"):
            continue
        for container in pod.containers:
            for name, probe in probes(container):
                port = probed_port(probe)
                number = None if port is None else pod.port_number(port)
                rules = _ingress(manifests, pod)
                if number is not None and not any(not r.get("from") and _opens(r, pod, number) for r in rules):
                    yield pod.where, f"{name} of {container['name']} asks port {port}, which is not open to kubelet"


def policies_let_prometheus_in(manifests: Manifests) -> Iterator[Problem]:
    """A scraped port that no policy opens to another namespace: metrics end, and with them the alerts."""
    for monitor in manifests.of_kind("ServiceMonitor"):
        for service in (s for s in manifests.of_kind("Service") if _has_labels(monitor["spec"].get("selector"), s)):
            wanted = {e.get("port") for e in monitor["spec"]["endpoints"]}
            for port in (p for p in service["spec"]["ports"] if p.get("name") in wanted):
                for pod in manifests.selected({"matchLabels": service["spec"].get("selector") or {}}):
                    number = pod.port_number(port.get("targetPort", port["port"]))
                    if number is None or not _is_closed(manifests, pod, "Ingress"):
                        continue
                    rules = [r for r in _ingress(manifests, pod) if _opens(r, pod, number)]
                    if not any(not r.get("from") or any("namespaceSelector" in f for f in r["from"]) for r in rules):
                        yield name_of(monitor), f"no policy lets other namespaces in to port {number} of {pod.where}"


def declared_calls_go_through(manifests: Manifests) -> Iterator[Problem]:
    """A call that the caller's policies, or those of whom it calls, do not let pass: it waits until it gives up."""
    for caller in manifests.workloads():
        for call in filter(None, (part(caller.template, "metadata", "annotations", CALLS) or "").split(",")):
            name, _, port = call.strip().partition(":")
            services = [s for s in manifests.of_kind("Service") if s["metadata"]["name"] == name]
            selectors = [{"matchLabels": s["spec"].get("selector") or {}} for s in services]
            callees = [w for selector in selectors for w in manifests.selected(selector)]
            reached: list[Workload | None] = [*callees] or [None]
            if services and not any(p["port"] == int(port) for s in services for p in s["spec"].get("ports", ())):
                yield caller.where, f"it calls {call.strip()}, and that Service has no such port"
            if _is_closed(manifests, caller, "Egress"):
                if not _lets_out(manifests, caller, None, DNS, "UDP"):
                    yield caller.where, f"it calls {name}, and no policy lets it look up names (port {DNS}, UDP)"
                for reachable in reached:
                    if not _lets_out(manifests, caller, reachable, int(port), "TCP"):
                        yield caller.where, f"it calls {call.strip()}, and no policy of its own lets it"
            for callee in callees:
                rules = _ingress(manifests, callee)
                if _is_closed(manifests, callee, "Ingress") and not any(
                    _opens(r, callee, int(port)) and _is_among(r.get("from"), caller) for r in rules
                ):
                    yield caller.where, f"it calls {call.strip()}, and no policy of {callee.where} lets it in"


def callers_are_declared(manifests: Manifests) -> Iterator[Problem]:
    """A pod that its policies let out, and that says of nothing that it calls it: its calls are not checked."""
    for pod in manifests.workloads():
        called = part(pod.template, "metadata", "annotations", CALLS)
        rules = [r for p in _policies(manifests, pod, "Egress") for r in p["spec"].get("egress") or ()]
        if not called and any(not _only_dns(rule) and not _to_its_own(rule, pod) for rule in rules):
            yield pod.where, f"its policies let it out, and it has no annotation {CALLS}"


def _only_dns(rule: Object) -> bool:
    return bool(rule.get("ports")) and all(p.get("port") == DNS for p in rule["ports"])


def _to_its_own(rule: Object, pod: Workload) -> bool:
    return bool(rule.get("to")) and all(set(p) == {"podSelector"} and _is_among([p], pod) for p in rule["to"])


def _has_labels(selector: Object | None, service: Object) -> bool:
    wanted = (selector or {}).get("matchLabels") or {}
    return all(_labels(service).get(key) == value for key, value in wanted.items())


def _labels(obj: Object) -> Object:
    return part(obj, "metadata", "labels") or {}


def _policies(manifests: Manifests, pod: Workload, direction: str) -> list[Object]:
    policies = [p for p in manifests.of_kind("NetworkPolicy") if direction in p["spec"].get("policyTypes", ["Ingress"])]
    return [p for p in policies if pod in manifests.selected(p["spec"].get("podSelector"))]


def _is_closed(manifests: Manifests, pod: Workload, direction: str) -> bool:
    """True if a policy is about a pod, so that only what policies say may pass."""
    return bool(_policies(manifests, pod, direction))


def _ingress(manifests: Manifests, pod: Workload) -> list[Object]:
    return [r for p in _policies(manifests, pod, "Ingress") for r in p["spec"].get("ingress") or ()]


def _opens(rule: Object, pod: Workload, number: int, protocol: str = "TCP") -> bool:
    """True if a rule opens a port of a pod to whomever it is about."""
    ports = rule.get("ports")
    return not ports or any(
        p.get("protocol", "TCP") == protocol
        and ("port" not in p or pod.port_number(p["port"]) == number or p["port"] == number)
        for p in ports
    )


def _lets_out(manifests: Manifests, pod: Workload, to: Workload | None, port: int, protocol: str) -> bool:
    """True if a pod may call a port of another one; ``to`` None: of somebody outside these manifests."""
    for rule in [r for p in _policies(manifests, pod, "Egress") for r in p["spec"].get("egress") or ()]:
        if not _opens(rule, to or pod, port, protocol):
            continue
        if not rule.get("to") or (to is not None and _is_among(rule["to"], to)):
            return True
        if to is None and any("namespaceSelector" in peer or "ipBlock" in peer for peer in rule["to"]):
            return True
    return False


def _is_among(peers: list[Object] | None, pod: Workload) -> bool:
    """True if a pod is one of the peers of a rule; no peers: all are. A namespace's own labels are not looked at."""
    if not peers:
        return True
    from_here = [p for p in peers if "ipBlock" not in p and not part(p, "namespaceSelector", "matchLabels")]
    return any(Manifests([pod.owner]).selected(p.get("podSelector", {})) for p in from_here)


RULES: tuple[Rule, ...] = (
    services_reach_pods,
    services_keep_to_one_workload,
    headless_ports_are_the_pods_own,
    grpc_is_behind_a_headless_service,
    monitors_find_their_port,
    policies_select_pods,
    policies_let_callers_in,
    policies_let_probes_in,
    policies_let_prometheus_in,
    declared_calls_go_through,
    callers_are_declared,
)
