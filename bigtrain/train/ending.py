"""How a launched attempt ended, where its rank 0 could not say so or did not know. No torch.

A rank that is killed says nothing, and the others only that they lost it. The launcher knows.
"""

import json
import logging
import socket
from typing import Any, Protocol

from bigtrain.track.json_lines import read_lines
from bigtrain.train.run_folder import RunBusyError, RunFolder, write_atomically

log = logging.getLogger(__name__)


class Failure(Protocol):
    """The failure that ended a job, as the launcher reports it."""

    @property
    def rank(self) -> int:
        """The rank that failed first."""

    @property
    def message(self) -> str:
        """What it died of, in one line."""


class JobEnd(Protocol):
    """How a job ended, as the launcher reports it."""

    @property
    def failure(self) -> Failure | None:
        """The failure that ended it; None if there was none."""

    @property
    def stop_signal(self) -> str | None:
        """The signal that ended it, such as Ctrl-C; None if none did."""

    @property
    def rank_zero_pid(self) -> int | None:
        """The process id that rank 0 had, on this machine."""


def record_end(folder: RunFolder, job: JobEnd) -> None:
    """Writes into ``status.json`` and ``attempts.jsonl`` how an attempt ended, if that is missing.

    Keeps the end that rank 0 recorded, unless rank 0 only reported the failure of another rank. An
    attempt of another launcher is never touched. If the disk takes no writes, a warning is logged.

    Args:
        folder: The run's.
        job: How its ranks ended.
    """
    nothing_to_say = job.failure is None and job.stop_signal is None
    if nothing_to_say or not folder.attempts.is_file():
        return
    try:
        with folder.locked():
            _record_end(folder, job)
    except RunBusyError:
        return  # A newer attempt has begun; the folder tells of that one.
    except OSError as error:
        log.warning("%s: how the run ended was not written: %s", folder.path, error)


def _record_end(folder: RunFolder, job: JobEnd) -> None:
    failure, stopped_by = job.failure, job.stop_signal
    events = list(read_lines(folder.attempts))
    start = next((event for event in reversed(events) if event.get("event") == "start"), None)
    rank_zero = (job.rank_zero_pid, socket.gethostname())
    if start is None or (start.get("process"), start.get("host")) != rank_zero:
        return  # This job ended before its attempt began.
    attempt = start["attempt"]
    end = next((e for e in events if e.get("event") == "end" and e.get("attempt") == attempt), None)
    reason = _reason(failure, stopped_by, ended=end is not None)
    is_echo = end is not None and end.get("state") == "failed" and failure and failure.rank != 0
    if reason is None or not (end is None or is_echo):
        return
    status = _load_status(folder)
    step = status.get("step", start.get("step", 0))
    folder.write_status(**{**status, "state": "failed", "step": step, "reason": reason})
    if end is None:
        folder.end_attempt(attempt, state="failed", step=step, reason=reason)
    else:
        _replace_event(folder, end, {**end, "reason": reason})


def _reason(failure: Failure | None, stopped_by: str | None, *, ended: bool) -> str | None:
    if failure is not None:
        return f"rank {failure.rank} failed first: {failure.message}"
    if stopped_by is not None and not ended:
        return f"killed after {stopped_by}, before it had saved"
    return None


def _load_status(folder: RunFolder) -> dict[str, Any]:
    try:
        status: dict[str, Any] = json.loads(folder.status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in status.items() if key != "time"}


def _replace_event(folder: RunFolder, old: dict[str, Any], new: dict[str, Any]) -> None:
    lines = folder.attempts.read_text(encoding="utf-8").splitlines()
    replaced = (json.dumps(new) if line == json.dumps(old) else line for line in lines)
    write_atomically(folder.attempts, "".join(f"{line}\n" for line in replaced))
