"""The only module that runs SLURM's commands. Every failure is a `SlurmError` of one line."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.environment import read_environment
from launcher.slurm.errors import (
    JobUnknownError,
    SlurmError,
    SlurmMissingError,
    SlurmTimeoutError,
    SlurmUnavailableError,
    explain_failure,
)

__all__ = [
    "JobUnknownError",
    "Partition",
    "QueuedJob",
    "SlurmError",
    "SlurmMissingError",
    "SlurmTimeoutError",
    "SlurmUnavailableError",
    "cancel_job",
    "check_submission",
    "clean_environment",
    "exclude_nodes",
    "expand_node_list",
    "list_partition_nodes",
    "list_partitions",
    "list_queue",
    "release_hold",
    "release_job_now",
    "requeue_job",
    "show_config",
    "show_job",
    "show_node",
    "show_partition",
    "signal_job",
    "submit_script",
]

TIMEOUT_SECONDS = 60.0
"""Limit for one command; a controller that is down answers after about 30 s."""
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that tell SLURM's commands which cluster to use."""
_DROPPED = re.compile(r"^(?:SLURM|SLURMD|SRUN|SBATCH|SALLOC|PMI|PMIX)_")
_ENDED = {
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"),
    *("DEADLINE", "OUT_OF_MEMORY", "REVOKED"),
}
"""States of jobs that never run again; of a requeued job the state is PENDING or REQUEUED."""
_SEPARATOR = "\x1f"
"""Between the fields of squeue: a control character, which no job's name contains."""
_QUEUE_FIELDS = (
    *("%i", "%T", "%r", "%j", "%u", "%P", "%D", "%N", "%M", "%l", "%L"),
    *("%S", "%V", "%o"),
)


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job in SLURM's queue, as squeue shows it. Texts are empty where squeue has no value."""

    job: str
    """The job's id."""
    state: str
    """Such as PENDING, RUNNING, COMPLETING, REQUEUED."""
    reason: str
    """Why it waits, such as Resources, Priority, PartitionNodeLimit."""
    name: str
    user: str
    partition: str
    num_nodes: int
    nodes: str
    """Its nodes in SLURM's short form, such as n[1-4]."""
    time_used: str
    time_limit: str
    time_left: str
    """Times in SLURM's form, such as 1-02:30:00; `parse_slurm_time` makes seconds of them."""
    start: str
    """When it began or is expected to; local time, ISO form; empty if not known."""
    submitted: str
    command: str
    """The batch script and its arguments."""

    @property
    def is_active(self) -> bool:
        """Whether the job waits, runs or is ending; False once it has ended."""
        return self.state not in _ENDED


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition, as sinfo shows it."""

    name: str
    is_default: bool
    is_up: bool
    time_limit: str
    """The longest time of a job, such as 2-00:00:00 or infinite."""
    num_nodes: int
    """All nodes, whatever their state."""
    num_usable: int
    """Nodes that are not down, drained or failed."""
    cpus: int
    """Fewest cores of its nodes."""
    memory_mb: int
    """Least memory of its nodes, in MiB."""
    gres: tuple[str, ...]
    """Different generic resources of its nodes, such as gpu:h100:8."""


def submit_script(script: Path, *, options: Sequence[str] = ()) -> str:
    """Submits a batch script.

    Args:
        script: The script, an absolute path; squeue shows it as the job's command.
        options: More options for sbatch, such as ``--dependency=afterany:1234``.

    Returns:
        The job's id.
    """
    words = ["sbatch", "--parsable", *options, str(script)]
    answer = _run(words, environment=clean_environment(read_environment(), script.read_text()))
    lines = answer.strip().splitlines()
    job = lines[-1].split(";")[0].strip() if lines else ""
    if not job.isdecimal():
        raise SlurmError(
            f"sbatch answered {answer.strip()[:200]!r}, not a job id; look for the job with "
            "`squeue --me`"
        )
    return job


def check_submission(script_text: str) -> str:
    """Asks SLURM whether it would accept a script, and when the job could begin; submits nothing.

    Returns:
        SLURM's answer: one line with the expected start, processors and nodes.
    """
    environment = clean_environment(read_environment(), script_text)
    words = ["sbatch", "--test-only"]
    answer = _run(words, environment=environment, stdin=script_text, answers_on_stderr=True)
    return " ".join(answer.split())


def list_queue(
    jobs: Sequence[str] = (), *, user: str | None = None, timeout: float = TIMEOUT_SECONDS
) -> list[QueuedJob]:
    """Lists jobs that wait, run or have just ended.

    Args:
        jobs: Only these ids; those that SLURM does not know any more are left out.
        user: Only the jobs of this user; by default all users' jobs.
        timeout: Seconds to wait for the answer.
    """
    words = ["squeue", "--noheader", "--states=all", f"--format={_SEPARATOR.join(_QUEUE_FIELDS)}"]
    # squeue fails if its only job is unknown: ask for the user's jobs and choose from them.
    words += [f"--user={user}"] if user else []
    words += [f"--jobs={','.join(jobs)}"] if jobs else []
    try:
        lines = _run(words, timeout=timeout).split("\n")
    except JobUnknownError:
        return []
    return [_parse_queued(line) for line in lines if line.strip()]


def show_job(job: str) -> dict[str, str]:
    """The fields of a job by name, as ``scontrol show job`` prints them.

    Raises:
        JobUnknownError: SLURM does not know the job.
    """
    return _parse_fields(_run(["scontrol", "--oneliner", "show", "job", job]))


def show_node(node: str) -> dict[str, str]:
    """The fields of a node by name, such as NodeAddr and State."""
    return _parse_fields(_run(["scontrol", "--oneliner", "show", "node", node]))


def show_config() -> dict[str, str]:
    """SLURM's configuration by name, such as PreemptMode and JobRequeue."""
    lines = _run(["scontrol", "show", "config"]).splitlines()
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def show_partition(partition: str) -> dict[str, str]:
    """The fields of a partition by name, such as DefaultTime and PreemptMode."""
    return _parse_fields(_run(["scontrol", "--oneliner", "show", "partition", partition]))


def list_partition_nodes(partition: str) -> tuple[str, ...]:
    """The names of all nodes of a partition."""
    words = ["sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N"]
    return tuple(dict.fromkeys(_run(words).split()))


def expand_node_list(nodes: str) -> tuple[str, ...]:
    """The names in SLURM's short form of a node list: n[1-2] gives n1 and n2."""
    if not nodes:
        return ()
    return tuple(_run(["scontrol", "show", "hostnames", nodes]).split())


def requeue_job(job: str) -> None:
    """Ends a job and puts it into the queue again, with the same id."""
    _run(["scontrol", "requeue", job])


def release_hold(job: str) -> None:
    """Releases a held job, so that SLURM may start it."""
    _run(["scontrol", "release", job])


def release_job_now(job: str) -> None:
    """Lets a requeued job begin at once, without SLURM's delay of two minutes."""
    _run(["scontrol", "update", f"JobId={job}", "StartTime=now"])


def exclude_nodes(job: str, nodes: Sequence[str]) -> None:
    """Replaces the list of nodes that a waiting job must not get."""
    _run(["scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(nodes)}"])


def cancel_job(job: str) -> None:
    """Cancels a job that waits or runs; does nothing if it has ended."""
    try:
        _run(["scancel", job])
    except JobUnknownError:
        return


def signal_job(job: str, signal_name: str, *, batch: bool = False) -> None:
    """Sends a signal to a job.

    Args:
        job: The job's id, or that of a step, such as 1234.0.
        signal_name: Such as USR2.
        batch: Whether the batch script gets it, instead of all steps.
    """
    _run(["scancel", f"--signal={signal_name}", *["--batch"][: int(batch)], job])


def list_partitions() -> list[Partition]:
    """Lists the partitions that this user may see, in SLURM's order."""
    lines = _run(["sinfo", "--noheader", "--all", "--format=%P|%a|%l|%D|%c|%m|%G|%T"]).splitlines()
    groups: dict[str, list[list[str]]] = {}
    for line in lines:
        fields = line.split("|")
        groups.setdefault(fields[0], []).append(fields)
    return [_make_partition(rows) for rows in groups.values()]


def clean_environment(environment: Mapping[str, str], script_text: str) -> dict[str, str]:
    """The environment for sbatch, without variables that would change what the script requests.

    SLURM_* variables of an allocation in which this command runs would apply to the new job, and
    SBATCH_* variables take precedence over the lines of a script. A default account and QOS of the
    user are kept if the script names none.
    """
    kept = {*_KEPT}
    for name, option in (("SBATCH_ACCOUNT", "--account="), ("SBATCH_QOS", "--qos=")):
        if option not in script_text:
            kept.add(name)
    return {
        name: value
        for name, value in environment.items()
        if name in kept or not _DROPPED.match(name)
    }


def _run(
    words: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    answers_on_stderr: bool = False,
    timeout: float = TIMEOUT_SECONDS,
) -> str:
    """Runs a command, and returns what it prints.

    Raises:
        SlurmError: It is not installed, takes too long or fails.
    """
    env = {**(read_environment() if environment is None else environment)}
    # Other values would change how times are printed, and the language of messages.
    env |= {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            words,
            env=env,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except FileNotFoundError:
        raise SlurmMissingError(
            f"{words[0]}: there is no such command here, so SLURM is not installed; run this on a "
            "login node of the cluster, or use scheduler: hosts in the cluster profile"
        ) from None
    except OSError as error:
        raise SlurmMissingError(f"{words[0]} cannot be run: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise SlurmTimeoutError(
            f"{words[0]} did not answer in {timeout:.0f} s: SLURM's controller "
            "is down or overloaded; try again in a minute"
        ) from None
    if done.returncode:
        raise explain_failure(words, done.returncode, done.stderr or done.stdout)
    return done.stderr if answers_on_stderr else done.stdout


def _parse_queued(line: str) -> QueuedJob:
    fields = line.split(_SEPARATOR, len(_QUEUE_FIELDS) - 1)
    values = ["" if value in {"N/A", "(null)", "None", "n/a"} else value for value in fields]
    values += [""] * (len(_QUEUE_FIELDS) - len(values))
    before, count, after = values[:6], values[6], values[7:]
    number = int(count) if count.isdecimal() else 0
    job, state, reason, name, user, partition = before
    return QueuedJob(job, state, reason, name, user, partition, number, *after)


def _parse_fields(text: str) -> dict[str, str]:
    """Fields NAME=VALUE that are separated by blanks; a value may contain blanks."""
    pieces = re.split(r"(?:^|\s+)([A-Z][\w/:]*)=", text.strip())
    return {
        name: "" if value.strip() == "(null)" else value.strip()
        for name, value in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def _make_partition(rows: Sequence[Sequence[str]]) -> Partition:
    name, up, limit = rows[0][:3]
    bad = re.compile(r"down|drain|fail|maint|unknown|future|power(?:ed|ing)_down\b", re.IGNORECASE)
    gres = dict.fromkeys(row[6] for row in rows if row[6] not in {"(null)", ""})
    return Partition(
        name=name.rstrip("*"),
        is_default=name.endswith("*"),
        is_up=up == "up",
        time_limit=limit,
        num_nodes=sum(int(row[3]) for row in rows),
        num_usable=sum(int(row[3]) for row in rows if not bad.search(row[7])),
        cpus=min(int(row[4].rstrip("+")) for row in rows),
        memory_mb=min(int(row[5].rstrip("+")) for row in rows),
        gres=tuple(gres),
    )
