"""Where an attempt records figures (files, terminal, wandb, MLflow), and the figures of a step."""

from collections.abc import Mapping
from typing import Any

from bigtrain.config import RunConfig
from bigtrain.runs.run_folder import RunFolder
from bigtrain.track.console import ConsoleTracker
from bigtrain.track.metrics_file import MetricsFile
from bigtrain.track.mlflow_sink import open_mlflow
from bigtrain.track.tensorboard_sink import open_tensorboard
from bigtrain.track.tracker import Tracker, Trackers
from bigtrain.track.wandb_sink import open_wandb
from bigtrain.train.trainer import StepResult


def open_trackers(
    config: RunConfig, folder: RunFolder, *, attempt: int, wandb_id: str, first_step: int
) -> Trackers:
    """Opens the sinks; only rank 0 calls it.

    Args:
        config: The run.
        folder: The run folder.
        attempt: The attempt's number.
        wandb_id: The run's id in wandb.
        first_step: Steps taken before this attempt.
    """
    console = ConsoleTracker(
        steps=config.train.steps, first_step=first_step, log_every=config.train.log_every
    )
    by_choice = (
        open_wandb(config, folder.path, wandb_id),
        open_tensorboard(config, folder.path, attempt=attempt, first_step=first_step),
        open_mlflow(
            config,
            folder.path,
            metrics=folder.metrics,
            first_step=first_step,
            rewinds=folder.count_rewinds(),
        ),
    )
    sinks: list[Tracker] = [MetricsFile(folder.metrics, attempt=attempt), console]
    return Trackers([*sinks, *(sink for sink in by_choice if sink is not None)])


def rewind_figures(event: Mapping[str, Any]) -> dict[str, float | int]:
    """The figures of a rewind, from its event in ``attempts.jsonl``."""
    skipped = event.get("skipped") or {}
    return {"number": event["number"], "to_step": event["to"], **skipped}


def step_figures(result: StepResult, *, skipped_updates: int) -> dict[str, float | int]:
    """The figures of a step that every sink receives.

    Args:
        result: The step.
        skipped_updates: Number of updates that the run has skipped so far.
    """
    skipped = {} if result.skipped is None else {"skipped": 1}
    return {
        **result.losses,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "tokens": result.progress.tokens,
        "samples": result.progress.samples,
        **skipped,
        "skipped_updates": skipped_updates,
        "tokens_per_second": result.tokens_per_second,
        "step_seconds": result.seconds.total,
        "data_seconds": result.seconds.data,
        "forward_backward_seconds": result.seconds.forward_backward,
        "optimizer_seconds": result.seconds.optimizer,
        **result.extra,
        **{f"epochs/{name}": epochs for name, epochs in result.epochs.items()},
    }
