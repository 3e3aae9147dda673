"""The checks of one node that need no ranks: packages, config, GPUs, disks, corpora. No torch.

The node's agent runs them. Each check runs in a thread of its own with a time limit, because a disk
or a driver that hangs must not block the other checks.
"""

import hashlib
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bigtrain.config.file_errors import is_bad_input
from launcher.preflight.gpus import check_gpus

PACKAGES = ("bigtrain", "torch", "deepspeed", "megatron-core", "numpy")
LIMIT_SECONDS = 30.0
"""Limit of each check; a check that takes longer counts as a problem of the node."""
READ_BYTES = 1 << 20
MIB, GIB = 1 << 20, 1 << 30

Check = Callable[[Mapping[str, Any]], Any]


class CheckError(ValueError):
    """A check found a problem of the node; the message is one line."""

    def __init__(self, message: str, *, is_temporary: bool = False) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


def _file_error(message: str, error: OSError) -> CheckError:
    return CheckError(f"{message}: {error.strerror or error}", is_temporary=not is_bad_input(error))


def run_checks(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Runs all checks at the same time.

    Args:
        arguments: JSON values; a check whose arguments are missing checks nothing.
            ``config``: path of the config, whose content must be the same on all nodes.
            ``gpus``: number of GPUs that the node must have.
            ``folders``: folders that the run writes to, each ``{"path", "bytes"}`` with the bytes
            that must be free.
            ``files``: files that must be the same, each ``{"path", "sha256"}``.
            ``tars``: large files of which a part is read, each ``{"path", "bytes"}`` with the size.
            ``limit_seconds``: limit of each check.
            ``only_clock``: true if nothing is checked, so that the answer comes at once.

    Returns:
        ``time``, the node's clock in seconds since the epoch at the end, and ``checks``: for each
        check its ``value``, its ``seconds`` and its ``problem``, which is empty if there is none,
        and whether it ``is_temporary``.
    """
    limit = float(arguments.get("limit_seconds", LIMIT_SECONDS))
    wanted = {} if arguments.get("only_clock") else CHECKS
    results = {name: _Running(check, arguments) for name, check in wanted.items()}
    deadline = time.monotonic() + limit
    checks = {name: running.result(deadline, limit) for name, running in results.items()}
    return {"time": time.time(), "checks": checks}


class _Running:
    """A check in its thread."""

    def __init__(self, check: Check, arguments: Mapping[str, Any]) -> None:
        self._check, self._arguments = check, arguments
        self._started = time.monotonic()
        self._result: dict[str, Any] | None = None
        # A daemon thread, so that the agent can end while a disk hangs.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        value, problem, is_temporary = None, "", False
        try:
            value = self._check(self._arguments)
        except (ValueError, OSError) as error:
            problem = " ".join(str(error).split())
            is_temporary = getattr(error, "is_temporary", isinstance(error, OSError))
        except Exception as error:  # An error of the check itself must not look like a good node.
            problem = f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - self._started, 3)
        self._result = {
            "value": value,
            "problem": problem,
            "seconds": seconds,
            "is_temporary": is_temporary,
        }

    def result(self, deadline: float, limit: float) -> dict[str, Any]:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._result is not None:
            return self._result
        problem = f"no answer within {limit:g} s"
        return {"value": None, "problem": problem, "seconds": limit, "is_temporary": True}


def _check_versions(_arguments: Mapping[str, Any]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _check_config(arguments: Mapping[str, Any]) -> str | None:
    return _sha256(Path(arguments["config"])) if "config" in arguments else None


def _check_gpus(arguments: Mapping[str, Any]) -> Any:
    return check_gpus(int(arguments.get("gpus", 0)))


def _check_folders(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Free space of each folder, after a file was written there."""
    return {
        folder["path"]: f"{_check_folder(Path(folder['path']), int(folder['bytes'])) / GIB:.1f} GiB"
        for folder in arguments.get("folders", ())
    }


def _check_folder(folder: Path, needed: int) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".bigtrain-check-") as file:
            file.write(bytes(MIB))
            file.flush()
            os.fsync(file.fileno())
        space = os.statvfs(folder)
    except OSError as error:
        raise _file_error(f"{folder} is not writable", error) from None
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise CheckError(
            f"{folder} has {free / GIB:.1f} GiB free, but the checkpoints that are kept need "
            f"{needed / GIB:.1f} GiB; free some, or lower checkpoint.keep_last"
        )
    return free


def _check_data(arguments: Mapping[str, Any]) -> str:
    """Manifests and tokenizer are the expected ones, and the tars can be read."""
    files, tars = arguments.get("files", ()), arguments.get("tars", ())
    for file in files:
        found = _sha256(Path(file["path"]))
        if found != file["sha256"]:
            raise CheckError(
                f"{file['path']} has sha256 {found[:12]}, but {file['sha256'][:12]} when the run "
                "was submitted"
            )
    for tar in tars:
        _read_part(Path(tar["path"]), int(tar["bytes"]))
    return f"{len(files)} files, {len(tars)} tars"


def _read_part(path: Path, size: int) -> None:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise CheckError(f"{path} has {found} bytes instead of {size}")
            start = max(0, size // 2 - READ_BYTES // 2)
            if not os.pread(file.fileno(), READ_BYTES, start) and size:
                raise CheckError(f"{path} ends before byte {start}")
    except OSError as error:
        raise _file_error(str(path), error) from None


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise _file_error(str(path), error) from None


CHECKS: dict[str, Check] = {
    "versions": _check_versions,
    "config": _check_config,
    "gpus": _check_gpus,
    "folders": _check_folders,
    "data": _check_data,
}
