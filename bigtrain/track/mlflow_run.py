"""Finds or creates the MLflow run of a run folder."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.track.sink_process import Message
from data_tools.files import write_file

ID_FILE = "mlflow_run_id"
"""The file in the run folder that holds the id of its MLflow run."""
REWINDS = "bigtrain.rewinds"
"""Tag: how often the run had been rewound."""
SPLITS = ("train", "validation", "checkpoint")


class ExperimentError(ValueError):
    """The MLflow experiment cannot be used."""


@dataclass(frozen=True, slots=True)
class MlflowRun:
    """An MLflow run."""

    id: str
    newest: dict[str, int]
    """The newest step of each split that it has."""
    is_new: bool = False


def open_run(client: Any, request: Message) -> MlflowRun:
    """Opens the run that the id file names; creates one if there is none, or it was deleted.

    MLflow cannot take points back. So after a rewind to before its newest step a new run begins,
    with the tag ``bigtrain.continues``.

    Args:
        client: An ``MlflowClient``.
        request: ``run_dir``, ``project``, ``name``, ``rewinds`` and ``first_step``.

    Raises:
        ExperimentError: The experiment was deleted.
        MlflowException: The server did not answer, or refused.
    """
    file = Path(request["run_dir"], ID_FILE)
    before = _find_run(client, _read_id(file))
    tags = {"bigtrain.run_folder": request["run_dir"], REWINDS: str(request["rewinds"])}
    if before is not None:
        run_id, newest = before.info.run_id, _newest_steps(before)
        is_rewound = before.data.tags.get(REWINDS, "0") != tags[REWINDS]
        if not is_rewound or max(newest.values(), default=0) <= request["first_step"]:
            client.update_run(run_id, status="RUNNING")
            client.set_tag(run_id, REWINDS, tags[REWINDS])
            return MlflowRun(run_id, newest)
        tags["bigtrain.continues"] = run_id
    created = client.create_run(
        _experiment_id(client, request["project"]), run_name=request["name"], tags=tags
    )
    write_file(file, f"{created.info.run_id}\n".encode())
    if before is not None:
        client.set_tag(before.info.run_id, "bigtrain.continued_by", created.info.run_id)
    return MlflowRun(created.info.run_id, {}, is_new=True)


def flat_params(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the keys of a config with their full paths, and their values as text."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat_params(value, f"{prefix}{key}.")
        else:
            # MLflow accepts fewer characters in older versions.
            yield f"{prefix}{key}", str(value)[:500]


def _read_id(file: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text(encoding="utf-8").strip() or None
    return None


def _find_run(client: Any, run_id: str | None) -> Any:
    """The run of this id; None if there is none, or it was deleted."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.get_http_status_code() in (400, 404):
            return None
        raise
    return None if run.info.lifecycle_stage == "deleted" else run


def _newest_steps(run: Any) -> dict[str, int]:
    steps = {split: run.data.metrics.get(f"{split}/step") for split in SPLITS}
    return {split: int(step) for split, step in steps.items() if step is not None}


def _experiment_id(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # Another run may have created it in the meantime.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise ExperimentError(
            f"the experiment {name!r} was deleted; restore it, or set another track.project"
        )
    return str(found.experiment_id)
