"""What surrounds the loop: resuming, the run folder, checkpoints, sinks, and a clear end."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bigtrain.checkpoint.format import TrainState, read_state
from bigtrain.checkpoint.saving import find_checkpoint, load_checkpoint, save_checkpoint
from bigtrain.config import RunConfig
from bigtrain.models.initial import fill_initial_values
from bigtrain.track.console import ConsoleTracker
from bigtrain.track.metrics_file import MetricsFile
from bigtrain.track.tracker import Tracker, Trackers
from bigtrain.track.wandb_sink import open_wandb
from bigtrain.train.resume import check_state
from bigtrain.train.run_folder import RunFolder
from bigtrain.train.stop import StopFlag
from bigtrain.train.trainer import Progress, StepResult, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: ``finished`` (all steps taken) or ``stopped`` (asked to, and saved)."""

    state: str
    step: int
    checkpoint: Path


class Attempt:
    """One attempt at a run; the same on every rank, though rank 0 alone writes the run folder."""

    def __init__(self, trainer: Trainer, *, accept_changes: Sequence[str]) -> None:
        """Puts the trainer where the run stands; the run folder is not touched before that.

        Raises:
            ConfigError: The newest checkpoint is of another run.
            CheckpointError: It cannot be read.
        """
        self._trainer = trainer
        self._config: RunConfig = trainer.config
        self._folder = RunFolder(self._config.run_dir)
        self._stage = _data_stage(trainer)
        self._saved: Path | None = None
        self._resume_or_initialize(accept_changes)
        self._writes = dist.get_rank() == 0
        self._number, self._wandb_id = self._begin()

    def run(self) -> Outcome:
        """Takes the steps that are left, and does what is due after each."""
        stop = StopFlag(self._folder.path, watches_file=self._writes)
        trackers = Trackers(self._sinks())
        state, reason = "failed", "an error; see the logs"
        try:
            for result in self._trainer.steps(stop.is_raised):
                trackers.record("train", result.progress.step, _numbers(result))
                self._report("running", result)
                if self._is_due(self._config.validation.every):
                    self._validate(trackers)
                if self._is_due(self._config.checkpoint.every) or result.stop:
                    self._save()
                if result.stop:
                    break
            state = "finished" if self._is_whole else "stopped"
            reason = None if self._is_whole else f"asked to, by {stop.reason or 'another rank'}"
            stop.clear_file()
        finally:
            self._end(trackers, state, reason)
        assert self._saved is not None
        return Outcome(state=state, step=self._progress.step, checkpoint=self._saved)

    @property
    def _progress(self) -> Progress:
        return self._trainer.progress

    @property
    def _is_whole(self) -> bool:
        return self._progress.step >= self._config.train.steps

    def _is_due(self, every: int) -> bool:
        return self._is_whole or self._progress.step % every == 0

    def _resume_or_initialize(self, accept_changes: Sequence[str]) -> None:
        found, passed_over = find_checkpoint(self._folder.checkpoints)
        for line in passed_over:
            log.warning(line)
        if found is None:
            with self._trainer.engine.writable_pieces() as pieces:
                for piece in pieces:
                    fill_initial_values(
                        piece.master,
                        name=piece.name,
                        global_shape=piece.global_shape,
                        offset=piece.offset,
                        model=self._config.model,
                        seed=self._config.seed,
                    )
            return
        state = read_state(found)
        check_state(self._config, state, found, accepted=accept_changes)
        load_checkpoint(found, self._trainer.engine)
        self._trainer.progress = Progress(
            step=state.step, samples=state.samples, tokens=state.tokens
        )
        self._saved = found
        log.info("resumed from %s, at step %d", found, state.step)

    def _begin(self) -> tuple[int, str]:
        box: list[Any] = [None]
        if self._writes:
            number = self._folder.begin_attempt(self._config, world_size=dist.get_world_size())
            box = [(number, self._folder.wandb_id())]
        dist.broadcast_object_list(box, src=0)
        number, wandb_id = box[0]
        return int(number), str(wandb_id)

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
        if self._trainer.data.validation is not None:
            loss = self._trainer.validation_loss()
            trackers.record("validation", self._progress.step, {"loss": loss})

    def _save(self) -> None:
        state = TrainState(
            step=self._progress.step,
            samples=self._progress.samples,
            tokens=self._progress.tokens,
            optimizer_steps=self._trainer.engine.optimizer_steps,
            data_stages=[self._stage],
            config=self._config.model_dump(mode="json"),
            tokenizer_sha256=self._trainer.data.tokenizer.sha256,
            wandb_id=self._wandb_id,
        )
        self._saved = save_checkpoint(
            self._folder.checkpoints,
            self._trainer.engine,
            state,
            tokenizer=self._trainer.data.tokenizer.path,
            attempt=self._number,
        )
        log.info("saved %s", self._saved)

    def _report(self, state: str, result: StepResult) -> None:
        if self._writes:
            self._folder.write_heartbeat(
                state=state,
                step=result.progress.step,
                loss=result.loss,
                tokens_per_second=result.tokens_per_second,
                last_checkpoint=self._saved and str(self._saved),
            )

    def _end(self, trackers: Trackers, state: str, reason: str | None) -> None:
        trackers.finish(state)
        if self._writes:
            step = self._progress.step
            self._folder.write_status(
                state=state,
                step=step,
                reason=reason,
                last_checkpoint=self._saved and str(self._saved),
            )
            self._folder.end_attempt(self._number, state=state, step=step, reason=reason)


def _data_stage(trainer: Trainer) -> dict[str, Any]:
    return {
        "first_sample": 0,
        "corpus": trainer.config.data.train,
        "fingerprint": trainer.data.train.corpus.manifest.fingerprint,
        "sequence_length": trainer.config.data.sequence_length,
        "shuffle": "windows",
    }


def _numbers(result: StepResult) -> dict[str, float | int]:
    return {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "tokens": result.progress.tokens,
        "tokens_per_second": result.tokens_per_second,
        "step_seconds": result.seconds,
        "data_seconds": result.data_seconds,
    }
