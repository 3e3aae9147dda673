"""The only module of the launcher that reads or sets environment variables."""

import os
from pathlib import Path

TOKEN_VARIABLE = "BIGTRAIN_JOB_TOKEN"


def read_environment() -> dict[str, str]:
    """Copies the environment variables of this process."""
    return dict(os.environ)


def rank_environment() -> dict[str, str]:
    """The variables of this agent that its ranks inherit: all but the job's token."""
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}


def read_job_token() -> str:
    """The token with which the agents of a job identify themselves; empty if there is none."""
    return os.environ.get(TOKEN_VARIABLE, "")


def read_slurm_variable(name: str) -> str | None:
    """A variable that SLURM sets, without its prefix, such as JOB_ID; None if it is not set."""
    return os.environ.get(f"SLURM_{name}") or os.environ.get(f"SLURMD_{name}") or None


def count_usable_cores() -> int:
    """Counts the cores that this process may use; under SLURM they may be fewer than all cores."""
    return len(os.sched_getaffinity(0))


def read_rank() -> int:
    """The number of the rank that this process is to become."""
    return int(os.environ["RANK"])


def set_rank_files(error_file: Path, stacks_file: Path) -> None:
    """Sets the files of this rank, where torchrun gave all ranks the same environment."""
    os.environ["BIGTRAIN_ERROR_FILE"] = str(error_file)
    os.environ["BIGTRAIN_STACKS_FILE"] = str(stacks_file)
