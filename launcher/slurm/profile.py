"""Writes a cluster profile from what SLURM says about a partition. Pure text.

Every value that SLURM does not state is a guess, and is marked as one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bigtrain.config.cluster_rules import parse_slurm_time
from launcher.slurm.client import Partition
from launcher.slurm.partitions import gpus_of

_TIME_WITHOUT_LIMIT = "24:00:00"


@dataclass(frozen=True, slots=True)
class ProfileDraft:
    """A profile that was written from SLURM's facts."""

    text: str
    guesses: tuple[str, ...]
    """What a person has to check, a line each."""


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    why: str = ""
    """A comment behind the value."""
    guess: str = ""
    """For the user: what was guessed, and what to do if it is wrong."""


def draft_profile(
    partition: Partition, fields: Mapping[str, str], config: Mapping[str, str]
) -> ProfileDraft:
    """Drafts the profile of a partition.

    Args:
        partition: What sinfo says about it.
        fields: What ``scontrol show partition`` says about it.
        config: What ``scontrol show config`` says.
    """
    lines = [
        _Line(f"partition: {partition.name}", _describe_nodes(partition, fields)),
        *_time(partition),
        *_node(partition),
        *_restart(fields, config),
    ]
    cluster, version = config.get("ClusterName", ""), config.get("SLURM_VERSION", "")
    header = (
        f"# Partition {partition.name} of the cluster {cluster}, written by\n"
        f"# `bigtrain cluster init` from sinfo and scontrol of SLURM {version}.\n"
    )
    return ProfileDraft(
        text=header + "".join(map(_render, lines)) + _WHAT_SLURM_DOES_NOT_SAY,
        guesses=tuple(line.guess for line in lines if line.guess),
    )


_WHAT_SLURM_DOES_NOT_SAY = """
# SLURM does not say the following: uncomment what your cluster needs.
# account: NAME               # what `sacctmgr show assoc` lists for you
# qos: NAME
# network_interface: ib0      # if ranks do not find each other: what `ip link` lists on a node
# shared_folder: /PATH        # a folder that all nodes see; runs_dir must lie in it
# modules: [cuda]
# spares: 1                   # one more node, which replaces a node that fails
# warning_seconds: 300        # before the time limit: one step, two saves and a minute
"""


def _render(line: _Line) -> str:
    if not line.why and not line.guess:
        return f"{line.text}\n"
    comment = line.why or f"guess: {line.guess.partition(', ')[2]}"
    return f"{line.text:<30}# {comment}\n"


def _describe_nodes(partition: Partition, fields: Mapping[str, str]) -> str:
    gres = f", {' or '.join(partition.gres)}" if partition.gres else ""
    most = fields.get("MaxNodes", "")
    cap = f"; at most {most} for a job" if most.isdecimal() else ""
    return (
        f"{partition.num_nodes} nodes: {partition.cpus} CPUs, {partition.memory_mb // 1024} GiB"
        f"{gres}{cap}"
    )


def _time(partition: Partition) -> Iterator[_Line]:
    limit = parse_slurm_time(partition.time_limit)
    if limit is None:
        guess = f"time: {_TIME_WITHOUT_LIMIT} for a job, because the partition has no limit"
        yield _Line(f"time: {_TIME_WITHOUT_LIMIT}", "the partition has no limit", guess)
        return
    yield _Line(f'time: "{partition.time_limit}"', "the partition's limit")
    if limit <= 600:
        yield _Line("warning_seconds: 60", "the limit is short")


def _node(partition: Partition) -> Iterator[_Line]:
    offers = [offer for offer in map(gpus_of, partition.gres) if offer[1]]
    if not offers:
        guess = "ranks_per_node: 1, because the nodes have no GPUs; more ranks may be faster"
        yield _Line("ranks_per_node: 1", guess=guess)
        return
    kind, count = offers[0]
    mixed = "the partition has different nodes; others have other GPUs" if offers[1:] else ""
    guess = f"gpus_per_node: {count}; {mixed}" if mixed else ""
    yield _Line(f"gpus_per_node: {count}", mixed, guess)
    if kind is not None:
        yield _Line(f"gpu_type: {kind}")
    cpus = max(partition.cpus // count, 1)
    guess = f"cpus_per_rank: {cpus}, an equal share of {partition.cpus} CPUs (threads count)"
    yield _Line(f"cpus_per_rank: {cpus}", guess=guess)


def _restart(fields: Mapping[str, str], config: Mapping[str, str]) -> Iterator[_Line]:
    requeues = config.get("JobRequeue", "1") == "1"
    preempt = fields.get("PreemptMode") or config.get("PreemptMode", "OFF")
    if not requeues:
        guess = (
            "restart: chain, because JobRequeue=0; if the administrators allow --requeue, use "
            "restart: requeue"
        )
        yield _Line("restart: chain", "JobRequeue=0: jobs are not requeued", guess)
    elif preempt == "CANCEL":
        guess = (
            "restart: chain, because preempted jobs are cancelled (PreemptMode=CANCEL), and SLURM "
            "does not requeue a cancelled job"
        )
        yield _Line("restart: chain", "PreemptMode=CANCEL: preempted jobs end", guess)
    else:
        yield _Line("restart: requeue", f"JobRequeue=1, PreemptMode={preempt}")
