"""Explains in one line why a SLURM command failed, and what to do. Pure."""

import re
from collections.abc import Sequence


class SlurmError(ValueError):
    """A SLURM command failed; the message is one line and names the remedy."""


class SlurmMissingError(SlurmError):
    """SLURM's commands are not installed here, or not configured."""


class SlurmUnavailableError(SlurmError):
    """SLURM's controller does not answer; the same command may succeed later."""


class SlurmTimeoutError(SlurmUnavailableError):
    """SLURM's controller took too long; the request may have taken effect, or may still do so."""


class JobUnknownError(SlurmError):
    """SLURM does not know the job: it never existed, or ended a while ago."""


_NOISE = re.compile(r"^(?:\w+: )?(?:error: |fatal: )?")
_CAUSES: tuple[tuple[str, type[SlurmError], str], ...] = (
    (
        r"[Tt]imed out",
        SlurmTimeoutError,
        "SLURM's controller is overloaded; the request may have taken effect, or may still do so",
    ),
    (
        r"Unable to contact slurm controller|Connection refused|"
        r"Unexpected message received|Communication connection failure",
        SlurmUnavailableError,
        "SLURM's controller does not answer; jobs that run are not affected. Try again in a "
        "minute, and tell the administrators if it lasts (`scontrol ping`)",
    ),
    (
        r"configuration source|slurm\.conf|fetch_config",
        SlurmMissingError,
        "SLURM's commands are installed, but this machine is not part of a cluster; run this on a "
        "login node of the cluster",
    ),
    (
        r"Invalid job id specified|Unable to requeue|No such job",
        JobUnknownError,
        "SLURM does not know this job: it ended a while ago",
    ),
    (
        r"[Ii]nvalid partition",
        SlurmError,
        "set partition in the cluster profile to one that `sinfo -s` lists",
    ),
    (
        r"account or account/partition combination|Invalid account",
        SlurmError,
        "set account (and qos) in the cluster profile; `sacctmgr show assoc` lists yours",
    ),
    (r"[Ii]nvalid qos", SlurmError, "set qos in the cluster profile, or leave it out"),
    (
        r"generic resource|GRES|gres",
        SlurmError,
        "set gpus_per_node, gpu_type or gpu_request in the cluster profile to what "
        "`sinfo -o '%P %G'` lists",
    ),
    (
        r"Requested time limit|time limit is invalid|Invalid time limit|--time",
        SlurmError,
        "set time in the cluster profile to at most the partition's limit, which `sinfo -s` lists",
    ),
    (
        r"Requested node configuration is not available|Node count specification invalid|"
        r"More processors requested",
        SlurmError,
        "no nodes of the partition offer what the cluster profile asks for; compare with "
        "`scontrol show node`",
    ),
    (
        r"Invalid feature specification",
        SlurmError,
        "set constraint in the cluster profile to features that `sinfo -o '%P %f'` lists",
    ),
    (r"[Rr]eservation", SlurmError, "set reservation in the cluster profile, or leave it out"),
    (
        r"invalid node name|Invalid node name",
        SlurmError,
        "a node in exclude, or one that a run had excluded, does not exist; correct the cluster "
        "profile or excluded-nodes.json",
    ),
    (
        r"unrecognized option|[Ii]nvalid .*option",
        SlurmError,
        "correct sbatch in the cluster profile; each entry is the text after #SBATCH",
    ),
    (
        r"violates accounting/QOS policy|AssocGrp|QOSMax|MaxSubmit",
        SlurmError,
        "the account's or QOS's limits do not allow this job; ask for less, or wait for other jobs",
    ),
    (r"Access/permission denied|Permission denied", SlurmError, "the job belongs to someone else"),
)


def explain_failure(command: Sequence[str], exit_code: int, stderr: str) -> SlurmError:
    """Makes the error for a SLURM command that failed.

    Args:
        command: The words of the command.
        exit_code: Its exit code.
        stderr: What it wrote to stderr, or to stdout where there was nothing.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    text = "; ".join(dict.fromkeys(_NOISE.sub("", line) for line in lines[-3:]))
    shown = " ".join(command[:3])
    said = f"{shown}: {text}" if text else f"{shown} failed with exit code {exit_code}"
    for pattern, kind, remedy in _CAUSES:
        if re.search(pattern, stderr):
            if kind is SlurmMissingError:  # It reports each place where it looked.
                said = f"{shown}: {text.rpartition('; ')[2]}"
            return kind(f"{said}: {remedy}")
    return SlurmError(said)
