"""The MLflow sink: one MLflow run for all attempts of a run folder."""

from pathlib import Path

from bigtrain.config import RunConfig
from bigtrain.track.process_tracker import ProcessTracker, SinkProcess, Start
from bigtrain.track.tracker import Tracker


def open_mlflow(
    config: RunConfig, run_dir: Path, *, metrics: Path, first_step: int, rewinds: int
) -> Tracker | None:
    """Opens the MLflow run in the background.

    Args:
        config: The run's config.
        run_dir: The run folder; the id of its MLflow run is kept there.
        metrics: The run's ``metrics.jsonl``.
        first_step: Steps taken before this attempt.
        rewinds: How often the run was rewound.

    Returns:
        The sink; None if ``track.mlflow`` is not given.
    """
    if config.track.mlflow is None:
        return None
    request = {
        "uri": config.track.mlflow,
        "project": config.track.project,
        "name": config.name,
        "run_dir": str(run_dir.absolute()),
        "metrics": str(metrics.absolute()),
        "first_step": first_step,
        "rewinds": rewinds,
        "config": config.model_dump(mode="json"),
    }

    def open_run(start: Start) -> SinkProcess:
        process = start()
        process.open(request)
        return process

    return ProcessTracker(
        "mlflow",
        module="bigtrain.track.mlflow_process",
        log_file=run_dir / "logs" / "mlflow.log",
        open_run=open_run,
    )
