"""Finds the rank that failed first; when one rank fails, all other ranks fail after it."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.config.rewind_plan import RewindPlan

MESSAGE_LENGTH = 400
LAST_LINE_BYTES = 8192
NOTICE_SECONDS = 0.2  # the end of a rank may be noticed this much later than it happened
CLOCK_SECONDS = 1.0
"""Times of different machines may differ by this much."""

# Words in the messages of gloo, NCCL and sockets about a lost peer.
LOST_PEER_WORDS = (
    "connection",
    "peer",
    "socket",
    "broken pipe",
    "gloo",
    "nccl",
    "timed out",
    "timeout",
)


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """The error file that a failing rank wrote before it ended."""

    message: str
    exit_code: int
    time: float  # seconds since the epoch
    traceback: str = ""
    divergence: RewindPlan | None = None  # set if the loss guard gave up


@dataclass(frozen=True, slots=True)
class RankEnd:
    """The end of one rank's process, as the launcher observed it."""

    rank: int
    code: int  # as in subprocess: the exit code, or the negative number of a signal
    time: float  # seconds since the epoch
    signalled: bool  # a signal from the launcher ended it
    report: ErrorReport | None
    last_line: str | None
    log: Path | None

    @property
    def failed(self) -> bool:
        """Whether the rank failed, and was not just ended by a signal from the launcher.

        A rank that reported an error failed, even if it then hung and had to be killed.
        """
        return self.code != 0 and (self.report is not None or not self.signalled)

    @property
    def failure_time(self) -> float:
        """Time of the report, in seconds since the epoch, or of the end if there is no report."""
        return self.report.time if self.report else self.time


@dataclass(frozen=True, slots=True)
class RankFailure:
    """The failure that ended a job."""

    rank: int
    exit_code: int | None  # None if a signal ended the rank
    signal_name: str | None  # None if no signal ended the rank
    message: str  # one line
    log: Path | None  # None for rank 0, which writes to the launcher's own output


def find_first_failure(ends: Sequence[RankEnd]) -> RankFailure | None:
    """Finds the rank that failed first.

    Failures are ordered by the time of their reports. But a killed rank reports nothing, so another
    rank may be the first to report, about the lost connection; and the clocks of machines differ.
    So if the earliest report is about a lost peer, the rank that failed first is one that a signal
    killed before that, or one that reported an error of its own within a second of it.

    Returns:
        None if no rank failed, or if a rank failed only because a peer was stopped.
    """
    failed = [end for end in ends if end.failed]
    if not failed:
        return None
    first = min(failed, key=lambda end: end.failure_time)
    if is_about_lost_peer(first):
        causes = [end for end in ends if _was_killed_before(end, first) or _explains(end, first)]
        first = min(causes, key=lambda end: end.failure_time, default=first)
    return _describe(first) if first.failed else None


def render_failure(failure: RankFailure) -> str:
    """Renders one line for the user: which rank failed first, why, and where its log is."""
    where = f"Its log: {failure.log}" if failure.log else "Its output is above."
    return f"Rank {failure.rank} failed first: {failure.message.rstrip('.')}. {where}"


def is_about_lost_peer(end: RankEnd) -> bool:
    """Whether a rank failed with a message about a lost connection to another rank."""
    message = (end.report.message if end.report else end.last_line or "").lower()
    return any(word in message for word in LOST_PEER_WORDS)


def load_error_report(path: Path) -> ErrorReport | None:
    """Reads the error file of a rank; None if there is none, or if it is incomplete."""
    try:
        fields = json.loads(path.read_text(errors="replace"))
        return ErrorReport(
            message=str(fields["message"]),
            exit_code=int(fields["exit_code"]),
            time=float(fields["time"]),
            traceback=str(fields.get("traceback", "")),
            divergence=_load_divergence(fields.get("divergence")),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_last_line(log: Path, *, start: int) -> str | None:
    """Reads the last non-blank line of a log, from byte `start` on; None if there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - LAST_LINE_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), None)


def _load_divergence(fields: Any) -> RewindPlan | None:
    if fields is None:
        return None
    names = ("first_skipped", "last_skipped", "checkpoint_step")
    return RewindPlan(*(int(fields[name]) for name in names))


def _was_killed_before(end: RankEnd, other: RankEnd) -> bool:
    delay = 0.0 if end.signalled else NOTICE_SECONDS  # The launcher signals after a failure.
    return end.code < 0 and end.report is None and end.time <= other.time + delay


def _explains(end: RankEnd, other: RankEnd) -> bool:
    """Whether a rank reported an error of its own when, or just after, another lost its peer."""
    is_own = end.failed and end.report is not None and not is_about_lost_peer(end)
    return is_own and end.failure_time <= other.failure_time + CLOCK_SECONDS


def _describe(end: RankEnd) -> RankFailure:
    # If a rank reported an error and then had to be killed, its report has the exit code.
    exit_code = end.report.exit_code if end.report and end.code < 0 else end.code
    name = _name_signal(-exit_code) if exit_code < 0 else None
    message = " ".join(_choose_message(end, name).split())
    return RankFailure(
        rank=end.rank,
        exit_code=None if name else exit_code,
        signal_name=name,
        message=message if len(message) <= MESSAGE_LENGTH else message[:MESSAGE_LENGTH] + "…",
        log=end.log,
    )


def _choose_message(end: RankEnd, signal_name: str | None) -> str:
    if end.report and end.report.message.strip():
        return end.report.message
    if signal_name == "SIGKILL":
        return "killed by SIGKILL, which most often means that memory ran out"
    if signal_name:
        return f"killed by {signal_name}" + (f" after {end.last_line!r}" if end.last_line else "")
    return end.last_line or f"exited with code {end.code}"


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # Real-time signals have no names.
        return f"signal {number}"
