"""Renders a run as objects of Kubernetes: ConfigMap, headless Service and indexed Job. Pure.

Each pod is a node: `launcher.kubernetes.pod` starts its ranks with torchrun. Pods find the first
one by the DNS name that the Service gives it. A pod that ends because the run was stopped, or whose
machine is drained, is replaced and resumes the run; other failures are counted.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import yaml

from launcher.kubernetes.exit_codes import STOPPED

SAVE_SECONDS = 600
"""Time that a pod has to save after SIGTERM."""
FAILURES_PER_POD = 3
"""How often a pod is started again after it failed, until the Job fails."""
MASTER_PORT = 29500
_CONFIG_DIR, _CONFIG_FILE = "/etc/bigtrain", "run.yaml"
_MAX_NAME_LENGTH = 52
"""A pod's host name is the Job's name and its index; it has at most 63 characters."""
_CPUS_PER_GPU, _MEMORY_GIB_PER_GPU = 4, 16
_CPUS_WITHOUT_GPU, _MEMORY_GIB_WITHOUT_GPU = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesJob:
    """What the objects are made from."""

    run: str
    """The run's name."""
    config: str
    """The run's config as YAML; its relative paths start in the volume."""
    nodes: int
    """Pods."""
    gpus_per_node: int
    """GPUs, and ranks, of each pod; 0 for one rank without a GPU."""
    image: str
    """Container image with bigtrain."""
    claim: str
    """PersistentVolumeClaim with the corpora and the runs, which all pods can write to."""
    mount: str
    """Where the volume is mounted."""
    accept_changes: tuple[str, ...] = ()
    """Keys that may differ from the checkpoint's."""

    @property
    def ranks_per_node(self) -> int:
        """Ranks of each pod."""
        return self.gpus_per_node or 1


def render_kubernetes_job(job: KubernetesJob) -> str:
    """Renders the objects as YAML for ``kubectl apply -f``; the same job gives the same bytes."""
    name = kubernetes_name(job.run)
    objects = [_config_map(job, name), _service(name), _job(job, name)]
    header = (
        f"# Run {job.run} on {job.nodes} pods with {job.ranks_per_node} ranks each.\n"
        f"# Needs: the image {job.image}; the claim {job.claim} (ReadWriteMany) with the data.\n"
        "# Keys for wandb, MLflow or S3: variables of a Secret with the name bigtrain, if any.\n"
        f"# Stop, and save: kubectl delete job {name}. Start again, and resume: kubectl apply.\n"
    )
    return header + "".join(f"---\n{_dump(each)}" for each in objects)


def kubernetes_name(run: str) -> str:
    """A name that Kubernetes accepts for the objects of a run.

    It is the run's name if possible. Otherwise characters are replaced, and a hash of the run's
    name is added, so that two runs do not get the same name.
    """
    name = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"run-{name}".rstrip("-")
    if name == run and len(name) <= _MAX_NAME_LENGTH:
        return name
    digest = hashlib.sha256(run.encode()).hexdigest()[:6]
    return f"{name[: _MAX_NAME_LENGTH - 7].rstrip('-')}-{digest}"


def _config_map(job: KubernetesJob, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": _labels(name)},
        "data": {_CONFIG_FILE: job.config},
    }


def _service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": {
            "clusterIP": "None",
            # Pods look each other up while they start.
            "publishNotReadyAddresses": True,
            "selector": _labels(name),
            "ports": [{"name": "rendezvous", "port": MASTER_PORT}],
        },
    }


def _job(job: KubernetesJob, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": {
            "completionMode": "Indexed",
            "completions": job.nodes,
            "parallelism": job.nodes,
            # When one pod fails, its peers fail too, so failures are counted for each pod.
            "backoffLimitPerIndex": FAILURES_PER_POD,
            "maxFailedIndexes": 0,
            # A new pod must not start while the old one still writes.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": {"labels": _labels(name)}, "spec": _pod(job, name)},
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    return [
        {
            "action": "Ignore",
            "onExitCodes": {"containerName": "ranks", "operator": "In", "values": [STOPPED]},
        },
        {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]


def _pod(job: KubernetesJob, name: str) -> dict[str, Any]:
    shared_memory = {"medium": "Memory", "sizeLimit": f"{_memory_gib(job)}Gi"}
    return {
        "restartPolicy": "Never",
        "subdomain": name,
        "terminationGracePeriodSeconds": SAVE_SECONDS,
        "containers": [_container(job, name)],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            {"name": "shared", "persistentVolumeClaim": {"claimName": job.claim}},
            {"name": "shm", "emptyDir": shared_memory},
        ],
    }


def _container(job: KubernetesJob, name: str) -> dict[str, Any]:
    return {
        "name": "ranks",
        "image": job.image,
        "workingDir": job.mount,
        "command": ["python", "-m", "launcher.kubernetes.pod", f"{_CONFIG_DIR}/{_CONFIG_FILE}"],
        # Kubernetes sets JOB_COMPLETION_INDEX, and replaces $(…) itself.
        "args": [
            f"--nodes={job.nodes}",
            "--node-rank=$(JOB_COMPLETION_INDEX)",
            f"--processes={job.ranks_per_node}",
            "--master-addr=$(MASTER_ADDR)",
            f"--master-port={MASTER_PORT}",
            *(f"--accept-change={key}" for key in job.accept_changes),
        ],
        "env": [
            {"name": "MASTER_ADDR", "value": f"{name}-0.{name}"},
            {"name": "OMP_NUM_THREADS", "value": str(_cpus(job) // job.ranks_per_node)},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
        ],
        "envFrom": [{"secretRef": {"name": "bigtrain", "optional": True}}],
        "ports": [{"name": "rendezvous", "containerPort": MASTER_PORT}],
        "resources": _resources(job),
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG_DIR, "readOnly": True},
            {"name": "shared", "mountPath": job.mount},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _resources(job: KubernetesJob) -> dict[str, Any]:
    requests = {"cpu": str(_cpus(job)), "memory": f"{2 * _memory_gib(job)}Gi"}
    if not job.gpus_per_node:
        return {"requests": requests}
    gpus = {"nvidia.com/gpu": str(job.gpus_per_node)}
    return {"requests": {**requests, **gpus}, "limits": gpus}


def _cpus(job: KubernetesJob) -> int:
    return job.gpus_per_node * _CPUS_PER_GPU or _CPUS_WITHOUT_GPU


def _memory_gib(job: KubernetesJob) -> int:
    """GiB of the pod's shared memory; it requests twice as much in all."""
    return job.gpus_per_node * _MEMORY_GIB_PER_GPU or _MEMORY_GIB_WITHOUT_GPU


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "bigtrain", "app.kubernetes.io/instance": name}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """No object is written as an alias of an equal one."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _dump(value: dict[str, Any]) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))
