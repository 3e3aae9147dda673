"""`bigtrain launch … --render kubernetes`: prints a run as Kubernetes objects; submits nothing."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import PurePosixPath

from bigtrain.config import ConfigError, RunConfig, render_config
from bigtrain.config.paths import absolute_paths
from launcher.kubernetes.render import KubernetesJob, render_kubernetes_job

CLAIM = "bigtrain"
MOUNT = "/mnt/bigtrain"
DEFAULT_GPUS = 8


def render_kubernetes(
    config: RunConfig,
    *,
    nodes: int,
    image: str | None = None,
    gpus_per_node: int | None = None,
    accept_changes: Sequence[str] = (),
    claim: str = CLAIM,
    mount: str = MOUNT,
) -> str:
    """Renders an indexed Job with what it needs.

    Args:
        config: The resolved config of the run; its relative paths start in the shared volume.
        nodes: Pods.
        image: Container image with bigtrain; ``bigtrain`` of this version when not given.
        gpus_per_node: GPUs, and ranks, of each pod; when not given 8, or 0 with
            ``parallel.device=cpu``. With 0 a pod has one rank.
        accept_changes: Keys that may differ from the checkpoint's.
        claim: PersistentVolumeClaim that all pods mount, with the corpora and the runs.
        mount: Where it is mounted.

    Raises:
        ConfigError: The layout does not fit this many ranks, or a path is not in the volume.
    """
    is_on_cpu = config.parallel.device == "cpu"
    if gpus_per_node is None:
        gpus_per_node = 0 if is_on_cpu else DEFAULT_GPUS
    if is_on_cpu and gpus_per_node:
        raise ConfigError(
            f"parallel.device=cpu uses no GPUs: leave --gpus-per-node={gpus_per_node} out"
        )
    _check_paths(config, mount)
    job = KubernetesJob(
        run=config.name,
        # In the pods relative paths start in the working folder, which is the volume.
        config=render_config(config.model_copy(update={"relative_to": None})),
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        image=image or f"bigtrain:{version('bigtrain')}",
        claim=claim,
        mount=mount,
        accept_changes=tuple(accept_changes),
    )
    config.data_parallel_size(nodes * job.ranks_per_node)
    return render_kubernetes_job(job)


def _check_paths(config: RunConfig, mount: str) -> None:
    values = config.model_dump(mode="json", exclude={"relative_to"})
    for key, path in absolute_paths(values, RunConfig):
        if not PurePosixPath(path).is_relative_to(mount):
            raise ConfigError(
                f"{key}={path} is not in the pods: their volume is mounted at {mount}; give a path "
                "relative to the volume, or one below the mount point"
            )
