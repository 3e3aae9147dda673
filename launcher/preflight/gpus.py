"""Checks that a node's GPUs are present, idle and without memory errors, with nvidia-smi."""

import subprocess
from typing import Any

from launcher.environment import read_environment

IDLE_MIB = 1024
"""Memory of a GPU that the driver and its tools may use while no program does."""
_FIELDS = ("index", "uuid", "memory.used", "ecc.errors.uncorrected.volatile.total")
LIMIT_SECONDS = 25.0


class GpuError(ValueError):
    """The GPUs of the node must not be used; the message is one line."""


def check_gpus(expected: int) -> list[dict[str, Any]] | str:
    """Reads the state of the GPUs that this job may use.

    Args:
        expected: GPUs that the node must have; with 0, nothing is checked.

    Returns:
        The figures of each GPU.

    Raises:
        GpuError: GPUs are missing, are in use, or have uncorrectable memory errors.
    """
    if expected == 0:
        return "no GPUs are requested"
    rows = [_parse_row(row) for row in _query("gpu", _FIELDS)]
    if len(rows) < expected:
        raise GpuError(f"{len(rows)} GPUs of {expected}; see `nvidia-smi` and `dmesg` for an Xid")
    used_by: dict[str, list[str]] = {}
    for uuid, pid, name in _query("compute-apps", ("gpu_uuid", "pid", "process_name")):
        used_by.setdefault(uuid, []).append(f"{pid} ({name})")
    for row in rows:
        gpu, programs = f"GPU {row['index']}", used_by.get(row["uuid"])
        if programs:
            raise GpuError(f"{gpu} is used by process {', '.join(programs)}")
        if (row["memory_mib"] or 0) > IDLE_MIB:
            raise GpuError(f"{gpu} has {row['memory_mib']} MiB in use, though no program runs")
        if row["uncorrected_errors"]:
            raise GpuError(f"{gpu} has {row['uncorrected_errors']} uncorrectable memory errors")
    return rows


def _query(what: str, fields: tuple[str, ...]) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    if visible := read_environment().get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible}")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise GpuError("nvidia-smi is missing, so the GPUs cannot be checked") from None
    except subprocess.TimeoutExpired:
        raise GpuError(f"nvidia-smi gave no answer within {LIMIT_SECONDS:g} s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise GpuError(f"nvidia-smi ended with code {done.returncode}: {said[:200]}")
    # The last field, the name of a program, may contain commas.
    rows = [line.split(",", len(fields) - 1) for line in done.stdout.splitlines() if line.strip()]
    if any(len(row) != len(fields) for row in rows):
        raise GpuError(f"nvidia-smi printed other fields than {', '.join(fields)}: {rows[0]}")
    return [[word.strip() for word in row] for row in rows]


def _parse_row(row: list[str]) -> dict[str, Any]:
    index, uuid, memory, errors = row
    return {
        "index": index,
        "uuid": uuid,
        "memory_mib": _number(memory),
        "uncorrected_errors": _number(errors),
    }


def _number(text: str) -> int | None:
    """A number; None if the GPU does not report the value, such as ``[N/A]``."""
    return int(text) if text.isdigit() else None
