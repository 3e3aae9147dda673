"""Compares a cluster profile with the partition that it names, before a job is submitted.

SLURM itself accepts many jobs that can never start, and lets them wait forever.
"""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.cluster_rules import parse_slurm_time
from launcher.slurm.client import (
    Partition,
    SlurmError,
    list_partition_nodes,
    list_partitions,
    show_partition,
)


def check_partition(
    cluster: ClusterConfig,
    nodes: int,
    *,
    fits: Callable[[int], bool],
    excluded: Sequence[str] = (),
) -> list[str]:
    """Checks that the partition of a profile can run a job at all.

    Args:
        cluster: The profile.
        nodes: Nodes that get ranks; spares are added.
        fits: Whether the run can use a number of nodes, for the remedy.
        excluded: Nodes to avoid, besides those that the profile excludes.

    Returns:
        Lines for the user about what may delay the job.

    Raises:
        SlurmError: The job could never start, because there is no such partition, it has too few
            nodes or GPUs, or its time limit is too short.
    """
    partitions = find_partitions(cluster)
    # A job for several partitions starts in the first that can run it.
    refusals, warnings = [], []
    for partition in partitions:
        try:
            warnings += _check_one(cluster, nodes, partition, fits=fits, excluded=excluded)
        except SlurmError as error:
            refusals.append(error)
    if len(refusals) == len(partitions):
        raise refusals[0]
    return warnings


def find_partitions(cluster: ClusterConfig) -> list[Partition]:
    """The partitions that a profile names, or the cluster's default.

    Raises:
        SlurmError: There is no such partition, or no default.
    """
    known = list_partitions()
    by_name = {partition.name: partition for partition in known}
    names = ", ".join(by_name) or "none"
    if cluster.partition is None:
        default = [partition for partition in known if partition.is_default]
        if not default and not any("partition" in option for option in cluster.sbatch):
            raise SlurmError(
                "the cluster has no default partition; set partition in the cluster profile to "
                f"one of {names}"
            )
        return default
    wanted = cluster.partition.split(",")
    for name in wanted:
        if name not in by_name:
            near = get_close_matches(name, by_name, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise SlurmError(
                f"partition={name}: the cluster has no such partition; {meant}It has {names}"
            )
    return [by_name[name] for name in wanted]


def gpus_of(gres: str) -> tuple[str | None, int]:
    """The type and number of GPUs in generic resources such as ``gpu:h100:8(S:0-1),nvme:1``."""
    kind, count = None, 0
    for name, number in re.findall(r"(?:^|,)gpu(?::([A-Za-z][\w.-]*))?(?::(\d+))?", gres):
        kind, count = kind or name or None, count + int(number or 1)
    return kind, count


def _check_one(
    cluster: ClusterConfig,
    nodes: int,
    partition: Partition,
    *,
    fits: Callable[[int], bool],
    excluded: Sequence[str],
) -> list[str]:
    fields = show_partition(partition.name)
    _check_gpus(cluster, partition)
    _check_time(cluster, partition, fields)
    avoided = {*cluster.exclude, *excluded}
    if avoided:
        avoided &= {*list_partition_nodes(partition.name)}
    available = partition.num_nodes - len(avoided)
    most = fields.get("MaxNodes", "")
    limit = min(available, int(most)) if most.isdecimal() else available
    total, spares = nodes + cluster.spares, cluster.spares
    if total > limit:
        with_spares = f" and {spares} spare" if spares else ""
        but = f", of which {len(avoided)} are excluded" if avoided else ""
        cap = f" and allows {most} for a job" if limit < available else ""
        best = next((count for count in range(limit - spares, 0, -1) if fits(count)), None)
        remedy = f"use --nodes {best}" if best else "use another partition or fewer spares"
        raise SlurmError(
            f"--nodes {nodes}{with_spares}: partition {partition.name} has "
            f"{partition.num_nodes} nodes{but}{cap}; {remedy}"
        )
    warnings = []
    if not partition.is_up:
        warnings.append(f"partition {partition.name} is not up; the job waits until it is")
    if total > partition.num_usable - len(avoided):
        warnings.append(
            f"partition {partition.name}: {partition.num_nodes - partition.num_usable} of "
            f"{partition.num_nodes} nodes are down or drained; the job waits for them"
        )
    return warnings


def _check_gpus(cluster: ClusterConfig, partition: Partition) -> None:
    offers = [gpus_of(gres) for gres in partition.gres]
    if cluster.gpus_per_node == 0:
        return
    shown = ", ".join(partition.gres) or "none"
    kinds = {cluster.gpu_type, None} if cluster.gpu_type else {kind for kind, _ in offers}
    most = max((count for kind, count in offers if kind in kinds), default=0)
    if most < cluster.gpus_per_node:
        wanted = f"gpus_per_node={cluster.gpus_per_node}"
        wanted += f" of gpu_type={cluster.gpu_type}" if cluster.gpu_type else ""
        raise SlurmError(
            f"{wanted}: the nodes of partition {partition.name} have other GPUs ({shown}); set "
            "both in the cluster profile to what they have"
        )


def _check_time(cluster: ClusterConfig, partition: Partition, fields: dict[str, str]) -> None:
    limit = parse_slurm_time(partition.time_limit)
    if cluster.time is not None:
        asked = parse_slurm_time(cluster.time)
        if limit is not None and (asked is None or asked > limit):
            raise SlurmError(
                f"time={cluster.time} is longer than partition {partition.name} allows, "
                f"{partition.time_limit}; lower time in the cluster profile"
            )
        return
    default = fields.get("DefaultTime", "NONE")
    seconds = limit if default == "NONE" else parse_slurm_time(default)
    if seconds is not None and seconds <= cluster.warning_seconds + 60:
        shown = partition.time_limit if default == "NONE" else default
        raise SlurmError(
            f"time is not given, so partition {partition.name} ends the job after {shown}: "
            f"warning_seconds={cluster.warning_seconds} leaves no time to train; set time in the "
            "cluster profile"
        )
