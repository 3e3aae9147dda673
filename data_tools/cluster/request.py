"""Reads the options --cluster, --tasks, --workers, --memory and --dry-run, and checks them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bigtrain.config import load_config
from bigtrain.config.cluster import ClusterConfig
from data_tools.errors import InputError

_MEMORY = re.compile(r"[1-9]\d*[KMGT]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRequest:
    """An array job that a user asks for."""

    cluster: ClusterConfig
    num_parts: int
    workers: int | None = None
    """Processes of each part; the cores of a rank in the profile, or 1, when None."""
    memory: str | None = None
    """Memory of each part in SLURM's form; the cluster's default when None."""
    dry_run: bool = False
    """Whether the scripts are shown and nothing is submitted."""

    @property
    def cpus(self) -> int:
        """Processes, and so cores, of each part."""
        return self.workers or self.cluster.cpus_per_rank or 1


def read_request(
    profile: Sequence[str] | None,
    *,
    num_parts: int | None,
    workers: int | None,
    memory: str | None,
    dry_run: bool,
    task: str | None,
) -> ArrayRequest | None:
    """Reads the options of a command.

    Args:
        profile: The profile of the cluster: YAML files and ``key=value``; empty or None without
            the option --cluster.
        num_parts: --tasks.
        workers: --workers, or its counterpart in a recipe, if it is given.
        memory: --memory.
        dry_run: --dry-run.
        task: --task, which does not go together with --cluster.

    Returns:
        None without --cluster.

    Raises:
        InputError: The options do not fit together, or have a value that is not valid.
        ConfigError: The profile is not valid.
    """
    if not profile:
        given = {"--tasks": num_parts, "--memory": memory, "--dry-run": dry_run or None}
        for option in (name for name, value in given.items() if value is not None):
            raise InputError(
                f"{option} is for --cluster: add --cluster PROFILE.yaml, or leave it out"
            )
        return None
    if task is not None:
        raise InputError("--cluster submits all parts: leave out --task, and give --tasks N")
    if num_parts is None or num_parts < 1:
        given_parts = "" if num_parts is None else f" instead of {num_parts}"
        raise InputError(f"--cluster needs the number of parts: give --tasks 64{given_parts}")
    if workers is not None and workers < 1:
        raise InputError(f"workers {workers} must be at least 1")
    if memory is not None and not _MEMORY.fullmatch(memory):
        raise InputError(f"--memory {memory!r} must be a number with K, M, G or T, such as 16G")
    cluster = load_config(profile, ClusterConfig)
    if cluster.scheduler != "slurm":
        raise InputError(
            f"{profile[0]}: scheduler={cluster.scheduler}, but --cluster submits to SLURM; run the "
            "command on each host with --task I/N instead"
        )
    return ArrayRequest(
        cluster=cluster, num_parts=num_parts, workers=workers, memory=memory, dry_run=dry_run
    )
