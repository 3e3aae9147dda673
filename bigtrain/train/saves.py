"""The checkpoints that an attempt saves: their state, and the report of their results."""

import logging

from bigtrain.checkpoint.saver import Saver, SaveResult
from bigtrain.checkpoint.schema import TrainState
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.track.tracker import Trackers
from bigtrain.train.trainer import Trainer

log = logging.getLogger(__name__)


class Saves:
    """Saves a trainer's state and reports the results; the same on every rank."""

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Folder,
        *,
        attempt: int,
        wandb_id: str,
        started_from: Folder | None,
        is_rank_zero: bool,
    ) -> None:
        """Reads and writes nothing yet.

        Args:
            trainer: The trainer whose state is saved.
            checkpoints: The folder of the run's checkpoints.
            attempt: The attempt's number.
            wandb_id: The run's id in wandb, which each checkpoint keeps.
            started_from: The run's own checkpoint that the attempt resumed from, if it has one.
            is_rank_zero: Whether this rank logs failed saves.
        """
        self._trainer, self._config = trainer, trainer.config
        self._wandb_id, self._is_rank_zero = wandb_id, is_rank_zero
        self.newest = started_from
        """The newest complete checkpoint that the attempt started from or saved."""
        self.saver = Saver(
            checkpoints,
            trainer.engine,
            policy=self._config.checkpoint,
            tokenizer=trainer.data.tokenizer.content,
            attempt=attempt,
            device=trainer.device,
        )

    def save(self, trackers: Trackers, *, is_last: bool) -> None:
        """Saves the current state; an asynchronous save waits only for the one before it.

        Raises:
            SaveError: See `report_ended`.
        """
        with self._trainer.between_steps("checkpoint"):
            continues = self._config.checkpoint.asynchronous and not is_last
            self.saver.begin(self._state(), copies=continues)
            if not continues:
                self.saver.finish()
        self.report_ended(trackers, is_last=is_last)

    def report_ended(self, trackers: Trackers, *, is_last: bool = False) -> None:
        """Reports the saves that have ended since the last call.

        Raises:
            SaveError: A save failed, and ``checkpoint.on_error`` is ``stop`` or the run ends.
        """
        for saved in self._report_successes(trackers):
            assert saved.error is not None
            is_the_last = is_last and saved.step == self._trainer.progress.step
            if is_the_last or self._config.checkpoint.on_error == "stop":
                raise saved.error
            if self._is_rank_zero:
                log.error("%s; training continues (checkpoint.on_error=continue)", saved.error)

    def finish(self, trackers: Trackers) -> None:
        """Waits for the save that is being written; a failure is logged as a warning."""
        self.saver.finish()
        for saved in self._report_successes(trackers):
            if self._is_rank_zero:
                log.warning("%s", saved.error)

    def close(self) -> None:
        """Waits until the files of a failed save are removed."""
        self.saver.close()

    def _state(self) -> TrainState:
        trainer = self._trainer
        return TrainState(
            step=trainer.progress.step,
            samples=trainer.progress.samples,
            tokens=trainer.progress.tokens,
            optimizer_steps=trainer.engine.optimizer_steps,
            data_stages=trainer.data.phase_records,
            config=self._config.model_dump(mode="json"),
            tokenizer_sha256=trainer.data.tokenizer.sha256,
            wandb_id=self._wandb_id,
            guard=trainer.guard.state,
        )

    def _report_successes(self, trackers: Trackers) -> list[SaveResult]:
        """Reports the saves that succeeded, and returns those that failed."""
        failed = []
        for saved in self.saver.pop_results():
            if saved.error is not None:
                failed.append(saved)
                continue
            self.newest = saved.folder
            log.info("saved %s: %s", saved.folder, _render_save(saved))
            figures = {
                "stall_seconds": saved.stall_seconds,
                "seconds": saved.seconds,
                "bytes": saved.bytes,
            }
            trackers.record("checkpoint", saved.step, figures)
        return failed


def _render_save(saved: SaveResult) -> str:
    return (
        f"{saved.bytes / 1e6:,.1f} MB in {saved.seconds:.2f} s, "
        f"of which training waited {saved.stall_seconds:.2f} s"
    )
