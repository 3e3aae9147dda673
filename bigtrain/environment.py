"""The only place where bigtrain reads or sets environment variables."""

import os
import socket
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


@dataclass(frozen=True, slots=True)
class Supervision:
    """The files through which the launcher watches this rank, and its name for this machine."""

    heartbeat_socket: Path | None
    """The launcher's socket for heartbeats; None if it expects none."""
    stacks_file: Path | None
    """The file for the stacks of all threads; None if the launcher does not ask for them."""
    node: str
    """The scheduler's name of this machine; without a scheduler, its host name."""


def read_supervision() -> Supervision:
    """Reads the variables with which a launcher watches its ranks; all may be absent."""
    beats, stacks = (
        os.environ.get(f"BIGTRAIN_{name}") for name in ("HEARTBEAT_SOCKET", "STACKS_FILE")
    )
    return Supervision(
        heartbeat_socket=Path(beats) if beats else None,
        stacks_file=Path(stacks) if stacks else None,
        node=os.environ.get("BIGTRAIN_NODE") or socket.gethostname(),
    )


def record_nccl_calls(env: MutableMapping[str, str] | None = None) -> None:
    """Makes NCCL's flight recorder write which collectives were pending when a rank hung.

    Call it before process groups are made. It does nothing unless the launcher asked for stacks.
    The file `nccl-rank-<r>` beside the stacks file is written when a collective times out, and when
    anything is written to the pipe `nccl-<r>.pipe` in the folder of the heartbeat socket.
    `torch.distributed.flight_recorder.fr_trace` reads it. Variables that the user set are kept.
    """
    env = os.environ if env is None else env
    stacks, socket_file = env.get("BIGTRAIN_STACKS_FILE"), env.get("BIGTRAIN_HEARTBEAT_SOCKET")
    if not stacks:
        return
    # These names work in all versions of torch that have the recorder; 2.13 still reads them.
    env.setdefault("TORCH_NCCL_TRACE_BUFFER_SIZE", "2000")
    env.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    if "TORCH_FR_DUMP_TEMP_FILE" not in env:
        env.setdefault("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", str(Path(stacks).parent / "nccl-rank-"))
    if socket_file:  # torch ends the process if it cannot make the pipe, for example on NFS.
        env.setdefault("TORCH_NCCL_DEBUG_INFO_PIPE_FILE", str(Path(socket_file).parent / "nccl-"))


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

    The time limit of a request is short, because the sink repeats it. File stores, which MLflow no
    longer develops, are allowed.
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
