"""References: what an object names must be there."""

from __future__ import annotations

from collections.abc import Iterator

from manifest_checks.manifests import Manifests, Object, Problem, Rule, Workload, part


def what_is_named_is_there(manifests: Manifests) -> Iterator[Problem]:
    """A ConfigMap, secret, claim or account that nobody makes: the pod waits in ContainerCreating, without an end."""
    for workload in manifests.workloads():
        for kind, name in _named(workload):
            if not manifests.has(kind, name):
                yield workload.where, f"{kind} {name!r} is neither here nor in outside.txt"


def keys_are_there(manifests: Manifests) -> Iterator[Problem]:
    """A key that a ConfigMap or secret of these manifests does not have: likewise."""
    data = {
        f"{o['kind']}/{o['metadata']['name']}": {
            key for field in ("data", "stringData", "binaryData") for key in o.get(field) or ()
        }
        for o in manifests.of_kind("ConfigMap", "Secret")
    }
    for workload in manifests.workloads():
        for source, key in _keys(workload):
            if source in data and key not in data[source]:
                yield workload.where, f"{source} has no key {key!r}; it has {', '.join(sorted(data[source]))}"


def what_is_outside_is_used(manifests: Manifests) -> Iterator[Problem]:
    """A line of outside.txt that nothing asks for: somebody makes a secret that nobody reads."""
    named = {f"{kind}/{name}" for w in manifests.workloads() for kind, name in _named(w)}
    named |= {f"Secret/{name}" for o in manifests.of_kind("ServiceMonitor") for name in _secrets_of_monitor(o)}
    namespaces = {part(o, "metadata", "namespace") for o in manifests.objects} - {None}
    named |= {f"Namespace/{name}" for name in namespaces}
    for line in sorted(manifests.outside - named):
        yield "outside.txt", f"{line} is asked for by nothing"


def the_namespace_is_there(manifests: Manifests) -> Iterator[Problem]:
    """Objects of a namespace that nobody makes, or of several by mistake: references stay within one."""
    namespaces = {part(o, "metadata", "namespace") for o in manifests.objects if o["kind"] != "Namespace"}
    if len(namespaces) > 1:
        yield "manifests", f"objects are of several namespaces: {', '.join(sorted(map(str, namespaces)))}"
    for name in sorted(filter(None, namespaces)):
        if not manifests.has("Namespace", name):
            yield "manifests", f"Namespace {name!r} is neither here nor in outside.txt"


def _secrets_of_monitor(monitor: Object) -> Iterator[str]:
    for endpoint in monitor["spec"].get("endpoints", ()):
        tls = endpoint.get("tlsConfig") or {}
        for found in (part(tls, "ca", "secret"), part(tls, "cert", "secret"), tls.get("keySecret")):
            if found:
                yield found["name"]


def _named(workload: Workload) -> Iterator[tuple[str, str]]:
    pod = workload.pod
    if account := pod.get("serviceAccountName"):
        yield "ServiceAccount", account
    for volume in pod.get("volumes", ()):
        if name := part(volume, "secret", "secretName"):
            yield "Secret", name
        if name := part(volume, "configMap", "name"):
            yield "ConfigMap", name
        if name := part(volume, "persistentVolumeClaim", "claimName"):
            yield "PersistentVolumeClaim", name
    for container in workload.containers:
        for source in container.get("envFrom", ()):
            for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if name := part(source, field, "name"):
                    yield kind, name
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            for variable in container.get("env", ()):
                if name := part(variable, "valueFrom", field, "name"):
                    yield kind, name
    if service := workload.owner["spec"].get("serviceName"):
        yield "Service", service
    if subdomain := pod.get("subdomain"):
        yield "Service", subdomain


def _keys(workload: Workload) -> Iterator[tuple[str, str]]:
    for volume in workload.pod.get("volumes", ()):
        for kind, source, name in (
            ("Secret", volume.get("secret"), part(volume, "secret", "secretName")),
            ("ConfigMap", volume.get("configMap"), part(volume, "configMap", "name")),
        ):
            for item in part(source, "items") or ():
                yield f"{kind}/{name}", item["key"]
    for container in workload.containers:
        for variable in container.get("env", ()):
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if found := part(variable, "valueFrom", field):
                    yield f"{kind}/{found['name']}", found["key"]


RULES: tuple[Rule, ...] = (
    what_is_named_is_there,
    keys_are_there,
    what_is_outside_is_used,
    the_namespace_is_there,
)
