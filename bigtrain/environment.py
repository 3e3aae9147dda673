"""The only place where bigtrain reads or sets environment variables."""

import os
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's rank, and the number of processes of the run."""

    rank: int
    world_size: int
    local_rank: int


class RankVariableError(ValueError):
    """RANK, WORLD_SIZE or LOCAL_RANK has a value that is not valid."""


def read_ranks() -> Ranks:
    """Reads the variables that bigtrain's launcher or torchrun sets; the default is one process.

    Raises:
        RankVariableError: A variable is not a whole number, or RANK is not below WORLD_SIZE.
    """
    rank, world_size, local_rank = (
        _read_count(name, default)
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if rank >= world_size:
        raise RankVariableError(
            f"RANK={rank} is not below WORLD_SIZE={world_size}: start the ranks with "
            "`bigtrain launch` or torchrun, or unset both variables"
        )
    return Ranks(rank=rank, world_size=world_size, local_rank=local_rank)


def _read_count(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise RankVariableError(
            f"{name}={value!r} in the environment is not a whole number: start the ranks with "
            "`bigtrain launch` or torchrun, or unset it"
        )
    return int(value)


def rendezvous_address() -> tuple[str, str]:
    """The address and the port at which the ranks connect; empty if they are not set."""
    return os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")


def read_error_file() -> Path | None:
    """The file in which the launcher expects the reason why this rank failed."""
    name = os.environ.get("BIGTRAIN_ERROR_FILE")
    return Path(name) if name else None


def read_stop_signal() -> str | None:
    """The signal that the launcher received; it forwards Ctrl-C to the ranks as SIGTERM."""
    name = os.environ.get("BIGTRAIN_STOP_SIGNAL_FILE")
    try:
        return Path(name).read_text(encoding="utf-8") if name else None
    except OSError:
        return None


def set_deepspeed_variables(device_type: str, ranks: Ranks) -> None:
    """Sets the variables that DeepSpeed reads; call it before DeepSpeed is imported."""
    os.environ["DS_ACCELERATOR"] = device_type
    os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank))


def enable_huge_pages() -> None:
    """Makes torch allocate large CPU tensors in huge pages; call it before the first tensor."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def requested_threads() -> int | None:
    """The number of threads per rank that the launcher or the user set; None if it is not set."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() and int(value) > 0 else None


def netrc_file() -> Path:
    """The file with the user's passwords for hosts."""
    return Path(os.environ.get("NETRC") or "~/.netrc").expanduser()


def environment_without(prefix: str) -> dict[str, str]:
    """A copy of the environment without the variables that begin with ``prefix``."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefix)}


def set_mlflow_variables() -> None:
    """Sets the defaults of MLflow's client; variables that the user has set are kept.

    A request is given up soon, because the sink repeats it. Its store of files, which MLflow no
    longer develops, is used where the user asks for it.
    """
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"),
        ("MLFLOW_ALLOW_FILE_STORE", "true"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ):
        os.environ.setdefault(name, value)


def quiet_foreign_libraries(env: MutableMapping[str, str] | None = None) -> None:
    """Silences banners and telemetry of other libraries, and prevents the import of wandb.

    megatron-core imports wandb if it is installed, and an error in that import would end the run.
    `track.wandb_process` imports it in a separate process.
    """
    sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]
    env = os.environ if env is None else env
    env.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    env.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    env.setdefault("WANDB_SILENT", "true")
