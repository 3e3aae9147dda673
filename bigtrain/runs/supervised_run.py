"""A run as the supervisor of its job sees it: its config, progress, record and rewinds. No torch.

The supervisor is part of the launcher, which does not know run folders: it calls these methods.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.checkpoint.schema import CheckpointError, StorageError
from bigtrain.checkpoint.step_folders import committed_folders, step_of
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.config_files import load_resolved_config
from bigtrain.config.file_errors import is_bad_input
from bigtrain.config.rewind_plan import RewindPlan
from bigtrain.runs.job_file import load_job
from bigtrain.runs.launch_end import record_failed_attempt, record_final_state
from bigtrain.runs.launch_file import launch_file
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_lock import RunBusyError, check_not_locked
from bigtrain.runs.skip_file import with_skips
from bigtrain.track.json_lines import read_lines

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
LOG_SECONDS = 5.0
"""After waiting this long for the lock of a run, a line is logged."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    attempt: int | None
    """Number of the newest attempt; None if there is none."""
    attempt_step: int
    """Steps that had been taken when the newest attempt began."""
    step: int
    """Step of ``status.json``; 0 if there is none."""
    state: str
    """State of ``status.json``; empty if there is none."""
    saved_step: int
    """Step of the newest complete checkpoint; 0 if there is none."""


class SupervisedTraining:
    """A run folder with the config of a job."""

    def __init__(
        self, run_dir: Path, *, config_name: str, python: str, accept_change: Sequence[str] = ()
    ) -> None:
        """Reads nothing yet.

        Args:
            run_dir: The run folder, an absolute path.
            config_name: Name of the job's resolved config in it.
            python: Interpreter of the ranks.
            accept_change: Keys that may differ from the checkpoint's.
        """
        self.folder = run_dir
        self._run = RunFolder(run_dir)
        self._config_file = run_dir / config_name
        self._python, self._accept_change = python, tuple(accept_change)

    @property
    def log_dir(self) -> Path:
        """The folder of logs and error files."""
        return self._run.logs

    def load_config(self) -> RunConfig:
        """Reads the job's config, with the samples that a rewind skips.

        Raises:
            ConfigError: It cannot be read, or is for another folder.
        """
        config = load_resolved_config(self._config_file)
        if config.run_dir.resolve() != self.folder.resolve():
            raise ConfigError(
                f"{self._config_file}: it is for {config.run_dir}; the folder was moved while its "
                "job waited: launch the run again from its new place"
            )
        return with_skips(config)

    def is_finished(self) -> bool:
        """Whether all steps are taken.

        Raises:
            OSError: The run folder cannot be read.
        """
        status = self._run.load_status(is_strict=True)
        is_finished = status.get("state") == "finished"
        return is_finished and status.get("step", 0) >= self.load_config().train.steps

    def progress(self) -> Progress:
        """How far the run is. Checkpoints that cannot be used count as absent.

        Raises:
            OSError: The run folder or its checkpoints cannot be read, perhaps only for a time.
        """
        starts = [event for event in self._events() if event.get("event") == "start"]
        status = self._run.load_status(is_strict=True)
        return Progress(
            attempt=starts[-1].get("attempt") if starts else None,
            attempt_step=int(starts[-1].get("step") or 0) if starts else 0,
            step=int(status.get("step") or 0),
            state=str(status.get("state", "")),
            saved_step=self._saved_step(),
        )

    def history(self) -> list[dict[str, Any]]:
        """The events since a person last started the run.

        That is since `launch` or `requeue`, and since the end of a job that was not queued again. A
        job that was killed together with its supervisor has recorded no end.
        """
        record = load_job(self.folder)
        first = 0 if record is None else record.earlier_events
        events: list[dict[str, Any]] = []
        for event in self._events()[first:]:
            ended = event.get("event") == "job_end" and event.get("state") != "requeued"
            events = [] if ended else [*events, event]
        return events

    def wait_until_free(
        self, seconds: float, *, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        """Waits until no process holds the lock of the run.

        Args:
            seconds: The longest time.
            is_over: Whether to wait no longer, for example because the job was asked to stop.
        """
        began, is_logged = time.monotonic(), False
        while True:
            try:
                check_not_locked(self.folder)
                return
            except RunBusyError as error:
                waited = time.monotonic() - began
                if waited > seconds or is_over():
                    log.warning("%s", error)  # Rank 0 will refuse to start, with the same message.
                    return
                if waited > LOG_SECONDS and not is_logged:
                    is_logged = True
                    log.warning("%s; waiting for at most %.0f s", error, seconds)
                time.sleep(POLL_SECONDS)

    @contextmanager
    def launch_config(self) -> Iterator[tuple[str, ...]]:
        """Writes the config of an attempt, and returns the command of its ranks.

        Raises:
            ConfigError: The job's config or skip.yaml cannot be read.
        """
        accepted = [word for key in self._accept_change for word in ("--accept-change", key)]
        with launch_file(self.load_config()) as file:
            yield (self._python, "-m", "bigtrain.cli", "train-rank", str(file), *accepted)

    def rewind(self, plan: RewindPlan) -> str:
        """Takes the run back, and lets it skip samples; returns one line.

        Raises:
            RewindError, RunBusyError, ConfigError: The run cannot be rewound.
            OSError: Files could not be used; calling it again completes the rewind.
        """
        # Rewinding needs numpy, which other jobs do not wait for.
        from bigtrain.runs.automatic_rewind import make_planned_rewind
        from bigtrain.runs.rewind import render_rewind

        self.wait_until_free(10)
        try:
            lines = render_rewind(make_planned_rewind(self.folder, plan))
        except StorageError as error:
            if error.is_temporary:
                raise OSError(errno.EIO, str(error)) from error
            raise
        return "; ".join(line.strip() for line in lines[:-1])  # The last is the next command.

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Appends an event to ``attempts.jsonl``, with the time."""
        values = dict(event)
        self._run.record_event(values.pop("event"), **values)

    def record_failure(self, *, attempt: int, reason: str, rank: int | None) -> None:
        """Records how an attempt failed, unless rank 0 has recorded that, or a good end."""
        record_failed_attempt(self._run, attempt=attempt, reason=reason, rank=rank)

    def write_status(self, *, state: str, reason: str) -> None:
        """Writes the final state of the run: ``held`` or ``failed``."""
        try:
            self.wait_until_free(10)
            record_final_state(self._run, state=state, reason=reason)
        except (RunBusyError, OSError) as error:
            log.error("the state %r was not written: %s", state, error)

    def _events(self) -> list[dict[str, Any]]:
        return list(read_lines(self._run.attempts)) if self._run.attempts.is_file() else []

    def _saved_step(self) -> int:
        if not self._run.config.is_file():
            return 0
        try:
            newest = committed_folders(self._run.checkpoints)
        except (CheckpointError, ConfigError, OSError) as error:
            if isinstance(error, OSError) and not is_bad_input(error):
                raise  # If they counted as absent, the run would seem to have made no progress.
            log.warning("the checkpoints cannot be listed: %s", error)
            return 0
        return step_of(newest[0]) if newest else 0
