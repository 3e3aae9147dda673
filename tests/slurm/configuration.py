"""The slurm.conf of a test cluster: several nodes on one machine. Pure text."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a test may want to differ."""

    nodes: int = 4
    cpus_per_node: int = 8
    """As SLURM sees it; the machine may have fewer."""
    memory_mb: int = 4000
    """Memory of each node as SLURM sees it."""
    kill_seconds: int = 20
    """KillWait: from SIGTERM to SIGKILL, at the time limit and at scancel."""
    node_timeout: int = 5
    """SlurmdTimeout. A node that does not answer is DOWN after three times as long."""
    message_timeout: int = 5
    """MessageTimeout: how long slurmctld tries to reach a node, and a command slurmctld."""
    requeue_seconds: int = 5
    """How long a requeued job waits before it starts again; SLURM's default is 120."""
    grace_seconds: int = 20
    """GraceTime of the partitions whose jobs can be preempted."""
    keep_seconds: int = 300
    """MinJobAge: how long a job that ended is still listed."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Free ports of the cluster."""

    controller: int
    nodes: tuple[int, ...]


def node_names(options: ClusterOptions) -> tuple[str, ...]:
    """The names of the nodes, in SLURM's order."""
    return tuple(f"n{number}" for number in range(1, options.nodes + 1))


def render_configuration(
    options: ClusterOptions, *, folder: Path, ports: Ports, hostname: str
) -> str:
    """Renders slurm.conf.

    Partitions: ``main`` (default; preempted jobs are requeued), ``cancel`` (preempted jobs are
    cancelled after the grace time) and ``urgent`` (preempts the jobs of the others). All contain
    all nodes.
    """
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={hostname} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={options.cpus_per_node} RealMemory={options.memory_mb} State=UNKNOWN"
        for name, port in zip(node_names(options), ports.nodes, strict=True)
    )
    all_nodes = f"Nodes=n[1-{options.nodes}] MaxTime=INFINITE State=UP"
    grace = f"GraceTime={options.grace_seconds}"
    return f"""\
ClusterName=bigtraintest
SlurmctldHost={hostname}(127.0.0.1)
SlurmctldPort={ports.controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={options.requeue_seconds}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait={options.kill_seconds}
SlurmdTimeout={options.node_timeout}
SlurmctldTimeout=10
MessageTimeout={options.message_timeout}
TCPTimeout=2
InactiveLimit=0
MinJobAge={options.keep_seconds}
Waittime=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main {all_nodes} Default=YES PriorityTier=1 PreemptMode=REQUEUE {grace}
PartitionName=cancel {all_nodes} PriorityTier=1 PreemptMode=CANCEL {grace}
PartitionName=urgent {all_nodes} PriorityTier=10 PreemptMode=OFF
"""
