"""Records how a launched attempt ended if its rank 0 could not, or lacks the cause. No torch.

A killed rank writes nothing, and the other ranks only see a lost connection. The launcher sees how
each rank ended.
"""

import json
import logging
import socket
from typing import Any, Protocol

from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_lock import RunBusyError, run_lock
from bigtrain.track.json_lines import read_lines
from data_tools.files import write_file

log = logging.getLogger(__name__)


class Failure(Protocol):
    """The failure that ended a launch, as the launcher reports it."""

    @property
    def rank(self) -> int:
        """The rank that failed first."""

    @property
    def message(self) -> str:
        """The cause, in one line."""


class LaunchEnd(Protocol):
    """How the ranks of a launch on this machine ended, as the launcher reports it."""

    @property
    def failure(self) -> Failure | None:
        """The failure that ended it; None if there was none."""

    @property
    def stop_signal(self) -> str | None:
        """The signal that ended it, such as Ctrl-C; None if none did."""

    @property
    def rank_zero_pid(self) -> int | None:
        """The process id that rank 0 had, on this machine."""


def record_end(folder: RunFolder, launch: LaunchEnd) -> None:
    """Writes how an attempt ended into ``status.json`` and ``attempts.jsonl``, if that is missing.

    Keeps the end that rank 0 recorded, unless rank 0 only reported the failure of another rank.
    Never changes an attempt of another launcher. If the files cannot be written, a warning is
    logged.

    Args:
        folder: The run folder.
        launch: How its ranks ended.
    """
    ended_well = launch.failure is None and launch.stop_signal is None
    if ended_well or not folder.attempts.is_file():
        return
    try:
        with run_lock(folder.path):
            _record_end(folder, launch)
    except RunBusyError:
        return  # A newer attempt has begun; the status is that attempt's.
    except OSError as error:
        log.warning("%s: how the run ended was not written: %s", folder.path, error)


def _record_end(folder: RunFolder, launch: LaunchEnd) -> None:
    failure, stopped_by = launch.failure, launch.stop_signal
    events = list(read_lines(folder.attempts))
    start = next((event for event in reversed(events) if event.get("event") == "start"), None)
    rank_zero = (launch.rank_zero_pid, socket.gethostname())
    if start is None or (start.get("process"), start.get("host")) != rank_zero:
        return  # The launch ended before its attempt began.
    end = _find_end(events, start["attempt"])
    reason = _reason(failure, stopped_by, ended=end is not None)
    if reason is not None:
        _write_failure(folder, start, end, reason, rank=None if failure is None else failure.rank)


def record_failed_attempt(
    folder: RunFolder, *, attempt: int, reason: str, rank: int | None
) -> None:
    """Writes the end of an attempt that a supervisor watched, as `record_end` does.

    Args:
        folder: The run folder.
        attempt: Number of the attempt.
        reason: Why it ended, in one line.
        rank: The rank that failed first; None if no single rank did.
    """
    try:
        with run_lock(folder.path):
            events = list(read_lines(folder.attempts))
            starts = [event for event in events if event.get("event") == "start"]
            if starts and starts[-1].get("attempt") == attempt:
                _write_failure(folder, starts[-1], _find_end(events, attempt), reason, rank=rank)
    except (RunBusyError, OSError) as error:
        log.warning("%s: how the attempt ended was not written: %s", folder.path, error)


def record_final_state(folder: RunFolder, *, state: str, reason: str) -> None:
    """Writes why a run does not continue by itself into ``status.json``.

    Args:
        folder: The run folder.
        state: ``held`` or ``failed``.
        reason: One line.

    Raises:
        RunBusyError: Another process trains the run.
        OSError: The file cannot be written.
    """
    with run_lock(folder.path):
        folder.write_status(**{"step": 0, **folder.load_status(), "state": state, "reason": reason})


def _write_failure(
    folder: RunFolder,
    start: dict[str, Any],
    end: dict[str, Any] | None,
    reason: str,
    *,
    rank: int | None,
) -> None:
    """Writes a failure, unless rank 0 recorded a good end, or its own failure was the first."""
    if end is not None and (end.get("state") != "failed" or rank == 0):
        return
    status = folder.load_status()
    step = status.get("step", start.get("step", 0))
    folder.write_status(**{**status, "state": "failed", "step": step, "reason": reason})
    if end is None:
        folder.end_attempt(start["attempt"], state="failed", step=step, reason=reason)
    else:
        _replace_event(folder, end, {**end, "reason": reason})


def _find_end(events: list[dict[str, Any]], attempt: int) -> dict[str, Any] | None:
    ends = (event for event in events if event.get("event") == "end")
    return next((event for event in ends if event.get("attempt") == attempt), None)


def _reason(failure: Failure | None, stopped_by: str | None, *, ended: bool) -> str | None:
    if failure is not None:
        return f"rank {failure.rank} failed first: {failure.message}"
    if stopped_by is not None and not ended:
        return f"killed after {stopped_by}, before it had saved"
    return None


def _replace_event(folder: RunFolder, old: dict[str, Any], new: dict[str, Any]) -> None:
    lines = folder.attempts.read_text(encoding="utf-8").splitlines()
    replaced = (json.dumps(new) if line == json.dumps(old) else line for line in lines)
    write_file(folder.attempts, "".join(f"{line}\n" for line in replaced).encode())
