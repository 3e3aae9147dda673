"""One attempt at a run: resume, take the remaining steps, validate and save, record the end."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.distributed as dist

from bigtrain.checkpoint.owner import check_owner
from bigtrain.checkpoint.step_folders import step_of
from bigtrain.config import RunConfig
from bigtrain.environment import read_supervision
from bigtrain.health.heartbeat import Heartbeat, Phase
from bigtrain.parallel.groups import is_true_on_any_rank, on_rank_zero
from bigtrain.runs.automatic_rewind import checkpoint_steps, plan_rewind
from bigtrain.runs.resume_checks import open_checkpoints
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.wandb_id import read_or_create_wandb_id
from bigtrain.track.tracker import Trackers
from bigtrain.train.attempt_record import StatusWriter, begin_attempt, lock_run
from bigtrain.train.divergence import describe_skipped, divergence_error
from bigtrain.train.rank_times import open_rank_times, render_straggler
from bigtrain.train.saves import Saves
from bigtrain.train.sinks import open_trackers, rewind_figures, step_figures
from bigtrain.train.start_point import restore_trainer
from bigtrain.train.step_reducers import CombinedReducers
from bigtrain.train.stop import StopFlag
from bigtrain.train.trainer import Progress, StepResult, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: ``finished`` (all steps taken) or ``stopped`` (on request)."""

    state: str
    step: int
    checkpoint: str | None
    """The newest checkpoint, a folder or a URL; None if nothing was loaded or saved."""


def stop_before_load(config: RunConfig, stop: StopFlag) -> Outcome:
    """Ends an attempt that was asked to stop before it began; every rank calls it.

    Raises:
        RankRefusedError: Another process trains this run.
    """
    folder, reason = RunFolder(config.run_dir), f"by {stop.description or 'another rank'}"

    def record() -> int:
        if not folder.path.is_dir():
            return 0
        lock_run(folder, config)
        return StatusWriter(folder).keep(state="stopped", reason=reason)

    step = on_rank_zero(record)
    stop.clear_file()
    log.info("stopped %s before a checkpoint was loaded; the same command resumes the run", reason)
    return Outcome(state="stopped", step=step, checkpoint=None)


class Attempt:
    """One attempt at a run; the same on every rank, but only rank 0 writes into the run folder."""

    def __init__(
        self,
        trainer: Trainer,
        *,
        stop: StopFlag,
        accept_changes: Sequence[str],
        heartbeat: Heartbeat,
    ) -> None:
        """Restores the state of the run, and records that an attempt begins.

        Raises:
            RankRefusedError: Another process trains this run.
            ConfigError: The newest checkpoint, or the folder of checkpoints, is of another run.
            CheckpointError: The run has checkpoints, and none can be read.
        """
        self._trainer, self._config, self._stop = trainer, trainer.config, stop
        self._heartbeat = heartbeat
        self._is_rank_zero = dist.get_rank() == 0
        self._last: StepResult | None = None
        folder = self._folder = RunFolder(self._config.run_dir)
        self._status = StatusWriter(folder)
        on_rank_zero(lambda: lock_run(folder, self._config))
        checkpoints = self._checkpoints = on_rank_zero(lambda: open_checkpoints(self._config))
        on_rank_zero(lambda: check_owner(self._config, checkpoints))
        start = restore_trainer(trainer, folder, checkpoints, accept_changes=accept_changes)
        self._number, self._wandb_id = on_rank_zero(
            lambda: (
                begin_attempt(
                    folder, checkpoints, self._config, start=start, step=self._progress.step
                ),
                read_or_create_wandb_id(folder.path),
            )
        )
        self._saves = Saves(
            trainer,
            checkpoints,
            attempt=self._number,
            wandb_id=self._wandb_id,
            started_from=start.checkpoint if start.is_own else None,
            is_rank_zero=self._is_rank_zero,
        )
        self._began_at = self._progress.step
        self._rank_times = open_rank_times(trainer, node=read_supervision().node)
        self._write_status("running")

    def run(self) -> Outcome:
        """Takes the remaining steps; validates and saves when it is due."""
        if self._is_complete:
            log.info("the run has taken all its steps; raise train.steps, or give another name")
        trackers = self._open_trackers()
        state, reason = "failed", None
        try:
            if not is_true_on_any_rank(self._stop.is_raised(), self._trainer.device):
                self._take_steps(trackers)
            state = "finished" if self._is_complete else "stopped"
            reason = None if self._is_complete else f"by {self._stop.description or 'another rank'}"
            self._stop.clear_file()
            if reason is not None:
                log.info("stopped %s; the same command resumes the run", reason)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._end(trackers, state, reason)
        newest = self._saves.newest
        return Outcome(
            state=state,
            step=self._progress.step,
            checkpoint=None if newest is None else str(newest),
        )

    def _take_steps(self, trackers: Trackers) -> None:
        self._heartbeat.enter(Phase.TRAIN, step=self._progress.step)
        epochs = self._trainer.data.epochs(self._progress.samples)
        reducer = CombinedReducers([r for r in (self._saves.saver, self._rank_times) if r])
        for result in self._trainer.steps(self._stop.is_raised, reducer=reducer):
            self._last = result
            self._heartbeat.complete_step(result.progress.step, seconds=result.seconds.total)
            _log_new_epochs(epochs, result)
            epochs = result.epochs
            skipped_updates = self._trainer.guard.skipped_updates
            figures = step_figures(result, skipped_updates=skipped_updates)
            if self._rank_times is not None:
                figures |= self._rank_times.figures
            trackers.record("train", result.progress.step, figures)
            self._report_stragglers(trackers)
            self._saves.report_ended(trackers)
            self._report_skipped(result, trackers)
            self._write_status("running")
            # A run that was asked to stop saves without validating: it may be killed soon.
            if self._is_due(self._config.validation.every) and not self._stops_early(result):
                self._validate(trackers)
            if self._is_due(self._config.checkpoint.every) or result.stop:
                with self._heartbeat.during(Phase.SAVE):
                    self._saves.save(trackers, is_last=result.stop or self._is_complete)
            if result.stop:
                break

    @property
    def _progress(self) -> Progress:
        return self._trainer.progress

    @property
    def _is_complete(self) -> bool:
        return self._progress.step >= self._config.train.steps

    def _stops_early(self, result: StepResult) -> bool:
        return result.stop and not self._is_complete

    def _is_due(self, every: int) -> bool:
        return self._is_complete or self._progress.step % every == 0

    def _open_trackers(self) -> Trackers:
        if not self._is_rank_zero:
            return Trackers([])
        trackers = open_trackers(
            self._config,
            self._folder,
            attempt=self._number,
            wandb_id=self._wandb_id,
            first_step=self._progress.step,
        )
        for rewind in self._folder.rewinds_before(self._number):
            trackers.record("rewind", self._progress.step, rewind_figures(rewind))
        return trackers

    def _validate(self, trackers: Trackers) -> None:
        if not self._trainer.data.validation_sources:
            return
        with self._heartbeat.during(Phase.VALIDATE), self._trainer.between_steps("validation"):
            figures = self._trainer.validate(on_batch=self._heartbeat.beat)
            trackers.record("validation", self._progress.step, figures)

    def _report_skipped(self, result: StepResult, trackers: Trackers) -> None:
        """Logs a warning if the update was skipped.

        Raises:
            DivergedError: ``guard.stop_after`` updates in a row were skipped.
        """
        if result.skipped is None:
            return
        step, guard = result.progress.step, self._trainer.guard
        log.warning("step %d: the update was skipped: %s", step, describe_skipped(result))
        if not guard.must_stop:
            return
        first_skipped = step - guard.skipped_in_a_row + 1
        self._saves.finish(trackers)  # The run may go back to the checkpoint being written.
        saved = on_rank_zero(lambda: checkpoint_steps(self._checkpoints))
        newest = self._saves.newest
        raise divergence_error(
            result,
            run=self._folder.path,
            in_a_row=guard.skipped_in_a_row,
            first_skipped=first_skipped,
            checkpoint_step=max((s for s in saved if s < first_skipped), default=0),
            rewind=plan_rewind(
                saved,
                first=first_skipped,
                last=step,
                steps_around=self._config.guard.rewind_steps,
                began_at=self._began_at,
                saved_step=0 if newest is None else step_of(newest),
            ),
        )

    def _report_stragglers(self, trackers: Trackers) -> None:
        """Names the ranks that have become slow; on rank 0."""
        times, step = self._rank_times, self._progress.step
        for found in [] if times is None else times.pop_stragglers():
            nodes = times.nodes_of(found)
            log.warning("step %d: %s", step, render_straggler(found, nodes=nodes))
            values = {"rank": found.ranks[0], "node": nodes, "ratio": round(found.ratio, 3)}
            self._status.record_event("straggler", **values, ranks=[*found.ranks], step=step)
            trackers.record("straggler", step, values)

    def _write_status(self, state: str, reason: str | None = None) -> None:
        if self._is_rank_zero:
            self._status.write(
                state,
                self._progress,
                last=self._last,
                checkpoint=self._saves.newest,
                reason=reason,
            )

    def _end(self, trackers: Trackers, state: str, reason: str | None) -> None:
        """Records the end, then waits for the sinks and for what is left of a save."""
        self._heartbeat.enter(Phase.END)
        # The record comes first: wandb may still be at work when the process is killed.
        self._write_status(state, reason)
        if self._is_rank_zero:
            self._status.end_attempt(
                self._number, state=state, step=self._progress.step, reason=reason
            )
        trackers.finish(state)
        self._saves.close()


def _log_new_epochs(before: Mapping[str, float], now: StepResult) -> None:
    for name, epochs in now.epochs.items():
        if int(epochs) > int(before[name]):
            log.info(
                "step %d: %s was read completely; epoch %d begins",
                *(now.progress.step, name, int(epochs) + 1),
            )
