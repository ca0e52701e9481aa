"""Faults in budgets, autoscalers, spread and jobs; and the four of a Kubernetes API server's own."""

from __future__ import annotations

import copy

from support.manifests.planting import JOB, LOOP, RANKER, Fault, argument, first, hpa, pod, service

FAULTS_OF_AN_API_SERVER = (
    Fault(
        "the selector differs from the template's labels",
        "prod",
        "selector_matches_its_template",
        lambda o: o[RANKER]["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/name": "ranker"}),
    ),
    Fault(
        "preStop is longer than the grace period",
        "prod",
        "hooks_end_before_the_pod",
        lambda o: first(o)["lifecycle"]["preStop"].update(sleep={"seconds": 31}),
    ),
    Fault(
        "minReplicas is above maxReplicas", "prod", "autoscalers_have_a_range", lambda o: hpa(o).update(minReplicas=11)
    ),
    Fault(
        "a failure policy with another restart policy than Never",
        "prod",
        "failure_policies_can_work",
        lambda o: pod(o, LOOP).update(restartPolicy="OnFailure"),
    ),
)
"""Those that a real API server refuses, and no schema does."""

FAULTS = (
    *FAULTS_OF_AN_API_SERVER,
    # Availability.
    Fault(
        "a budget that blocks every drain",
        "prod",
        "budgets_let_a_node_drain",
        lambda o: o["PodDisruptionBudget/recsys-ranker"]["spec"].update(maxUnavailable=0),
    ),
    Fault(
        "a budget that needs all that there may be",
        "dev",
        "budgets_let_a_node_drain",
        lambda o: (
            o["PodDisruptionBudget/recsys-ranker"]["spec"].pop("maxUnavailable"),
            o["PodDisruptionBudget/recsys-ranker"]["spec"].update(minAvailable=1),
        ),
    ),
    Fault(
        "an autoscaler of what does not exist",
        "prod",
        "autoscalers_have_something_to_scale",
        lambda o: hpa(o)["scaleTargetRef"].update(name="ranker"),
    ),
    Fault(
        "two autoscalers of one Deployment",
        "prod-in-flight",
        "autoscalers_have_something_to_scale",
        lambda o: o.update(other={**copy.deepcopy(o["ScaledObject/recsys-ranker"]), "metadata": {"name": "other"}}),
    ),
    Fault(
        "replicas beside an autoscaler",
        "prod",
        "autoscalers_have_something_to_scale",
        lambda o: o[RANKER]["spec"].update(replicas=2),
    ),
    Fault(
        "utilisation of what is not requested",
        "prod",
        "utilisation_is_of_a_request",
        lambda o: first(o)["resources"]["requests"].pop("cpu"),
    ),
    Fault(
        "a spread whose selector finds nothing",
        "prod",
        "spread_is_of_the_own_pods",
        lambda o: pod(o)["topologySpreadConstraints"][0].update(labelSelector={"matchLabels": {"app": "ranker"}}),
    ),
    Fault(
        "several pods and no spread",
        "prod",
        "several_pods_are_spread",
        lambda o: pod(o).pop("topologySpreadConstraints"),
    ),
    Fault(
        "a rollout that may do nothing",
        "prod",
        "rollouts_can_go_on",
        lambda o: o[RANKER]["spec"]["strategy"]["rollingUpdate"].update(maxSurge="0%"),
    ),
    # Jobs.
    Fault(
        "a schedule at 25 o'clock",
        "prod",
        "schedules_are_schedules",
        lambda o: o[LOOP]["spec"].update(schedule="30 25 * * *"),
    ),
    Fault(
        "a schedule of 30 February",
        "prod",
        "schedules_are_schedules",
        lambda o: o[LOOP]["spec"].update(schedule="30 3 30 2 *"),
    ),
    Fault(
        "a time zone that does not exist",
        "prod",
        "schedules_are_schedules",
        lambda o: o[LOOP]["spec"].update(timeZone="Europe/Bonn"),
    ),
    Fault(
        "a loop beside itself",
        "prod",
        "jobs_come_one_at_a_time",
        lambda o: o[LOOP]["spec"].update(concurrencyPolicy="Allow"),
    ),
    Fault("a job that never ends", "gpu", "jobs_end", lambda o: pod(o, JOB).pop("restartPolicy")),
    Fault(
        "a failure policy of a container that is not there",
        "gpu",
        "failure_policies_can_work",
        lambda o: o[JOB]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"].update(containerName="trainer"),
    ),
    Fault(
        "torchrun waits for more nodes than there are pods",
        "gpu",
        "torchrun_has_all_its_nodes",
        lambda o: argument(o, "--nnodes", "--nnodes=4"),
    ),
    Fault(
        "pods that do not run at a time",
        "gpu",
        "torchrun_has_all_its_nodes",
        lambda o: o[JOB]["spec"].update(parallelism=1),
    ),
    Fault(
        "two processes on one GPU",
        "gpu",
        "torchrun_has_all_its_nodes",
        lambda o: argument(o, "--nproc-per-node", "--nproc-per-node=2"),
    ),
    Fault(
        "a rendezvous at a name that no pod has",
        "gpu",
        "torchrun_meets_at_the_first_pod",
        lambda o: argument(o, "--master-addr", "--master-addr=recsys-train-0.train"),
    ),
    Fault(
        "a rendezvous that the DNS has once it is over",
        "gpu",
        "torchrun_meets_at_the_first_pod",
        lambda o: service(o, "recsys-train").pop("publishNotReadyAddresses"),
    ),
    Fault(
        "a TrainJob of another number of nodes than its runtime",
        "gpu-trainjob",
        "train_jobs_fit_their_runtime",
        lambda o: o["TrainJob/recsys-train"]["spec"]["trainer"].update(numNodes=4),
    ),
)
