"""What surrounds the loop: resuming, the run folder, checkpoints, sinks, and a clear end."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch.distributed as dist

from bigtrain.checkpoint.owner import check_owner, claim_checkpoints
from bigtrain.checkpoint.retention import clear_unfinished, set_aside
from bigtrain.checkpoint.saver import Saved, Saver
from bigtrain.checkpoint.schema import TrainState
from bigtrain.checkpoint.step_folders import newest_attempt
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.parallel.groups import on_rank_zero
from bigtrain.track.console import ConsoleTracker
from bigtrain.track.metrics_file import MetricsFile
from bigtrain.track.tracker import Tracker, Trackers
from bigtrain.track.wandb_sink import open_wandb
from bigtrain.train.beginning import Beginning, begin_trainer
from bigtrain.train.resume import open_checkpoints
from bigtrain.train.rewind import newest_before
from bigtrain.train.run_folder import RunBusyError, RunFolder
from bigtrain.train.skips import with_skips
from bigtrain.train.stop import StopFlag
from bigtrain.train.trainer import Progress, StepResult, Trainer

log = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """So many updates were passed over that going on is no use."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: ``finished`` (all steps taken) or ``stopped`` (asked to, and saved)."""

    state: str
    step: int
    checkpoint: str
    """The last one, a folder or a URL."""


class Attempt:
    """One attempt at a run; the same on every rank, though rank 0 alone writes the run folder."""

    def __init__(self, trainer: Trainer, *, stop: StopFlag, accept_changes: Sequence[str]) -> None:
        """Puts the trainer where the run stands, and notes that an attempt begins.

        Raises:
            RunBusyError: Another process trains this run.
            ConfigError: The newest checkpoint is of another run, or belongs to one.
            CheckpointError: It cannot be read.
        """
        self._trainer, self._config, self._stop = trainer, trainer.config, stop
        self._folder = RunFolder(self._config.run_dir)
        self._saved: Folder | None = None
        self._last: StepResult | None = None
        on_rank_zero(self._lock)
        self._checkpoints = on_rank_zero(lambda: open_checkpoints(self._config))
        on_rank_zero(lambda: check_owner(self._config, self._checkpoints))
        begun = begin_trainer(
            trainer, self._folder, self._checkpoints, accept_changes=accept_changes
        )
        self._saved = begun.checkpoint if begun.is_own else None
        self._number, self._wandb_id = on_rank_zero(lambda: self._begin(begun))
        self._saver = Saver(
            self._checkpoints,
            trainer.engine,
            policy=self._config.checkpoint,
            tokenizer=trainer.data.tokenizer.content,
            attempt=self._number,
            device=trainer.device,
        )

    def run(self) -> Outcome:
        """Takes the steps that are left, and does what is due after each."""
        if self._is_whole:
            log.info("the run has all its steps; raise train.steps, or give another name")
        trackers = Trackers(self._sinks())
        state, reason = "failed", None
        epochs = self._trainer.data.epochs(self._progress.samples)
        try:
            for result in self._trainer.steps(self._stop.is_raised, reducer=self._saver):
                _tell_new_epochs(epochs, result)
                epochs = result.epochs
                self._last = result
                trackers.record("train", result.progress.step, self._numbers(result))
                self._tell_saves(trackers)
                self._tell_skipped(result, trackers)
                self._report(self._folder.write_heartbeat, "running")
                if self._is_due(self._config.validation.every) and not self._must_hurry:
                    with self._trainer.between_steps("validation"):
                        self._validate(trackers)
                if self._is_due(self._config.checkpoint.every) or result.stop:
                    is_last = result.stop or self._is_whole
                    with self._trainer.between_steps("checkpoint"):
                        self._save(is_last=is_last)
                    self._tell_saves(trackers, is_last=is_last)
                if result.stop:
                    break
            state = "finished" if self._is_whole else "stopped"
            reason = None if self._is_whole else f"by {self._stop.described or 'another rank'}"
            self._stop.clear_file()
            if reason is not None:
                log.info("stopped %s; the same command goes on from here", reason)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._end(trackers, state, reason)
        assert self._saved is not None
        return Outcome(state=state, step=self._progress.step, checkpoint=str(self._saved))

    @property
    def _progress(self) -> Progress:
        return self._trainer.progress

    @property
    def _is_whole(self) -> bool:
        return self._progress.step >= self._config.train.steps

    @property
    def _must_hurry(self) -> bool:
        """Whether the run was asked to stop: it may be killed before a validation ends."""
        return self._last is not None and self._last.stop and not self._is_whole

    @property
    def _writes(self) -> bool:
        return dist.get_rank() == 0

    def _is_due(self, every: int) -> bool:
        return self._is_whole or self._progress.step % every == 0

    def _lock(self) -> None:
        self._folder.lock()
        if with_skips(self._config) != self._config:
            raise RunBusyError(
                f"{self._folder.path}: the run was rewound while this attempt started; start it "
                "again"
            )

    def _begin(self, begun: Beginning) -> tuple[int, str]:
        claim_checkpoints(self._config, self._checkpoints)
        number = self._folder.begin_attempt(
            self._config,
            world_size=dist.get_world_size(),
            step=self._progress.step,
            began_with=begun.checkpoint and str(begun.checkpoint),
            after=newest_attempt(self._checkpoints),
            checkpoints=self._checkpoints if self._config.checkpoint.dir else None,
        )
        for folder in begun.unreadable:
            # Left as it is, it would count as the newest when older ones are removed.
            log.warning("%s is now %s", folder, set_aside(folder, f"bad-{number}"))
        try:
            clear_unfinished(self._checkpoints)
        except OSError as error:
            # Saves will say so too; until then the run may well train.
            log.warning("%s was not tidied up: %s", self._checkpoints, error)
        self._report(self._folder.write_status, "running")
        return number, self._folder.wandb_id()

    def _sinks(self) -> list[Tracker]:
        if not self._writes:
            return []
        console = ConsoleTracker(
            steps=self._config.train.steps,
            first_step=self._progress.step,
            log_every=self._config.train.log_every,
        )
        wandb = open_wandb(self._config, self._folder.path, self._wandb_id)
        metrics = MetricsFile(self._folder.metrics, attempt=self._number)
        return [metrics, console, *([wandb] if wandb is not None else [])]

    def _validate(self, trackers: Trackers) -> None:
        if self._trainer.data.validations:
            trackers.record("validation", self._progress.step, self._trainer.validate())

    def _numbers(self, result: StepResult) -> dict[str, float | int]:
        guard = self._trainer.guard
        skipped = {"skipped": 1} if result.skipped is not None else {}
        return {
            **result.losses,
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
            "tokens": result.progress.tokens,
            "samples": result.progress.samples,
            **skipped,
            "skipped_updates": guard.skipped_updates,
            "tokens_per_second": result.tokens_per_second,
            "step_seconds": result.seconds.whole,
            "data_seconds": result.seconds.data,
            "forward_backward_seconds": result.seconds.forward_backward,
            "optimizer_seconds": result.seconds.optimizer,
            **result.extra,
            **{f"epochs/{name}": epochs for name, epochs in result.epochs.items()},
        }

    def _tell_skipped(self, result: StepResult, trackers: Trackers) -> None:
        """Tells of an update that was passed over; too many in a row end the run.

        Raises:
            DivergedError: There were ``guard.stop_after`` in a row.
        """
        if result.skipped is None:
            return
        first, last = result.samples
        samples = f"samples {first} to {last}"
        step, guard = result.progress.step, self._trainer.guard
        log.warning("step %d: the update was passed over: %s (%s)", step, result.skipped, samples)
        if not guard.gives_up:
            return
        count = guard.skipped_in_a_row
        began = step - count + 1
        self._saver.finish()  # To go back to it.
        for saved in self._tell_ended(trackers):
            self._warn("%s", saved.error)
        kept = on_rank_zero(lambda: newest_before(self._checkpoints, began))
        run = shlex.quote(str(self._folder.path))
        raise DivergedError(
            f"step {step}: {count} updates in a row were passed over, the last one because "
            f"{result.skipped} ({samples}); `bigtrain rewind {run} --to {kept} "
            f"--skip-steps {began}:{step}` goes back and leaves their samples out; or lower "
            "optim.learning_rate or raise optim.warmup_steps (with --accept-change optim)"
        )

    def _save(self, *, is_last: bool) -> None:
        state = TrainState(
            step=self._progress.step,
            samples=self._progress.samples,
            tokens=self._progress.tokens,
            optimizer_steps=self._trainer.engine.optimizer_steps,
            data_stages=self._trainer.data.stages,
            config=self._config.model_dump(mode="json"),
            tokenizer_sha256=self._trainer.data.tokenizer.sha256,
            wandb_id=self._wandb_id,
            guard=self._trainer.guard.state,
        )
        goes_on = self._config.checkpoint.asynchronous and not is_last
        self._saver.begin(state, copies=goes_on)
        if not goes_on:
            self._saver.finish()

    def _tell_saves(self, trackers: Trackers, *, is_last: bool = False) -> None:
        """Tells how saves ended.

        Raises:
            SaveError: One failed, and ``checkpoint.on_error`` is ``stop``, or it was the last.
        """
        for saved in self._tell_ended(trackers):
            assert saved.error is not None
            is_the_last = is_last and saved.step == self._progress.step
            if is_the_last or self._config.checkpoint.on_error == "stop":
                raise saved.error
            if self._writes:
                log.error("%s; training goes on (checkpoint.on_error=continue)", saved.error)

    def _tell_ended(self, trackers: Trackers) -> list[Saved]:
        """Tells of the saves that succeeded, and gives those that failed."""
        failed = []
        for saved in self._saver.ended():
            if saved.error is not None:
                failed.append(saved)
                continue
            self._saved = saved.folder
            log.info("saved %s: %s", saved.folder, _render_save(saved))
            trackers.record(
                "checkpoint",
                saved.step,
                {
                    "stall_seconds": saved.stall_seconds,
                    "seconds": saved.seconds,
                    "bytes": saved.bytes,
                },
            )
        return failed

    def _warn(self, line: str, *values: object) -> None:
        """Warns of what all ranks know, once."""
        if self._writes:
            log.warning(line, *values)

    def _report(self, write: Callable[..., None], state: str, reason: str | None = None) -> None:
        """Writes where the run stands; a disk that is full must not hide what happened."""
        if not self._writes:
            return
        try:
            write(
                state=state,
                step=self._progress.step,
                loss=self._last and self._last.loss,
                tokens_per_second=self._last and self._last.tokens_per_second,
                last_checkpoint=self._saved and str(self._saved),
                reason=reason,
            )
        except OSError as error:
            log.warning("status.json was not written: %s", error)

    def _end(self, trackers: Trackers, state: str, reason: str | None) -> None:
        """Notes the end, and waits for nobody until it is noted."""
        # Before the sinks: wandb may take longer than whoever stops the run will wait.
        self._report(self._folder.write_status, state, reason)
        if self._writes:
            try:
                self._folder.end_attempt(
                    self._number, state=state, step=self._progress.step, reason=reason
                )
            except OSError as error:
                log.warning("attempts.jsonl was not written: %s", error)
        trackers.finish(state)
        self._saver.close()


def _render_save(saved: Saved) -> str:
    return (
        f"{saved.bytes / 1e6:,.1f} MB in {saved.seconds:.2f} s, "
        f"of which training waited {saved.stall_seconds:.2f} s"
    )


def _tell_new_epochs(before: Mapping[str, float], now: StepResult) -> None:
    for name, epochs in now.epochs.items():
        if int(epochs) > int(before[name]):
            log.info(
                "step %d: %s was read through; epoch %d begins",
                *(now.progress.step, name, int(epochs) + 1),
            )
