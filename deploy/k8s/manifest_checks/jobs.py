"""Jobs: schedules, failure policies, and the numbers of torchrun."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator

from manifest_checks.manifests import Manifests, Object, Problem, Rule, Workload, name_of, part

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "weekday": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


def schedules_are_schedules(manifests: Manifests) -> Iterator[Problem]:
    """A schedule of 25 o'clock, or in no time zone: the API server refuses it. One of 30 February: it never runs."""
    for cron in manifests.of_kind("CronJob"):
        if problem := schedule_problem(str(cron["spec"]["schedule"])):
            yield name_of(cron), problem
        zone = cron["spec"].get("timeZone")
        if zone not in zoneinfo.available_timezones():
            yield name_of(cron), f"timeZone is {zone!r}; allowed: a name such as Etc/UTC"


def jobs_come_one_at_a_time(manifests: Manifests) -> Iterator[Problem]:
    """A CronJob that begins while the last one runs: both write the same files."""
    for cron in manifests.of_kind("CronJob"):
        if cron["spec"].get("concurrencyPolicy", "Allow") == "Allow":
            yield name_of(cron), "concurrencyPolicy is Allow"


def jobs_end(manifests: Manifests) -> Iterator[Problem]:
    """A Job whose pods are restarted for ever, as is the default of pods: the API server refuses it."""
    for workload, _ in _jobs(manifests):
        if workload.pod.get("restartPolicy", "Always") not in ("Never", "OnFailure"):
            yield (
                workload.where,
                f"restartPolicy is {workload.pod.get('restartPolicy', 'Always')}; allowed: Never, OnFailure",
            )


def failure_policies_can_work(manifests: Manifests) -> Iterator[Problem]:
    """A failure policy needs restartPolicy Never, containers that are there, and exit codes of failures."""
    for workload, spec in _jobs(manifests):
        rules = part(spec, "podFailurePolicy", "rules") or ()
        if rules and workload.pod.get("restartPolicy") != "Never":
            yield (
                workload.where,
                f"podFailurePolicy with restartPolicy {workload.pod.get('restartPolicy')}; allowed: Never",
            )
        names = {c["name"] for c in workload.containers}
        for codes in filter(None, (part(rule, "onExitCodes") for rule in rules)):
            if codes.get("containerName") not in {None, *names}:
                yield (
                    workload.where,
                    f"podFailurePolicy is about container {codes['containerName']!r}, which is not there",
                )
            if codes["operator"] == "In" and 0 in codes["values"]:
                yield workload.where, "podFailurePolicy takes exit code 0 for a failure"


def torchrun_has_all_its_nodes(manifests: Manifests) -> Iterator[Problem]:
    """torchrun that waits for more nodes than the Job has pods waits until it gives up; for fewer, some train alone."""
    for workload, spec in _jobs(manifests):
        for container in workload.containers:
            words = _words(container)
            if "torchrun" not in words:
                continue
            nodes, pods, at_a_time = _option(words, "nnodes"), spec.get("completions", 1), spec.get("parallelism", 1)
            if not nodes or {nodes} != {str(pods), str(at_a_time)}:
                yield workload.where, f"torchrun has {nodes} nodes, the Job {pods} pods, {at_a_time} at a time"
            if spec.get("completionMode") != "Indexed":
                yield workload.where, "completionMode is not Indexed: pods have no names to meet at"
            gpus = part(container, "resources", "limits", "nvidia.com/gpu")
            processes = _option(words, "nproc-per-node")
            if gpus is not None and str(gpus) != processes:
                yield workload.where, f"torchrun begins {processes} processes in a pod of {gpus} GPUs"


def torchrun_meets_at_the_first_pod(manifests: Manifests) -> Iterator[Problem]:
    """A rendezvous at a name that is no pod's, or that the DNS has only once the pod is ready: nobody meets."""
    for workload, _ in _jobs(manifests):
        for container in workload.containers:
            words = _words(container)
            host, port = _option(words, "master-addr"), _option(words, "master-port")
            if endpoint := _option(words, "rdzv-endpoint"):
                host, _, port = endpoint.partition(":")
            if not host:
                continue
            name, subdomain = workload.owner["metadata"]["name"], workload.pod.get("subdomain")
            if host != f"{name}-0.{subdomain}":
                yield workload.where, f"rendezvous is at {host}; the first pod is {name}-0.{subdomain}"
            if int(port or 0) not in workload.ports():
                yield workload.where, f"rendezvous is at port {port or '(none)'}, which the container does not declare"
            for service in (s for s in manifests.of_kind("Service") if s["metadata"]["name"] == subdomain):
                if service["spec"].get("clusterIP") != "None" or not service["spec"].get("publishNotReadyAddresses"):
                    yield workload.where, f"Service {subdomain} is not headless with publishNotReadyAddresses"


def train_jobs_fit_their_runtime(manifests: Manifests) -> Iterator[Problem]:
    """A TrainJob of a runtime that is not there, or of another number of nodes or of processes than it has GPUs for."""
    for job in manifests.of_kind("TrainJob"):
        ref, trainer = job["spec"]["runtimeRef"], job["spec"].get("trainer") or {}
        if not manifests.has(ref.get("kind", "ClusterTrainingRuntime"), ref["name"]):
            yield name_of(job), f"runtime {ref['name']!r} is neither here nor in outside.txt"
        for runtime in (o for o in manifests.of_kind("TrainingRuntime") if o["metadata"]["name"] == ref["name"]):
            policy = runtime["spec"]["mlPolicy"]
            if trainer.get("numNodes", policy["numNodes"]) != policy["numNodes"]:
                yield name_of(job), f"{trainer['numNodes']} nodes, and its runtime has {policy['numNodes']}"
            processes = trainer.get("numProcPerNode", part(policy, "torch", "numProcPerNode"))
            for workload in (w for w in manifests.workloads() if w.owner is runtime):
                for container in workload.containers:
                    gpus = part(container, "resources", "limits", "nvidia.com/gpu")
                    if gpus is not None and str(gpus) != str(processes):
                        yield name_of(job), f"{processes} processes on a node of {gpus} GPUs"


def schedule_problem(text: str) -> str | None:
    """Say what is wrong with a schedule of cron's; None: nothing.

    >>> schedule_problem("30 3 * * 1-5"), schedule_problem("0 25 * * *")
    (None, "schedule '0 25 * * *': hour is '25'; allowed: 0 to 23")
    """
    if text in _MACROS:
        return None
    parts = text.split()
    if len(parts) != len(_FIELDS):
        return f"schedule {text!r} has {len(parts)} fields; allowed: minute, hour, day, month, weekday"
    for (name, low, high), given in zip(_FIELDS, parts, strict=True):
        for piece in given.split(","):
            found = re.fullmatch(r"(\*|\w+(?:-\w+)?)(?:/(\d+))?", piece)
            ends = [] if found is None or found[1] == "*" else [_number(name, end) for end in found[1].split("-")]
            wrong = found is None or any(end is None or not low <= end <= high for end in ends)
            if wrong or (found and found[2] == "0") or (len(ends) == 2 and (ends[0] or 0) > (ends[1] or 0)):
                return f"schedule {text!r}: {name} is {piece!r}; allowed: {low} to {high}"
    days, months = parts[2], parts[3]
    if parts[4] == "*" and (days, months) in {("30", "2"), ("31", "2"), *(("31", m) for m in ("4", "6", "9", "11"))}:
        return f"schedule {text!r}: month {months} has no day {days}"
    return None


def _number(field: str, text: str) -> int | None:
    if text.isdecimal():
        return int(text)
    names = _NAMES.get(field, ())
    return names.index(text.lower()) + (1 if field == "month" else 0) if text.lower() in names else None


def _jobs(manifests: Manifests) -> Iterator[tuple[Workload, Object]]:
    """Workloads that are jobs, with the job's spec."""
    for workload in manifests.workloads():
        if workload.kind == "Job":
            yield workload, workload.owner["spec"]
        if workload.kind == "CronJob":
            yield workload, workload.owner["spec"]["jobTemplate"]["spec"]


def _words(container: Object) -> list[str]:
    return [*map(str, container.get("command", ())), *map(str, container.get("args", ()))]


def _option(words: list[str], name: str) -> str | None:
    """The value of ``--name=value``; torchrun takes underscores for dashes."""
    for word in words:
        key, _, value = word.partition("=")
        if key.replace("_", "-") == f"--{name}":
            return value
    return None


RULES: tuple[Rule, ...] = (
    schedules_are_schedules,
    jobs_come_one_at_a_time,
    jobs_end,
    failure_policies_can_work,
    torchrun_has_all_its_nodes,
    torchrun_meets_at_the_first_pod,
    train_jobs_fit_their_runtime,
)
